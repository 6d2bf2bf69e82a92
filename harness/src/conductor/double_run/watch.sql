-- One look at the package's sessions. $1: the runners' source addresses, $2: the lock table.
WITH locks AS MATERIALIZED (
    SELECT * FROM pg_catalog.pg_lock_status()
), activity AS MATERIALIZED (
    SELECT s.pid, s.application_name, s.state, s.query,
           coalesce(host(s.client_addr), CASE WHEN s.client_port = -1 THEN '[local]' END) AS address
    FROM pg_catalog.pg_stat_activity AS s
    WHERE s.datname = current_database() AND s.backend_type = 'client backend' AND s.pid <> pg_backend_pid()
)
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
       coalesce(json_agg(json_build_object(
           'pid', a.pid,
           'address', a.address,
           'step', a.application_name,
           'busy', a.state <> 'idle',
           'query', left(a.query, 4000),
           'keys', (SELECT coalesce(json_agg(json_build_array(l.classid::bigint, l.objid::bigint, l.objsubid)), '[]')
                    FROM locks AS l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'advisory'),
           'table_modes', (SELECT coalesce(json_agg(l.mode), '[]') FROM locks AS l
                           WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation'
                             AND l.relation = to_regclass($2)),
           'wait', (SELECT json_build_object(
                        'locktype', l.locktype,
                        'relation', CASE WHEN l.relation IS NOT NULL THEN l.relation::regclass::text END,
                        'on_table', l.locktype = 'relation' AND l.relation = to_regclass($2),
                        'key', CASE WHEN l.locktype = 'advisory'
                                    THEN json_build_array(l.classid::bigint, l.objid::bigint, l.objsubid) END,
                        'since_us', (extract(epoch FROM l.waitstart) * 1000000)::bigint,
                        'blockers', to_json(pg_catalog.pg_blocking_pids(a.pid)))
                    FROM locks AS l WHERE l.pid = a.pid AND NOT l.granted LIMIT 1)
       ))::text, '[]')
FROM activity AS a
WHERE a.address = ANY ($1::text[])
