//! What stands beside schemas: extensions, event triggers, replication, settings, and the roles of the server.
//!
//! Read by [`super::catalog`]. Of the database itself the name does not count: a copy has another.

use super::catalog::{Query, query};

pub(super) const QUERIES: &[Query] = &[
    query(
        "extension",
        "extension",
        "SELECT quote_ident(e.extname), format('version %s schema %I', e.extversion, n.nspname), NULL
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace",
    ),
    query(
        "extension dependency",
        "extension",
        "SELECT format('%s %s on %I', i.type, i.identity, e.extname), 'depends', NULL
        FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'",
    ),
    query(
        "event trigger",
        "trigger",
        "SELECT quote_ident(e.evtname), concat_ws(' ', 'on', e.evtevent, 'function', e.evtfoid::regprocedure, 'tags ' || {sorted e.evttags}, 'enabled', e.evtenabled), NULL
        FROM pg_event_trigger e WHERE e.evtname !~ '^fulldress' AND {own pg_event_trigger e.oid}",
    )
    .only_with("pg_event_trigger"),
    query(
        "publication",
        "publication",
        "SELECT quote_ident(p.pubname), concat_ws(' ', 'publishes', CASE WHEN p.puballtables THEN 'all tables' END, CASE WHEN p.pubinsert THEN 'insert' END,
            CASE WHEN p.pubupdate THEN 'update' END, CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END,
            CASE WHEN p.pubviaroot THEN 'via root' END, 'generated columns ' || nullif(to_jsonb(p) ->> 'pubgencols', 'n')), NULL
        FROM pg_publication p",
    )
    .only_with("pg_publication"),
    query(
        "publication table",
        "publication",
        "SELECT format('%s in %I', r.name, p.pubname), concat_ws(' ', 'table', 'columns ' || (
                SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname) FROM pg_attribute a
                WHERE a.attrelid = t.prrelid AND a.attnum = ANY (t.prattrs)),
            'where ' || pg_get_expr(t.prqual, t.prrelid)), 'publication ' || quote_ident(p.pubname)
        FROM pg_publication_rel t JOIN pg_publication p ON p.oid = t.prpubid JOIN relation r ON r.oid = t.prrelid",
    )
    .only_with("pg_publication_rel"),
    query(
        "publication schema",
        "publication",
        "SELECT format('%s in %I', n.name, p.pubname), 'schema', 'publication ' || quote_ident(p.pubname)
        FROM pg_publication_namespace t JOIN pg_publication p ON p.oid = t.pnpubid JOIN namespace n ON n.oid = t.pnnspid",
    )
    .only_with("pg_publication_namespace"),
    // How to connect is for superusers, and may hold a password: it is left out.
    query(
        "subscription",
        "subscription",
        "SELECT quote_ident(s.subname), concat_ws(' ', 'to ' || {sorted s.subpublications}, CASE WHEN s.subenabled THEN 'enabled' ELSE 'disabled' END,
            'slot ' || quote_ident(s.subslotname), 'commit', s.subsynccommit, 'binary', s.subbinary, 'stream', s.substream, 'two phases', s.subtwophasestate,
            'disable on error', s.subdisableonerr), NULL
        FROM pg_subscription s WHERE s.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())",
    )
    .only_with("pg_subscription"),
    query(
        "database",
        "setting",
        "SELECT 'database', concat_ws(' ', 'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
            'collation version ' || (to_jsonb(d) ->> 'datcollversion'),
            'connection limit ' || nullif(d.datconnlimit, -1)::text, 'tablespace', (SELECT quote_ident(t.spcname) FROM pg_tablespace t WHERE t.oid = d.dattablespace)), NULL
        FROM pg_database d WHERE d.datname = current_database()",
    ),
    query(
        "setting",
        "setting",
        "SELECT concat_ws(' ', 'role ' || quote_ident(u.rolname), CASE WHEN s.setdatabase <> 0 THEN 'in this database' END, split_part(x, '=', 1)),
            substr(x, strpos(x, '=') + 1), 'role ' || quote_ident(u.rolname)
        FROM pg_db_role_setting s LEFT JOIN pg_roles u ON u.oid = s.setrole CROSS JOIN unnest(s.setconfig) x
        WHERE coalesce(u.rolname !~ '^fulldress', true)
            AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))",
    )
    .only_with("pg_db_role_setting"),
    query(
        "role",
        "role",
        "SELECT quote_ident(r.rolname), concat_ws(' ', 'role', CASE WHEN r.rolsuper THEN 'superuser' END, CASE WHEN r.rolinherit THEN 'inherit' END,
            CASE WHEN r.rolcreaterole THEN 'createrole' END, CASE WHEN r.rolcreatedb THEN 'createdb' END, CASE WHEN r.rolcanlogin THEN 'login' END,
            CASE WHEN r.rolreplication THEN 'replication' END, CASE WHEN r.rolbypassrls THEN 'bypassrls' END,
            'connection limit ' || nullif(r.rolconnlimit, -1)::text, 'valid until ' || r.rolvaliduntil::text), NULL
        FROM pg_roles r WHERE r.rolname !~ '^(pg_|fulldress)'",
    ),
    query(
        "membership",
        "role",
        "SELECT format('%I in %I', u.rolname, g.rolname), string_agg(concat_ws(' ', 'granted by ' || quote_ident(pg_get_userbyid(m.grantor)),
                CASE WHEN m.admin_option THEN 'admin' END, CASE WHEN to_jsonb(m) ->> 'inherit_option' = 'false' THEN 'no inherit' END,
                CASE WHEN to_jsonb(m) ->> 'set_option' = 'false' THEN 'no set' END), ', ' ORDER BY pg_get_userbyid(m.grantor)), 'role ' || quote_ident(u.rolname)
        FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member JOIN pg_roles g ON g.oid = m.roleid
        WHERE u.rolname !~ '^(pg_|fulldress)' GROUP BY u.rolname, g.rolname",
    ),
];
