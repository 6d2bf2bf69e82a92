-- One migrating session at a time: whoever comes second gets 55P03 and is tried again.
DO $$ BEGIN
    IF NOT pg_try_advisory_lock(42) THEN
        RAISE EXCEPTION 'another session migrates' USING ERRCODE = '55P03';
    END IF;
END $$;

-- Better to give up and try again than to let clients queue behind a waiting ALTER TABLE.
SET lock_timeout = '200ms';

ALTER TABLE orders ADD COLUMN IF NOT EXISTS note text;
