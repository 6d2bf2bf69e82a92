//! Comments and security labels, on whatever they stand.
//!
//! Read by [`super::catalog`]. Each falls with its object, so the objects bear the names that the other records give them.

use super::catalog::{Query, query};

pub(super) const QUERIES: &[Query] = &[
    query(
        "comment",
        "comment",
        "SELECT r.key, d.description, r.key
        FROM pg_description d JOIN relation r ON r.oid = d.objoid WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0",
    ),
    query(
        "comment",
        "comment",
        "SELECT i.key, d.description, i.key
        FROM pg_description d JOIN relation r ON r.oid = d.objoid JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
        CROSS JOIN LATERAL (SELECT CASE r.relkind WHEN 'c' THEN 'attribute ' WHEN 'v' THEN 'view column ' WHEN 'm' THEN 'view column ' ELSE 'column ' END
            || r.name || '.' || quote_ident(a.attname)) i (key)
        WHERE d.classoid = 'pg_class'::regclass AND d.objsubid > 0",
    ),
    query(
        "comment",
        "comment",
        "SELECT 'constraint ' || r.name || '.' || quote_ident(k.conname), d.description, 'constraint ' || r.name || '.' || quote_ident(k.conname)
        FROM pg_description d JOIN pg_constraint k ON k.oid = d.objoid JOIN relation r ON r.oid = k.conrelid WHERE d.classoid = 'pg_constraint'::regclass",
    )
    .only_with("pg_description WHERE classoid = 'pg_constraint'::regclass AND objoid >= 16384"),
    query(
        "comment",
        "comment",
        "SELECT o.key, d.description, o.key FROM pg_description d JOIN (
            SELECT 'pg_trigger'::regclass AS catalog, t.oid, 'trigger ' || r.name || '.' || quote_ident(t.tgname) AS key FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid
            UNION ALL SELECT 'pg_rewrite'::regclass, w.oid, 'rule ' || r.name || '.' || quote_ident(w.rulename) FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class
            UNION ALL SELECT 'pg_policy'::regclass, p.oid, 'policy ' || r.name || '.' || quote_ident(p.polname) FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
            UNION ALL SELECT 'pg_type'::regclass, t.oid, CASE t.typtype WHEN 'e' THEN 'enum ' WHEN 'd' THEN 'domain ' WHEN 'r' THEN 'range ' WHEN 'c' THEN 'row type ' ELSE 'base type ' END
                || n.name || '.' || quote_ident(t.typname) FROM pg_type t JOIN namespace n ON n.oid = t.typnamespace WHERE {own pg_type t.oid}
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid, 'domain constraint ' || n.name || '.' || quote_ident(t.typname) || '.' || quote_ident(k.conname)
                FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid JOIN namespace n ON n.oid = t.typnamespace WHERE {own pg_type t.oid}
            UNION ALL SELECT 'pg_proc'::regclass, p.oid, CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' ELSE 'function ' END || p.oid::regprocedure
                FROM pg_proc p JOIN namespace n ON n.oid = p.pronamespace WHERE {own pg_proc p.oid}
        ) o ON o.catalog = d.classoid AND o.oid = d.objoid",
    )
    .only_with(
        "pg_description WHERE classoid IN ('pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_type'::regclass,
            'pg_constraint'::regclass, 'pg_proc'::regclass) AND objoid >= 16384",
    ),
    // Objects that the server made itself have ids below 16384; schema public is one that gets comments nevertheless.
    query(
        "comment",
        "comment",
        "SELECT i.key, d.description, i.key FROM pg_description d
        CROSS JOIN LATERAL (SELECT CASE j.type WHEN 'foreign-data wrapper' THEN 'foreign data wrapper' WHEN 'statistics object' THEN 'statistics' ELSE j.type END
            || ' ' || j.identity, j.schema FROM pg_identify_object(d.classoid, d.objoid, d.objsubid) j) i (key, space)
        WHERE d.classoid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass,
                'pg_type'::regclass, 'pg_proc'::regclass)
            AND (d.objoid >= 16384 OR d.classoid IN ('pg_extension'::regclass, 'pg_language'::regclass)
                OR d.classoid = 'pg_namespace'::regclass AND d.objoid IN (SELECT n.oid FROM namespace n))
            AND (d.classoid <> 'pg_subscription'::regclass OR d.objoid IN (SELECT s.oid FROM pg_subscription s
                WHERE s.subdbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())))
            AND i.space IS DISTINCT FROM 'fulldress' AND i.key <> 'schema fulldress' AND i.key !~ '^event trigger fulldress'
            AND NOT EXISTS (SELECT FROM member m WHERE m.classid = d.classoid AND m.objid = d.objoid)",
    ),
    query(
        "comment",
        "comment",
        "SELECT o.key, d.description, o.key FROM pg_shdescription d JOIN (
            SELECT 'pg_database'::regclass AS catalog, b.oid, 'database' AS key FROM pg_database b WHERE b.datname = current_database()
            UNION ALL SELECT 'pg_authid'::regclass, r.oid, 'role ' || quote_ident(r.rolname) FROM pg_roles r WHERE r.rolname !~ '^(pg_|fulldress)'
            UNION ALL SELECT 'pg_tablespace'::regclass, t.oid, 'tablespace ' || quote_ident(t.spcname) FROM pg_tablespace t
        ) o ON o.catalog = d.classoid AND o.oid = d.objoid",
    ),
    query(
        "security label",
        "security label",
        "SELECT format('%s %s by %s', i.type, i.identity, l.provider), l.label, NULL
        FROM pg_seclabel l CROSS JOIN LATERAL pg_identify_object(l.classoid, l.objoid, l.objsubid) i WHERE i.schema IS DISTINCT FROM 'fulldress'",
    )
    .only_with("pg_seclabel"),
    query(
        "security label",
        "security label",
        "SELECT concat_ws(' ', o.key, 'by', l.provider), l.label, o.key FROM pg_shseclabel l JOIN (
            SELECT 'pg_database'::regclass AS catalog, b.oid, 'database' AS key FROM pg_database b WHERE b.datname = current_database()
            UNION ALL SELECT 'pg_authid'::regclass, r.oid, 'role ' || quote_ident(r.rolname) FROM pg_roles r WHERE r.rolname !~ '^(pg_|fulldress)'
        ) o ON o.catalog = l.classoid AND o.oid = l.objoid",
    )
    .only_with("pg_shseclabel"),
];
