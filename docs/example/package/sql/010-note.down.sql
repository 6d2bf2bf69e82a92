DO $$ BEGIN
    IF NOT pg_try_advisory_lock(42) THEN
        RAISE EXCEPTION 'another session migrates' USING ERRCODE = '55P03';
    END IF;
END $$;

SET lock_timeout = '200ms';

ALTER TABLE orders DROP COLUMN IF EXISTS note;
