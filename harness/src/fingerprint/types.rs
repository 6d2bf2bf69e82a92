//! Types of every sort, and collations.
//!
//! Read by [`super::catalog`]. Types that the server makes by itself (arrays, rows of tables, multiranges) stand with
//! what they were made for.

use super::catalog::{Query, query};

pub(super) const QUERIES: &[Query] = &[
    query(
        "enum",
        "type",
        "SELECT n.name || '.' || quote_ident(t.typname),
            coalesce((SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), ''),
            'schema ' || n.name
        FROM pg_type t JOIN namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e' AND {own pg_type t.oid}",
    )
    .only_with("pg_type WHERE typtype = 'e' AND oid >= 16384"),
    query(
        "domain",
        "type",
        "SELECT n.name || '.' || quote_ident(t.typname), concat_ws(' ', format_type(t.typbasetype, t.typtypmod),
            'collate ' || CASE WHEN t.typcollation <> b.typcollation THEN t.typcollation::regcollation::text END,
            CASE WHEN t.typnotnull THEN 'not null' END, 'default ' || coalesce(pg_get_expr(t.typdefaultbin, 0), t.typdefault)),
            'schema ' || n.name
        FROM pg_type t JOIN namespace n ON n.oid = t.typnamespace JOIN pg_type b ON b.oid = t.typbasetype
        WHERE t.typtype = 'd' AND {own pg_type t.oid}",
    )
    .only_with("pg_type WHERE typtype = 'd' AND oid >= 16384"),
    query(
        "domain constraint",
        "constraint",
        "SELECT n.name || '.' || quote_ident(t.typname) || '.' || quote_ident(k.conname), pg_get_constraintdef(k.oid),
            'domain ' || n.name || '.' || quote_ident(t.typname)
        FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid JOIN namespace n ON n.oid = t.typnamespace
        WHERE (k.contype <> 'n' OR k.conname !~ '_not_null[0-9]*$') AND {own pg_type t.oid}",
    )
    .only_with("pg_type WHERE typtype = 'd' AND oid >= 16384"),
    query(
        "range",
        "type",
        "SELECT n.name || '.' || quote_ident(t.typname), concat_ws(' ', 'of', format_type(r.rngsubtype, NULL),
            'collate ' || nullif(r.rngcollation, 0)::regcollation,
            'operator class ' || (SELECT quote_ident(c.opcname) FROM pg_opclass c WHERE c.oid = r.rngsubopc),
            'canonical ' || nullif(r.rngcanonical, 0)::regprocedure, 'difference ' || nullif(r.rngsubdiff, 0)::regprocedure,
            'multirange ' || format_type(r.rngmultitypid, NULL)), 'schema ' || n.name
        FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid JOIN namespace n ON n.oid = t.typnamespace
        WHERE {own pg_type t.oid}",
    )
    .only_with("pg_type WHERE typtype = 'r' AND oid >= 16384"),
    query(
        "composite type",
        "type",
        "SELECT r.name, 'composite', r.schema_key FROM relation r WHERE r.relkind = 'c'",
    )
    .only_with("pg_class WHERE relkind = 'c' AND oid >= 16384"),
    // Here, other than in tables, the order is part of the definition: values are written by it.
    query(
        "attribute",
        "type",
        "SELECT r.name || '.' || quote_ident(a.attname), concat_ws(' ', format('attribute %s', row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum)),
            format_type(a.atttypid, a.atttypmod),
            'collate ' || CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END), r.key
        FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
        WHERE r.relkind = 'c' AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .only_with("pg_class WHERE relkind = 'c' AND oid >= 16384"),
    query(
        "base type",
        "type",
        "SELECT n.name || '.' || quote_ident(t.typname), concat_ws(' ', CASE WHEN NOT t.typisdefined THEN 'shell' END,
            format('length %s by value %s input %s output %s receive %s send %s modifier in %s out %s analyze %s',
                t.typlen, t.typbyval, t.typinput::oid::regprocedure, t.typoutput::oid::regprocedure, t.typreceive::oid::regprocedure,
                t.typsend::oid::regprocedure, t.typmodin::oid::regprocedure, t.typmodout::oid::regprocedure, t.typanalyze::oid::regprocedure),
            'subscript ' || t.typsubscript::oid::regprocedure,
            format('alignment %s storage %s category %s preferred %s delimiter %s', t.typalign, t.typstorage, t.typcategory, t.typispreferred, t.typdelim),
            'element ' || format_type(nullif(t.typelem, 0), NULL), 'collate ' || nullif(t.typcollation, 0)::regcollation, 'default ' || t.typdefault),
            'schema ' || n.name
        FROM pg_type t JOIN namespace n ON n.oid = t.typnamespace
        WHERE (t.typtype = 'b' OR NOT t.typisdefined) AND {own pg_type t.oid}
            AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)",
    ),
    // The version that the library had when the collation was made belongs to the machine, and the encoding to the database.
    query(
        "collation",
        "collation",
        "SELECT n.name || '.' || quote_ident(c.collname), concat_ws(' ', 'provider', c.collprovider,
            CASE WHEN NOT c.collisdeterministic THEN 'not deterministic' END,
            'collate ' || c.collcollate, 'ctype ' || c.collctype, 'locale ' || coalesce(j ->> 'colllocale', j ->> 'colliculocale'),
            'version ' || c.collversion,
            'rules ' || (j ->> 'collicurules')), 'schema ' || n.name
        FROM pg_collation c JOIN namespace n ON n.oid = c.collnamespace CROSS JOIN LATERAL to_jsonb(c) j
        WHERE {own pg_collation c.oid}",
    )
    .only_with("pg_collation WHERE oid >= 16384"),
];
