DROP SCHEMA IF EXISTS fulldress CASCADE;
CREATE SCHEMA fulldress;
REVOKE ALL ON SCHEMA fulldress FROM PUBLIC;

CREATE FUNCTION fulldress.note() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $note$
DECLARE
    began_us bigint;
    held jsonb;
    advisory jsonb;
    rewritten jsonb;
    dropped jsonb;
BEGIN
    began_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    -- The function behind pg_locks and pg_identify_object read through caches: unlike the views, they leave no
    -- lock behind in the package's transaction.
    SELECT jsonb_agg(jsonb_build_array(l.relation::bigint, o.identity, o.type, l.mode, l.granted))
               FILTER (WHERE l.locktype = 'relation'),
           jsonb_agg(jsonb_build_array(l.classid::bigint, l.objid::bigint, l.objsubid))
               FILTER (WHERE l.locktype = 'advisory' AND l.granted)
    INTO held, advisory
    FROM pg_lock_status() AS l
    LEFT JOIN LATERAL pg_identify_object(1259::oid, l.relation, 0) AS o ON l.locktype = 'relation'
    WHERE l.pid = pg_backend_pid()
      AND (l.locktype = 'advisory' OR (l.locktype = 'relation' AND l.relation >= 16384::oid));
    IF TG_EVENT = 'table_rewrite' THEN
        SELECT jsonb_build_array(pg_event_trigger_table_rewrite_oid()::bigint, o.identity)
        INTO rewritten
        FROM pg_identify_object(1259::oid, pg_event_trigger_table_rewrite_oid(), 0) AS o;
    ELSIF TG_EVENT = 'sql_drop' THEN
        SELECT jsonb_agg(jsonb_build_array(d.objid::bigint, d.object_identity, d.object_type))
        INTO dropped
        FROM pg_event_trigger_dropped_objects() AS d
        WHERE d.classid = 1259::oid AND d.objsubid = 0;
    END IF;
    RAISE LOG 'fulldress:%', jsonb_build_object(
        'event', TG_EVENT,
        'tag', TG_TAG,
        'pid', pg_backend_pid(),
        'txid', pg_current_xact_id_if_assigned()::text,
        'statement_us', (extract(epoch FROM statement_timestamp()) * 1000000)::bigint,
        'began_us', began_us,
        'at_us', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
        'lock_timeout', current_setting('lock_timeout'),
        'statement_timeout', current_setting('statement_timeout'),
        'application', current_setting('application_name'),
        'role', session_user,
        'locks', coalesce(held, '[]'::jsonb),
        'advisory', coalesce(advisory, '[]'::jsonb),
        'rewritten', rewritten,
        'dropped', coalesce(dropped, '[]'::jsonb));
EXCEPTION WHEN OTHERS THEN
    -- The package's statement must not fail because it is watched; the recorder counts this line as a loss.
    RAISE LOG 'fulldress-failed: % in %: %', SQLSTATE, TG_EVENT, SQLERRM;
END
$note$;
REVOKE ALL ON FUNCTION fulldress.note() FROM PUBLIC;

CREATE EVENT TRIGGER fulldress_ddl_start ON ddl_command_start EXECUTE FUNCTION fulldress.note();
CREATE EVENT TRIGGER fulldress_ddl_end ON ddl_command_end EXECUTE FUNCTION fulldress.note();
CREATE EVENT TRIGGER fulldress_rewrite ON table_rewrite EXECUTE FUNCTION fulldress.note();
CREATE EVENT TRIGGER fulldress_drop ON sql_drop EXECUTE FUNCTION fulldress.note();
-- Also for sessions that set session_replication_role = replica, as data loads do.
ALTER EVENT TRIGGER fulldress_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER fulldress_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER fulldress_rewrite ENABLE ALWAYS;
ALTER EVENT TRIGGER fulldress_drop ENABLE ALWAYS;
