//! Functions, and what is made of functions: aggregates, operators and their classes, casts, conversions, languages.
//!
//! Read by [`super::catalog`]. Objects without a schema are ours if the server made them after its own: those have ids
//! below 16384, as `pg_dump` reckons too.

use super::catalog::{Query, query};

pub(super) const QUERIES: &[Query] = &[
    query(
        "function",
        "function",
        "SELECT p.oid::regprocedure, pg_get_functiondef(p.oid), 'schema ' || n.name
        FROM pg_proc p JOIN namespace n ON n.oid = p.pronamespace WHERE p.prokind IN ('f', 'w') AND {own pg_proc p.oid}",
    ),
    query(
        "procedure",
        "function",
        "SELECT p.oid::regprocedure, pg_get_functiondef(p.oid), 'schema ' || n.name
        FROM pg_proc p JOIN namespace n ON n.oid = p.pronamespace WHERE p.prokind = 'p' AND {own pg_proc p.oid}",
    )
    .only_with("pg_proc WHERE prokind = 'p' AND oid >= 16384"),
    query(
        "aggregate",
        "function",
        "SELECT p.oid::regprocedure, concat_ws(' ', format('(%s) returns %s kind %s direct %s state %s size %s', pg_get_function_arguments(p.oid),
                pg_get_function_result(p.oid), a.aggkind, a.aggnumdirectargs, format_type(a.aggtranstype, NULL), a.aggtransspace),
            'transition ' || a.aggtransfn::oid::regprocedure, 'final ' || nullif(a.aggfinalfn::oid, 0)::regprocedure,
            'combine ' || nullif(a.aggcombinefn::oid, 0)::regprocedure, 'serial ' || nullif(a.aggserialfn::oid, 0)::regprocedure,
            'deserial ' || nullif(a.aggdeserialfn::oid, 0)::regprocedure,
            format('extra %s modify %s', a.aggfinalextra, a.aggfinalmodify),
            'initial ' || quote_literal(a.agginitval), 'sort ' || nullif(a.aggsortop, 0)::regoperator,
            'moving ' || concat_ws(' ', nullif(a.aggmtransfn::oid, 0)::regprocedure, nullif(a.aggminvtransfn::oid, 0)::regprocedure,
                nullif(a.aggmfinalfn::oid, 0)::regprocedure, format_type(nullif(a.aggmtranstype, 0), NULL), a.aggmtransspace,
                a.aggmfinalextra, a.aggmfinalmodify, quote_literal(a.aggminitval)),
            'parallel', p.proparallel), 'schema ' || n.name
        FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid JOIN namespace n ON n.oid = p.pronamespace WHERE {own pg_proc p.oid}",
    )
    .only_with("pg_proc WHERE prokind = 'a' AND oid >= 16384"),
    query(
        "operator",
        "operator",
        "SELECT i.identity, concat_ws(' ', 'function', o.oprcode::oid::regprocedure, 'returns', format_type(o.oprresult, NULL),
            'commutator ' || nullif(o.oprcom, 0)::regoperator, 'negator ' || nullif(o.oprnegate, 0)::regoperator,
            'restrict ' || nullif(o.oprrest::oid, 0)::regprocedure, 'join ' || nullif(o.oprjoin::oid, 0)::regprocedure,
            CASE WHEN o.oprcanhash THEN 'hashes' END, CASE WHEN o.oprcanmerge THEN 'merges' END), 'schema ' || n.name
        FROM pg_operator o JOIN namespace n ON n.oid = o.oprnamespace
        CROSS JOIN LATERAL pg_identify_object('pg_operator'::regclass, o.oid, 0) i WHERE {own pg_operator o.oid}",
    )
    .only_with("pg_operator WHERE oid >= 16384"),
    query(
        "operator family",
        "operator",
        "SELECT n.name || '.' || quote_ident(f.opfname) || ' USING ' || quote_ident(m.amname), concat_ws('; ', 'family',
            (SELECT string_agg(x, ', ' ORDER BY x COLLATE \"C\") FROM (SELECT concat_ws(' ', 'operator', o.amopstrategy, o.amopopr::regoperator,
                'order by ' || (SELECT quote_ident(s.opfname) FROM pg_opfamily s WHERE s.oid = o.amopsortfamily))
                FROM pg_amop o WHERE o.amopfamily = f.oid) o (x)),
            (SELECT string_agg(x, ', ' ORDER BY x COLLATE \"C\") FROM (SELECT format('function %s (%s, %s) %s', p.amprocnum,
                format_type(p.amproclefttype, NULL), format_type(p.amprocrighttype, NULL), p.amproc::oid::regprocedure)
                FROM pg_amproc p WHERE p.amprocfamily = f.oid) p (x))), 'schema ' || n.name
        FROM pg_opfamily f JOIN namespace n ON n.oid = f.opfnamespace JOIN pg_am m ON m.oid = f.opfmethod WHERE {own pg_opfamily f.oid}",
    )
    .only_with("pg_opfamily WHERE oid >= 16384"),
    query(
        "operator class",
        "operator",
        "SELECT n.name || '.' || quote_ident(c.opcname) || ' USING ' || quote_ident(m.amname), concat_ws(' ', CASE WHEN c.opcdefault THEN 'default' END,
            'for', format_type(c.opcintype, NULL), 'storage ' || format_type(nullif(c.opckeytype, 0), NULL),
            format('family %I.%I', (SELECT s.nspname FROM pg_namespace s WHERE s.oid = f.opfnamespace), f.opfname)), 'schema ' || n.name
        FROM pg_opclass c JOIN namespace n ON n.oid = c.opcnamespace JOIN pg_am m ON m.oid = c.opcmethod
        JOIN pg_opfamily f ON f.oid = c.opcfamily WHERE {own pg_opclass c.oid}",
    )
    .only_with("pg_opclass WHERE oid >= 16384"),
    query(
        "cast",
        "cast",
        "SELECT (pg_identify_object('pg_cast'::regclass, c.oid, 0)).identity,
            concat_ws(' ', 'method', c.castmethod, 'context', c.castcontext, 'function ' || nullif(c.castfunc, 0)::regprocedure), NULL
        FROM pg_cast c WHERE c.oid >= 16384 AND {own pg_cast c.oid}",
    )
    .only_with("pg_cast WHERE oid >= 16384"),
    query(
        "conversion",
        "conversion",
        "SELECT n.name || '.' || quote_ident(c.conname), concat_ws(' ', CASE WHEN c.condefault THEN 'default' END, 'for',
            pg_encoding_to_char(c.conforencoding), 'to', pg_encoding_to_char(c.contoencoding), 'from', c.conproc::oid::regprocedure), 'schema ' || n.name
        FROM pg_conversion c JOIN namespace n ON n.oid = c.connamespace WHERE {own pg_conversion c.oid}",
    )
    .only_with("pg_conversion WHERE oid >= 16384"),
    query(
        "access method",
        "access method",
        "SELECT quote_ident(a.amname), format('type %s handler %s', a.amtype, a.amhandler::oid::regprocedure), NULL
        FROM pg_am a WHERE a.oid >= 16384 AND {own pg_am a.oid}",
    )
    .only_with("pg_am WHERE oid >= 16384"),
    query(
        "language",
        "language",
        "SELECT quote_ident(l.lanname), concat_ws(' ', CASE WHEN l.lanpltrusted THEN 'trusted' END, 'handler ' || nullif(l.lanplcallfoid, 0)::regprocedure,
            'inline ' || nullif(l.laninline, 0)::regprocedure, 'validator ' || nullif(l.lanvalidator, 0)::regprocedure), NULL
        FROM pg_language l WHERE l.lanispl AND {own pg_language l.oid}",
    ),
    query(
        "transform",
        "transform",
        "SELECT (pg_identify_object('pg_transform'::regclass, t.oid, 0)).identity,
            concat_ws(' ', 'from ' || nullif(t.trffromsql::oid, 0)::regprocedure, 'to ' || nullif(t.trftosql::oid, 0)::regprocedure), NULL
        FROM pg_transform t WHERE {own pg_transform t.oid}",
    )
    .only_with("pg_transform"),
];
