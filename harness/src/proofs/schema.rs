//! Schema fingerprint: every object of the database with its definition, read from the catalog.
//!
//! Column order is kept apart from the definitions: it comes back differently without any fault. Schema
//! `fulldress` and its event triggers belong to the recorder and are left out.

use std::collections::BTreeMap;

use fulldress_reports::evidence::Difference;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row};

/// A schema as named definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaFingerprint {
    /// Definition by kind and qualified object.
    objects: BTreeMap<(String, String), String>,
    /// Column names in physical order, by table.
    column_order: BTreeMap<String, Vec<String>>,
}

/// Objects that the fingerprint leaves out, as a condition on a `pg_namespace` alias `n`.
const OURS: &str = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'fulldress')";

/// Kind, object and definition of every object; `{ours}` is replaced by [`OURS`].
/// Objects that belong to an extension are represented by the extension and its version.
const QUERIES: &[(&str, &str)] = &[
    (
        "schema",
        "SELECT n.nspname, format('owner %s acl %s', pg_get_userbyid(n.nspowner), n.nspacl) FROM pg_namespace n WHERE {ours}",
    ),
    (
        "table",
        "SELECT format('%I.%I', n.nspname, c.relname), format('%s %s owner %s acl %s options %s row security %s %s replica identity %s partition %s of %s',
            c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(c.relacl) a), c.reloptions, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
            pg_get_expr(c.relpartbound, c.oid), (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid))
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f') AND {ours}",
    ),
    (
        "column",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, a.attname), format('%s collate %s not null %s default %s identity %s generated %s acl %s storage %s statistics %s',
            format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attacl, a.attstorage, nullif(a.attstattarget, -1))
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND {ours}",
    ),
    (
        "constraint",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, k.conname), format('%s validated %s', pg_get_constraintdef(k.oid), k.convalidated)
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}",
    ),
    (
        "index",
        "SELECT format('%I.%I', n.nspname, c.relname), format('%s valid %s options %s clustered %s', pg_get_indexdef(i.indexrelid), i.indisvalid AND i.indisready, c.reloptions, i.indisclustered)
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}",
    ),
    (
        "sequence",
        "SELECT format('%I.%I', n.nspname, c.relname), format('%s start %s min %s max %s by %s cycle %s cache %s owner %s acl %s', format_type(s.seqtypid, NULL), s.seqstart, s.seqmin, s.seqmax, s.seqincrement, s.seqcycle, s.seqcache, pg_get_userbyid(c.relowner), c.relacl)
         FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}",
    ),
    (
        "view",
        "SELECT format('%I.%I', n.nspname, c.relname), format('%s owner %s acl %s options %s %s', c.relkind, pg_get_userbyid(c.relowner), c.relacl, c.reloptions, pg_get_viewdef(c.oid))
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {ours}",
    ),
    (
        "function",
        "SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), format('%s owner %s acl %s', CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prosrc END, pg_get_userbyid(p.proowner), p.proacl)
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE {ours} AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.objid = p.oid AND x.deptype = 'e')",
    ),
    (
        "trigger",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, t.tgname), format('%s enabled %s', pg_get_triggerdef(t.oid), t.tgenabled)
         FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND {ours}",
    ),
    (
        "rule",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, r.rulename), pg_get_ruledef(r.oid)
         FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN' AND {ours}",
    ),
    (
        "policy",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, p.polname), format('%s permissive %s roles %s using %s check %s', p.polcmd, p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
         FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}",
    ),
    (
        "type",
        "SELECT format('%I.%I', n.nspname, t.typname), format('%s owner %s acl %s not null %s default %s base %s labels %s checks %s',
            t.typtype, pg_get_userbyid(t.typowner), t.typacl, t.typnotnull, t.typdefault, format_type(nullif(t.typbasetype, 0), t.typtypmod),
            (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
            (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid))
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE (t.typtype IN ('d', 'e', 'r') OR (t.typtype = 'c' AND (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c')) AND {ours}",
    ),
    ("extension", "SELECT e.extname, format('version %s schema %s', e.extversion, e.extnamespace::regnamespace) FROM pg_extension e"),
    (
        "comment",
        "SELECT pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description
         FROM pg_description d JOIN pg_class c ON d.classoid = 'pg_class'::regclass AND c.oid = d.objoid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}",
    ),
    (
        "statistics",
        "SELECT format('%I.%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {ours}",
    ),
    (
        "privilege",
        "SELECT format('default %s %s %s', pg_get_userbyid(d.defaclrole), coalesce(nullif(d.defaclnamespace, 0)::regnamespace::text, '*'), d.defaclobjtype), d.defaclacl::text FROM pg_default_acl d",
    ),
    ("publication", "SELECT p.pubname, format('all %s %s%s%s%s', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate) FROM pg_publication p"),
    (
        "event trigger",
        "SELECT e.evtname, format('%s %s %s enabled %s', e.evtevent, e.evtfoid::regproc, e.evttags, e.evtenabled) FROM pg_event_trigger e WHERE e.evtname !~ '^fulldress'",
    ),
    (
        "setting",
        "SELECT format('%s in %s', coalesce(nullif(s.setrole, 0)::regrole::text, 'all roles'), coalesce((SELECT datname FROM pg_database WHERE oid = s.setdatabase), 'all databases')), array_to_string(s.setconfig, ', ')
         FROM pg_db_role_setting s WHERE s.setrole = 0 OR s.setrole::regrole::text !~ '^fulldress'",
    ),
];

/// Column order of every table.
const COLUMN_ORDER: &str =
    "SELECT format('%I.%I', n.nspname, c.relname), array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND {ours} GROUP BY 1";

impl SchemaFingerprint {
    /// Reads the schema of the connection's database.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mut fingerprint = Self::default();
        for (kind, query) in QUERIES {
            let query = query.replace("{ours}", OURS);
            for row in sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut *connection).await? {
                let object: String = row.try_get(0)?;
                let definition: Option<String> = row.try_get(1)?;
                fingerprint.objects.insert(((*kind).to_owned(), object), definition.unwrap_or_default());
            }
        }
        let query = COLUMN_ORDER.replace("{ours}", OURS);
        for row in sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(connection).await? {
            fingerprint.column_order.insert(row.try_get(0)?, row.try_get(1)?);
        }
        Ok(fingerprint)
    }

    /// SHA-256 over all definitions, hexadecimal; column order does not count.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for ((kind, object), definition) in &self.objects {
            for part in [kind, object, definition] {
                digest.update(part.as_bytes());
                digest.update([0]);
            }
        }
        hex(&digest.finalize())
    }

    /// Differences from `self` to `after`, named object by object.
    #[must_use]
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        differences(&self.objects, &after.objects)
    }

    /// Tables with the same columns in another order.
    #[must_use]
    pub fn order_only(&self, after: &Self) -> Vec<String> {
        let sorted = |columns: &[String]| {
            let mut columns = columns.to_vec();
            columns.sort();
            columns
        };
        self.column_order
            .iter()
            .filter(|(table, columns)| {
                after
                    .column_order
                    .get(*table)
                    .is_some_and(|other| other != *columns && sorted(other) == sorted(columns))
            })
            .map(|(table, _)| table.clone())
            .collect()
    }
}

/// Differences between two states of named things of a kind.
#[must_use]
pub fn differences(
    before: &BTreeMap<(String, String), String>,
    after: &BTreeMap<(String, String), String>,
) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| Difference {
            kind: key.0.clone(),
            object: key.1.clone(),
            before: before.get(key).cloned(),
            after: after.get(key).cloned(),
        })
        .collect()
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
