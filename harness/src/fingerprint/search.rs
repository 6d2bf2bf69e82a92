//! Text search, and foreign data.
//!
//! Read by [`super::catalog`]. Values of options that may be secrets are never read out of the server.

use super::catalog::{Query, query};

pub(super) const QUERIES: &[Query] = &[
    query(
        "text search parser",
        "text search",
        "SELECT n.name || '.' || quote_ident(p.prsname), concat_ws(' ', 'start', p.prsstart::oid::regprocedure, 'token', p.prstoken::oid::regprocedure,
            'end', p.prsend::oid::regprocedure, 'types', p.prslextype::oid::regprocedure, 'headline ' || nullif(p.prsheadline::oid, 0)::regprocedure),
            'schema ' || n.name
        FROM pg_ts_parser p JOIN namespace n ON n.oid = p.prsnamespace WHERE {own pg_ts_parser p.oid}",
    )
    .only_with("pg_ts_parser WHERE oid >= 16384"),
    query(
        "text search template",
        "text search",
        "SELECT n.name || '.' || quote_ident(t.tmplname), concat_ws(' ', 'lexize', t.tmpllexize::oid::regprocedure,
            'init ' || nullif(t.tmplinit::oid, 0)::regprocedure), 'schema ' || n.name
        FROM pg_ts_template t JOIN namespace n ON n.oid = t.tmplnamespace WHERE {own pg_ts_template t.oid}",
    )
    .only_with("pg_ts_template WHERE oid >= 16384"),
    query(
        "text search dictionary",
        "text search",
        "SELECT n.name || '.' || quote_ident(d.dictname), concat_ws(' ', format('template %I.%I', s.nspname, t.tmplname), 'options ' || d.dictinitoption),
            'schema ' || n.name
        FROM pg_ts_dict d JOIN namespace n ON n.oid = d.dictnamespace JOIN pg_ts_template t ON t.oid = d.dicttemplate
        JOIN pg_namespace s ON s.oid = t.tmplnamespace WHERE {own pg_ts_dict d.oid}",
    )
    .only_with("pg_ts_dict WHERE oid >= 16384"),
    query(
        "text search configuration",
        "text search",
        "SELECT n.name || '.' || quote_ident(c.cfgname), concat_ws('; ', format('parser %I.%I', s.nspname, p.prsname), (
                SELECT string_agg(format('%s to %s', m.alias, m.dictionaries), ', ' ORDER BY m.alias COLLATE \"C\") FROM (
                    SELECT t.alias, string_agg(m.mapdict::regdictionary::text, ' ' ORDER BY m.mapseqno) AS dictionaries
                    FROM pg_ts_config_map m JOIN ts_token_type(c.cfgparser) t ON t.tokid = m.maptokentype
                    WHERE m.mapcfg = c.oid GROUP BY 1) m)), 'schema ' || n.name
        FROM pg_ts_config c JOIN namespace n ON n.oid = c.cfgnamespace JOIN pg_ts_parser p ON p.oid = c.cfgparser
        JOIN pg_namespace s ON s.oid = p.prsnamespace WHERE {own pg_ts_config c.oid}",
    )
    .only_with("pg_ts_config WHERE oid >= 16384"),
    query(
        "foreign data wrapper",
        "foreign data",
        "SELECT quote_ident(f.fdwname), concat_ws(' ', 'wrapper', 'handler ' || nullif(f.fdwhandler, 0)::regprocedure,
            'validator ' || nullif(f.fdwvalidator, 0)::regprocedure, 'options ' || {masked f.fdwoptions}), NULL
        FROM pg_foreign_data_wrapper f WHERE {own pg_foreign_data_wrapper f.oid}",
    )
    .only_with("pg_foreign_data_wrapper"),
    query(
        "server",
        "foreign data",
        "SELECT quote_ident(s.srvname), concat_ws(' ', 'wrapper', quote_ident(f.fdwname), 'type ' || quote_literal(s.srvtype),
            'version ' || quote_literal(s.srvversion), 'options ' || {masked s.srvoptions}), 'foreign data wrapper ' || quote_ident(f.fdwname)
        FROM pg_foreign_server s JOIN pg_foreign_data_wrapper f ON f.oid = s.srvfdw WHERE {own pg_foreign_server s.oid}",
    )
    .only_with("pg_foreign_server"),
    // The view, since the catalog itself is for superusers.
    query(
        "user mapping",
        "foreign data",
        "SELECT format('%s on %I', CASE u.umuser WHEN 0 THEN 'public' ELSE quote_ident(u.usename) END, u.srvname),
            concat_ws(' ', 'mapping', 'options ' || {masked u.umoptions}), 'server ' || quote_ident(u.srvname) FROM pg_user_mappings u",
    )
    .only_with("pg_foreign_server"),
];
