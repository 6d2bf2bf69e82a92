-- Everything about the tables that may be filled, as one document: one round trip, whatever the number of tables.
WITH RECURSIVE relations AS MATERIALIZED (
    SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name, c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'fulldress')
      AND NOT EXISTS (SELECT FROM pg_depend d
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e')
), columns AS MATERIALIZED (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated, a.atthasdef
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid WHERE a.attnum > 0 AND NOT a.attisdropped
), sequences AS MATERIALIZED (
    -- Of an identity column the sequence depends on the column; of a default, the default on the sequence.
    SELECT d.refobjid AS relation, d.refobjsubid AS number, d.objid AS sequence
    FROM pg_depend d JOIN columns a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attidentity <> ''
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
    UNION ALL
    SELECT f.adrelid, f.adnum, d.refobjid
    FROM pg_attrdef f JOIN relations r ON r.oid = f.adrelid
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_sequence s ON s.seqrelid = d.refobjid
), needed(oid) AS (
    SELECT atttypid FROM columns
    UNION
    SELECT inner_type.oid FROM needed JOIN pg_type t ON t.oid = needed.oid
    CROSS JOIN LATERAL (
        SELECT t.typelem WHERE t.typelem <> 0 AND t.typcategory = 'A'
        UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
        UNION ALL SELECT g.rngsubtype FROM pg_range g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) inner_type(oid)
)
SELECT json_build_object(
    'is_superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    'relations', (SELECT coalesce(json_agg(json_build_object(
        'oid', r.oid::int8, 'name', r.name, 'partitioned', r.relkind = 'p',
        'may_have_rows', r.relkind = 'p' OR pg_relation_size(r.oid) > 0,
        'partitions', CASE WHEN r.relkind = 'p' THEN (
            SELECT coalesce(json_agg(pg_get_partition_constraintdef(p.relid) ORDER BY p.relid::regclass::text), '[]')
            FROM pg_partition_tree(r.oid) p WHERE p.isleaf AND p.relid <> r.oid) ELSE '[]' END
    ) ORDER BY r.name), '[]') FROM relations r),
    'columns', (SELECT coalesce(json_agg(json_build_object(
        'relation', a.attrelid::int8, 'number', a.attnum, 'name', a.attname, 'quoted', quote_ident(a.attname),
        'type', a.atttypid::int8, 'modifier', a.atttypmod, 'not_null', a.attnotnull, 'has_default', a.atthasdef,
        'generated', a.attgenerated <> ''
    ) ORDER BY a.attrelid, a.attnum), '[]') FROM columns a),
    'sequences', (SELECT coalesce(json_agg(json_build_object(
        'relation', o.relation::int8, 'column', o.number, 'name', s.seqrelid::regclass::text, 'increment', s.seqincrement,
        'next', coalesce(pg_sequence_last_value(s.seqrelid) + s.seqincrement, s.seqstart)
    )), '[]') FROM sequences o JOIN pg_sequence s ON s.seqrelid = o.sequence),
    'foreign_keys', (SELECT coalesce(json_agg(json_build_object(
        'relation', k.conrelid::int8, 'name', k.conname, 'columns', k.conkey, 'target', k.confrelid::int8,
        'target_name', format('%I.%I', n.nspname, c.relname), 'target_columns', k.confkey,
        'target_quoted', (SELECT json_agg(quote_ident(a.attname) ORDER BY t.place)
            FROM unnest(k.confkey) WITH ORDINALITY AS t(number, place)
            JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = t.number),
        'full', k.confmatchtype = 'f'
    ) ORDER BY k.conrelid, k.conname), '[]')
        FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid
        JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE k.contype = 'f' AND k.conparentid = 0),
    'checks', (SELECT coalesce(json_agg(json_build_object(
        'relation', k.conrelid::int8, 'name', k.conname, 'condition', pg_get_expr(k.conbin, k.conrelid)
    ) ORDER BY k.conrelid, k.conname), '[]')
        FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid WHERE k.contype = 'c'),
    'unique', (SELECT coalesce(json_agg(json_build_object(
        'relation', i.indrelid::int8, 'name', c.relname,
        'columns', (SELECT json_agg(number) FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS number),
        'expressions', pg_get_expr(i.indexprs, i.indrelid), 'predicate', pg_get_expr(i.indpred, i.indrelid),
        'nulls_equal', i.indnullsnotdistinct,
        'operators', (SELECT json_agg(o.oprname ORDER BY e.place)
            FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conexclop) WITH ORDINALITY AS e(operator, place)
            JOIN pg_operator o ON o.oid = e.operator
            WHERE k.conindid = i.indexrelid AND k.contype = 'x')
    ) ORDER BY i.indrelid, i.indisprimary DESC, c.relname), '[]')
        FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indisunique OR i.indisexclusion),
    'types', (SELECT coalesce(json_agg(json_build_object(
        'oid', t.oid::int8, 'name', t.typname, 'kind', t.typtype::text, 'category', t.typcategory::text,
        'element', t.typelem::int8, 'base', t.typbasetype::int8, 'modifier', t.typtypmod, 'not_null', t.typnotnull,
        'subtype', coalesce((SELECT g.rngsubtype::int8 FROM pg_range g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)), 0),
        'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
        'fields', (SELECT json_agg(json_build_object('type', a.atttypid::int8, 'modifier', a.atttypmod) ORDER BY a.attnum)
            FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
        'checks', (SELECT json_agg(json_build_object('name', k.conname, 'condition', pg_get_expr(k.conbin, 0)) ORDER BY k.conname)
            FROM pg_constraint k WHERE t.typtype = 'd' AND k.contypid = t.oid AND k.contype = 'c')
    )), '[]') FROM needed JOIN pg_type t ON t.oid = needed.oid)
)::text
