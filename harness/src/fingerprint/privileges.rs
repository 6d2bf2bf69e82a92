//! Who owns what, and who may do what with it: objects of their own, so that a lost grant is no change of the table.
//!
//! Read by [`super::catalog`]. A list that was never touched and one that grants just the server's default are equal.

use super::catalog::{Query, query};

const fn privilege(sql: &'static str) -> Query {
    query("privilege", "privilege", sql)
}

pub(super) const QUERIES: &[Query] = &[
    privilege(
        "SELECT 'schema ' || n.name, format('owner %I, %s', pg_get_userbyid(n.nspowner), {acl n n.nspacl n.nspowner}), 'schema ' || n.name
        FROM namespace n WHERE {own pg_namespace n.oid}",
    ),
    privilege(
        "SELECT r.key, format('owner %I, %s', pg_get_userbyid(r.relowner), {acl r r.relacl r.relowner}), r.key
        FROM relation r WHERE r.relkind IN ('r', 'p', 'f', 'v', 'm')",
    ),
    privilege(
        "SELECT r.key, format('owner %I, %s', pg_get_userbyid(r.relowner), {acl s r.relacl r.relowner}), r.key
        FROM relation r WHERE r.relkind = 'S'",
    ),
    privilege(
        "SELECT 'column ' || r.name || '.' || quote_ident(a.attname), {sorted a.attacl::text[]}, CASE WHEN r.relkind IN ('v', 'm') THEN 'view ' ELSE '' END
            || 'column ' || r.name || '.' || quote_ident(a.attname)
        FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid WHERE cardinality(a.attacl) > 0 AND NOT a.attisdropped",
    ),
    privilege(
        "SELECT i.key, format('owner %I, %s', pg_get_userbyid(p.proowner), {acl f p.proacl p.proowner}), i.key
        FROM pg_proc p JOIN namespace n ON n.oid = p.pronamespace
        CROSS JOIN LATERAL (SELECT CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' ELSE 'function ' END || p.oid::regprocedure) i (key)
        WHERE {own pg_proc p.oid}",
    ),
    // Rows of tables are types as well; who may use them was said of nearly none.
    privilege(
        "SELECT i.key, format('owner %I, %s', pg_get_userbyid(t.typowner), {acl T t.typacl t.typowner}), i.key
        FROM pg_type t JOIN namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
        CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'e' THEN 'enum ' WHEN 'd' THEN 'domain ' WHEN 'r' THEN 'range '
            WHEN 'c' THEN CASE c.relkind WHEN 'c' THEN 'composite type ' ELSE 'row type ' END ELSE 'base type ' END
            || n.name || '.' || quote_ident(t.typname)) i (key)
        WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
            OR t.typtype = 'c' AND (c.relkind = 'c' OR t.typacl IS NOT NULL)) AND {own pg_type t.oid}",
    ),
    privilege(
        "SELECT i.key, 'owner ' || quote_ident(pg_get_userbyid(o.owner)), i.key FROM (
            SELECT 'pg_operator'::regclass AS catalog, o.oid, 'operator ' || (pg_identify_object('pg_operator'::regclass, o.oid, 0)).identity AS key, o.oprowner AS owner, o.oprnamespace AS space
                FROM pg_operator o JOIN namespace s ON s.oid = o.oprnamespace
            UNION ALL SELECT 'pg_opclass'::regclass, c.oid, format('operator class %s.%I USING %I', c.opcnamespace::regnamespace, c.opcname, m.amname), c.opcowner, c.opcnamespace
                FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod
            UNION ALL SELECT 'pg_opfamily'::regclass, f.oid, format('operator family %s.%I USING %I', f.opfnamespace::regnamespace, f.opfname, m.amname), f.opfowner, f.opfnamespace
                FROM pg_opfamily f JOIN pg_am m ON m.oid = f.opfmethod
            UNION ALL SELECT 'pg_conversion'::regclass, c.oid, format('conversion %s.%I', c.connamespace::regnamespace, c.conname), c.conowner, c.connamespace FROM pg_conversion c
            UNION ALL SELECT 'pg_collation'::regclass, c.oid, format('collation %s.%I', c.collnamespace::regnamespace, c.collname), c.collowner, c.collnamespace FROM pg_collation c
            UNION ALL SELECT 'pg_ts_dict'::regclass, d.oid, format('text search dictionary %s.%I', d.dictnamespace::regnamespace, d.dictname), d.dictowner, d.dictnamespace FROM pg_ts_dict d
            UNION ALL SELECT 'pg_ts_config'::regclass, c.oid, format('text search configuration %s.%I', c.cfgnamespace::regnamespace, c.cfgname), c.cfgowner, c.cfgnamespace FROM pg_ts_config c
            UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, format('statistics %s.%I', s.stxnamespace::regnamespace, s.stxname), s.stxowner, s.stxnamespace FROM pg_statistic_ext s
        ) o JOIN namespace n ON n.oid = o.space CROSS JOIN LATERAL (SELECT o.key) i (key)
        WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = o.catalog AND m.objid = o.oid)",
    )
    .only_with(
        "pg_operator WHERE oid >= 16384 UNION ALL SELECT FROM pg_opclass WHERE oid >= 16384
            UNION ALL SELECT FROM pg_opfamily WHERE oid >= 16384 UNION ALL SELECT FROM pg_conversion WHERE oid >= 16384
            UNION ALL SELECT FROM pg_collation WHERE oid >= 16384 UNION ALL SELECT FROM pg_ts_dict WHERE oid >= 16384
            UNION ALL SELECT FROM pg_ts_config WHERE oid >= 16384 UNION ALL SELECT FROM pg_statistic_ext",
    ),
    privilege(
        "SELECT o.key, 'owner ' || quote_ident(pg_get_userbyid(o.owner)), o.key FROM (
            SELECT 'extension ' || quote_ident(e.extname) AS key, e.extowner AS owner FROM pg_extension e
            UNION ALL SELECT 'publication ' || quote_ident(p.pubname), p.pubowner FROM pg_publication p
            UNION ALL SELECT 'subscription ' || quote_ident(s.subname), s.subowner FROM pg_subscription s
                WHERE s.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            UNION ALL SELECT 'event trigger ' || quote_ident(e.evtname), e.evtowner FROM pg_event_trigger e
                WHERE e.evtname !~ '^fulldress' AND {own pg_event_trigger e.oid}) o",
    ),
    privilege(
        "SELECT 'language ' || quote_ident(l.lanname), format('owner %I, %s', pg_get_userbyid(l.lanowner), {acl l l.lanacl l.lanowner}),
            coalesce(e.key, 'language ' || quote_ident(l.lanname))
        FROM pg_language l LEFT JOIN brought e ON e.classid = 'pg_language'::regclass AND e.objid = l.oid",
    ),
    privilege(
        "SELECT i.key, format('owner %I, %s', pg_get_userbyid(f.fdwowner), {acl F f.fdwacl f.fdwowner}), i.key
        FROM pg_foreign_data_wrapper f CROSS JOIN LATERAL (SELECT 'foreign data wrapper ' || quote_ident(f.fdwname)) i (key)
        WHERE {own pg_foreign_data_wrapper f.oid}",
    )
    .only_with("pg_foreign_data_wrapper"),
    privilege(
        "SELECT i.key, format('owner %I, %s', pg_get_userbyid(s.srvowner), {acl S s.srvacl s.srvowner}), i.key
        FROM pg_foreign_server s CROSS JOIN LATERAL (SELECT 'server ' || quote_ident(s.srvname)) i (key)
        WHERE {own pg_foreign_server s.oid}",
    )
    .only_with("pg_foreign_server"),
    privilege(
        "SELECT 'database', format('owner %I, %s', pg_get_userbyid(d.datdba), {acl d d.datacl d.datdba}), NULL
        FROM pg_database d WHERE d.datname = current_database()",
    ),
    // The server's parameters and tablespaces, if anybody granted anything on them.
    privilege("SELECT 'parameter ' || p.parname, {sorted p.paracl::text[]}, NULL FROM pg_parameter_acl p")
    .only_with("pg_parameter_acl"),
    privilege(
        "SELECT 'tablespace ' || quote_ident(t.spcname), format('owner %I, %s', pg_get_userbyid(t.spcowner), {acl t t.spcacl t.spcowner}), NULL
        FROM pg_tablespace t WHERE t.spcname !~ '^pg_' OR t.spcacl IS NOT NULL",
    ),
    // Large objects are data; here are those that somebody granted something on.
    privilege(
        "SELECT 'large object ' || l.oid, format('owner %I, %s', pg_get_userbyid(l.lomowner), {acl L l.lomacl l.lomowner}), NULL
        FROM pg_largeobject_metadata l WHERE l.lomacl <> acldefault('L', l.lomowner)",
    )
    .only_with("pg_largeobject_metadata"),
    // What the server or an extension brought along, if it was granted otherwise since.
    privilege(
        "SELECT o.key, 'granted ' || o.now, o.parent FROM (
            SELECT 'function ' || p.oid::regprocedure AS key, {acl f p.proacl p.proowner} AS now, {acl f i.initprivs p.proowner} AS then, e.key AS parent
            FROM pg_proc p LEFT JOIN pg_init_privs i ON i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid
            LEFT JOIN brought e ON e.classid = 'pg_proc'::regclass AND e.objid = p.oid
            WHERE (p.proacl IS NOT NULL OR i.initprivs IS NOT NULL) AND (e.key IS NOT NULL OR p.pronamespace = 'pg_catalog'::regnamespace)
            UNION ALL
            SELECT 'relation ' || c.oid::regclass, {acl r c.relacl c.relowner}, {acl r i.initprivs c.relowner}, e.key
            FROM pg_class c LEFT JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0
            LEFT JOIN brought e ON e.classid = 'pg_class'::regclass AND e.objid = c.oid
            WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND (c.relacl IS NOT NULL OR i.initprivs IS NOT NULL)
                AND (e.key IS NOT NULL OR c.relnamespace = 'pg_catalog'::regnamespace)
            UNION ALL
            SELECT 'schema ' || quote_ident(n.nspname), {acl n n.nspacl n.nspowner}, {acl n i.initprivs n.nspowner}, e.key
            FROM pg_namespace n LEFT JOIN pg_init_privs i ON i.classoid = 'pg_namespace'::regclass AND i.objoid = n.oid
            LEFT JOIN brought e ON e.classid = 'pg_namespace'::regclass AND e.objid = n.oid
            WHERE (n.nspacl IS NOT NULL OR i.initprivs IS NOT NULL) AND (e.key IS NOT NULL OR n.nspname = 'pg_catalog')
            UNION ALL
            SELECT 'type ' || format_type(t.oid, NULL), {acl T t.typacl t.typowner}, {acl T i.initprivs t.typowner}, e.key
            FROM pg_type t LEFT JOIN pg_init_privs i ON i.classoid = 'pg_type'::regclass AND i.objoid = t.oid
            LEFT JOIN brought e ON e.classid = 'pg_type'::regclass AND e.objid = t.oid
            WHERE (t.typacl IS NOT NULL OR i.initprivs IS NOT NULL) AND (e.key IS NOT NULL OR t.typnamespace = 'pg_catalog'::regnamespace)
        ) o WHERE o.now <> o.then",
    ),
    query(
        "default privilege",
        "privilege",
        "SELECT concat_ws(' ', 'of role', quote_ident(pg_get_userbyid(d.defaclrole)), 'in schema ' || quote_ident(n.nspname), 'on',
            CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
                WHEN 'n' THEN 'schemas' WHEN 'L' THEN 'large objects' ELSE d.defaclobjtype::text END),
            coalesce({sorted d.defaclacl::text[]}, 'nobody'), 'schema ' || quote_ident(n.nspname)
        FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace WHERE n.nspname IS DISTINCT FROM 'fulldress'",
    )
    .only_with("pg_default_acl"),
];
