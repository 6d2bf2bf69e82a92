//! What stands on relations: constraints, indexes, triggers, rules, policies, statistics.
//!
//! Read by [`super::catalog`].

use super::catalog::{Query, query};

pub(super) const QUERIES: &[Query] = &[
    // - Constraint triggers are among the triggers.
    // - Which column must not be null stands with the column; here only if somebody chose the constraint's name.
    // - Where a foreign key points at a partitioned table, the server keeps copies of it for the partitions.
    // - Who disables all triggers of a table disables its foreign keys.
    query(
        "constraint",
        "constraint",
        "SELECT r.name || '.' || quote_ident(k.conname), concat_ws(' ', pg_get_constraintdef(k.oid),
            CASE WHEN k.coninhcount > 0 AND NOT k.conislocal THEN 'inherited' WHEN k.coninhcount > 0 THEN 'inherited and own' END,
            'triggers ' || g.enabled), r.key
        FROM pg_constraint k JOIN relation r ON r.oid = k.conrelid
        LEFT JOIN (
            SELECT t.tgconstraint, string_agg(DISTINCT t.tgenabled::text, ' ') AS enabled FROM pg_trigger t
            WHERE t.tgisinternal AND t.tgenabled <> 'O' AND t.tgconstraint <> 0 GROUP BY 1) g ON g.tgconstraint = k.oid
        WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND NOT EXISTS (
            SELECT FROM pg_constraint o WHERE o.oid = k.conparentid AND o.conrelid = k.conrelid)
            OR k.contype = 'n' AND k.conname !~ '_not_null[0-9]*$'",
    ),
    query(
        "index",
        "index",
        "SELECT r.name, format('%s valid %s ready %s', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready)
            || concat(CASE WHEN NOT i.indislive THEN ' dropping' END, CASE WHEN i.indisclustered THEN ' clustered' END,
            CASE WHEN i.indisreplident THEN ' replica identity' END,
            ' tablespace ' || CASE WHEN r.reltablespace <> 0 THEN (SELECT quote_ident(s.spcname) FROM pg_tablespace s WHERE s.oid = r.reltablespace) END,
            ' attached to ' || h.inhparent::regclass,
            ' statistics ' || CASE WHEN i.indexprs IS NOT NULL THEN (
                SELECT string_agg(format('%s:%s', a.attnum, a.attstattarget), ' ' ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0) END),
            coalesce('constraint ' || t.name || '.' || quote_ident(k.conname), t.key)
        FROM pg_index i JOIN relation r ON r.oid = i.indexrelid JOIN relation t ON t.oid = i.indrelid
        LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
        LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid",
    ),
    query(
        "trigger",
        "trigger",
        "SELECT r.name || '.' || quote_ident(t.tgname), format('%s enabled %s', pg_get_triggerdef(t.oid), t.tgenabled), r.key
        FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal",
    ),
    query(
        "rule",
        "rule",
        "SELECT r.name || '.' || quote_ident(w.rulename), format('%s enabled %s', pg_get_ruledef(w.oid), w.ev_enabled), r.key
        FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'",
    )
    .only_with("pg_rewrite WHERE rulename <> '_RETURN' AND oid >= 16384"),
    query(
        "policy",
        "policy",
        "SELECT r.name || '.' || quote_ident(p.polname), concat_ws(' ', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
            'for', p.polcmd, 'to', (SELECT string_agg(u.name, ', ' ORDER BY u.name COLLATE \"C\") FROM (
                SELECT CASE o WHEN 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(o)) END FROM unnest(p.polroles) o) u (name)),
            'using (' || pg_get_expr(p.polqual, p.polrelid) || ')', 'check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'), r.key
        FROM pg_policy p JOIN relation r ON r.oid = p.polrelid",
    )
    .only_with("pg_policy"),
    query(
        "statistics",
        "statistics",
        "SELECT n.name || '.' || quote_ident(s.stxname),
            concat_ws(' ', pg_get_statisticsobjdef(s.oid), 'target ' || nullif(s.stxstattarget, -1)::text), r.key
        FROM pg_statistic_ext s JOIN namespace n ON n.oid = s.stxnamespace JOIN relation r ON r.oid = s.stxrelid
        WHERE {own pg_statistic_ext s.oid}",
    )
    .only_with("pg_statistic_ext"),
];
