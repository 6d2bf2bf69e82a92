-- One look at the locks alone: most looks see what the last one saw. $1: sessions known not to be the package's. $2: the database.
-- The arrival of this statement and the clock after the last row bound the instant at which locks were read.
SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
       coalesce(json_agg(json_build_object(
           'pid', l.pid,
           'locktype', l.locktype,
           'relation', l.relation::bigint,
           'transaction', l.transactionid::text::bigint,
           'classid', l.classid::bigint,
           'objid', l.objid::bigint,
           'objsubid', l.objsubid,
           'vxid', l.virtualtransaction,
           'mode', l.mode,
           'granted', l.granted,
           'wait_since_us', (extract(epoch FROM l.waitstart) * 1000000)::bigint
       ))::text, '[]')
FROM pg_catalog.pg_lock_status() AS l
WHERE l.pid <> pg_catalog.pg_backend_pid()
  AND (l.database IS NULL OR l.database = 0 OR l.database = $2)
  AND (NOT l.granted
       OR l.pid <> ALL ($1::int[])
          AND (l.locktype IN ('advisory', 'virtualxid')
               OR l.locktype = 'relation' AND l.relation >= 16384::oid))
