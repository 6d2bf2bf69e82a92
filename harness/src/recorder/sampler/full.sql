-- One sample with who holds and waits. $1: the package's roles, $2: its source addresses.
-- The arrival of this statement and the clock after the last row bound the instant at which locks were read.
WITH locks AS MATERIALIZED (
    SELECT * FROM pg_catalog.pg_lock_status()
), everyone AS MATERIALIZED (
    SELECT s.pid, s.backend_start, s.usename, s.application_name, s.backend_type, s.query, s.query_start,
           coalesce(s.datname = current_database(), false) AS here,
           coalesce(s.datname = current_database()
                    AND (s.usename = ANY ($1::text[])
                         OR coalesce(host(s.client_addr), CASE WHEN s.client_port = -1 THEN '[local]' END)
                            = ANY ($2::text[])), false) AS package
    FROM pg_catalog.pg_stat_activity AS s
    WHERE s.pid <> pg_catalog.pg_backend_pid()
), wanted AS (
    SELECT a.*, l.locktype, l.relation, l.transactionid, l.classid, l.objid, l.objsubid, l.virtualtransaction,
           l.mode, l.granted, l.waitstart
    FROM everyone AS a
    LEFT JOIN locks AS l
        ON l.pid = a.pid
       AND (l.database IS NULL OR l.database = 0
            OR l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
       AND (NOT l.granted OR l.locktype IN ('advisory', 'virtualxid')
            OR (l.locktype = 'relation' AND l.relation >= 16384::oid))
    WHERE (a.package OR NOT coalesce(l.granted, true)
           -- In which order clients take relations.
           OR l.locktype = 'relation' AND a.backend_type = 'client backend'
              AND a.application_name NOT LIKE 'fulldress-%')
      AND a.here AND a.backend_start IS NOT NULL
      -- A parallel worker locks nothing that its leader does not hold, and belongs to the leader's statement.
      AND a.backend_type <> 'parallel worker'
)
SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
       coalesce(json_agg(json_build_object(
           'pid', w.pid,
           'start_s', floor(extract(epoch FROM w.backend_start))::bigint,
           'role', w.usename,
           'application', w.application_name,
           'package', coalesce(w.package, false),
           'client', coalesce(w.backend_type = 'client backend', false),
           'locktype', w.locktype,
           'relation', w.relation::bigint,
           'transaction', w.transactionid::text::bigint,
           'classid', w.classid::bigint,
           'objid', w.objid::bigint,
           'objsubid', w.objsubid,
           'vxid', w.virtualtransaction,
           'mode', w.mode,
           'granted', w.granted,
           'wait_since_us', (extract(epoch FROM w.waitstart) * 1000000)::bigint,
           -- Waits on relations are attributed by relation and mode; this question stops the lock manager.
           'blockers', CASE WHEN NOT w.granted AND w.locktype <> 'relation'
                            THEN to_json(pg_catalog.pg_blocking_pids(w.pid)) END,
           'query', left(w.query, CASE WHEN w.package OR NOT w.granted THEN 4000 ELSE 200 END),
           'query_start_us', (extract(epoch FROM w.query_start) * 1000000)::bigint
       ))::text, '[]'),
       -- A session whose role is not known yet may become the package's.
       (SELECT coalesce(array_agg(e.pid), '{}') FROM everyone AS e
        WHERE (NOT e.package OR e.backend_type = 'parallel worker')
          AND (e.backend_type <> 'client backend' OR e.usename IS NOT NULL))
FROM wanted AS w
