//! The one statement that reads the whole catalog, put together from records.
//!
//! Called by [`super::SchemaFingerprint::read`]; the records stand in the rooms beside it, by subject.

use super::{globals, objects, privileges, relations, remarks, routines, search, types};

/// How one kind of object is read: knowledge as data.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Kind of the objects, as differences name it.
    pub kind: &'static str,
    /// Class of the kind in a report.
    pub class: &'static str,
    /// Oldest major version that has the catalogs.
    pub since: u32,
    /// What must have a row for there to be any such object, as it stands after FROM; absent where the query itself is as quick. Most
    /// databases have no object of most kinds, and planning a query costs as much as asking for it.
    pub(super) needs: Option<&'static str>,
    /// Gives the object's qualified name, its definition, and the object that it falls with, as `kind name`.
    ///
    /// It may read the tables of [`SHARED`]. In braces stand what [`expanded`] writes out.
    pub sql: &'static str,
}

/// Shorthand for a record of every supported version.
pub(super) const fn query(kind: &'static str, class: &'static str, sql: &'static str) -> Query {
    Query { kind, class, since: 15, needs: None, sql }
}

impl Query {
    /// The same, left out where nothing stands there. Objects that the server made itself have ids below 16384.
    pub(super) const fn only_with(self, needs: &'static str) -> Self {
        Self { needs: Some(needs), ..self }
    }
}

/// What most queries need, read once. Schema `fulldress` belongs to the recorder. What belongs to an extension is
/// represented by the extension and its version, and what the server makes along with a type by the type.
const SHARED: &str = "WITH member AS MATERIALIZED (
    SELECT x.classid, x.objid FROM pg_depend x WHERE x.refclassid = 'pg_extension'::regclass AND x.deptype = 'e'
    UNION ALL
    SELECT x.classid, x.objid FROM pg_depend x WHERE x.classid IN ('pg_proc'::regclass, 'pg_cast'::regclass) AND x.deptype = 'i'
), brought AS MATERIALIZED (
    SELECT x.classid, x.objid, 'extension ' || quote_ident(e.extname) AS key FROM pg_depend x JOIN pg_extension e ON e.oid = x.refobjid
    WHERE x.refclassid = 'pg_extension'::regclass AND x.deptype = 'e'
), namespace AS MATERIALIZED (
    SELECT n.oid, quote_ident(n.nspname) AS name, n.nspowner, n.nspacl, n.nspname FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'fulldress')
), relation AS MATERIALIZED (
    SELECT c.*, n.name || '.' || quote_ident(c.relname) AS name, 'schema ' || n.name AS schema_key,
        CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
            WHEN 'c' THEN 'composite type' WHEN 'f' THEN 'foreign table' WHEN 'i' THEN 'index' WHEN 'I' THEN 'index'
            ELSE 'table' END || ' ' || n.name || '.' || quote_ident(c.relname) AS key
    FROM (SELECT p.oid, p.relname, p.relnamespace, p.relkind, p.relowner, p.relacl, p.relpersistence, p.reloptions, p.relam,
            p.reltablespace, p.reltoastrelid, p.relrowsecurity, p.relforcerowsecurity, p.relreplident, p.relispartition,
            p.relispopulated, p.relpartbound, p.reloftype, p.reltype
        FROM pg_class p WHERE p.relkind <> 't') c
    JOIN namespace n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
)";

/// Columns of every table in physical order, and in the order of their names.
const COLUMN_ORDER: &str = "SELECT r.name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
        string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname)
    FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'p', 'f') GROUP BY 1";

/// What stands in place of a kind for rows of [`COLUMN_ORDER`].
pub(super) const ORDER: &str = "column order";

/// Every record, in the order in which a report names the kinds.
pub fn queries() -> impl Iterator<Item = &'static Query> {
    [
        relations::QUERIES,
        objects::QUERIES,
        types::QUERIES,
        routines::QUERIES,
        search::QUERIES,
        globals::QUERIES,
        privileges::QUERIES,
        remarks::QUERIES,
    ]
    .into_iter()
    .flatten()
}

/// What a server is asked first: which of the records' needs are there. The answer is a text that [`statement`] reads.
pub(super) fn question() -> String {
    let needs = queries().filter_map(|query| query.needs);
    let asked: Vec<String> = needs.map(|needs| format!("(EXISTS (SELECT FROM {needs}))::int")).collect();
    format!("SELECT concat({})", asked.join(", "))
}

/// The statement for a server's version and its answer to the question: kind, object, definition, parent of everything.
pub(super) fn statement(major: u32, answer: &str) -> String {
    let mut answers = answer.bytes();
    // Every record that needs something takes its answer, whatever the version; one that is missing counts as there.
    let is_there = |query: &&Query| query.needs.is_none() || answers.next() != Some(b'0');
    let there: Vec<&Query> = queries().filter(is_there).collect();
    let mut parts: Vec<String> =
        there.iter().filter(|query| query.since <= major).map(|query| part(query.kind, query.sql)).collect();
    parts.push(part(ORDER, COLUMN_ORDER));
    format!("{SHARED}\n{}", parts.join("\nUNION ALL\n"))
}

fn part(kind: &str, sql: &str) -> String {
    let sql = expanded(sql);
    format!(
        "SELECT '{kind}'::text, q.object::text, q.definition::text, q.parent::text FROM ({sql}) AS q (object, definition, parent)"
    )
}

/// Writes out what queries share:
/// - `{acl KIND LIST OWNER}`: privileges, sorted; those that nobody ever granted are the server's default;
/// - `{sorted LIST}`: sorted;
/// - `{options LIST}`: the same without those that begin with `pg_`: newer minor versions number what they have written there;
/// - `{masked LIST}`: the same without the values of secrets;
/// - `{own CATALOG ID}`: true for what no extension brought.
fn expanded(sql: &str) -> String {
    let mut written = String::with_capacity(sql.len() * 2);
    let mut rest = sql;
    while let Some((plain, (inside, behind))) =
        rest.split_once('{').and_then(|(plain, after)| Some((plain, after.split_once('}')?)))
    {
        written.push_str(plain);
        written.push_str(&written_out(inside));
        rest = behind;
    }
    written.push_str(rest);
    written
}

fn written_out(shorthand: &str) -> String {
    let words: Vec<&str> = shorthand.split(' ').collect();
    match words.as_slice() {
        ["acl", kind, list, owner] => format!(
            "coalesce((SELECT string_agg(x::text, ', ' ORDER BY x::text COLLATE \"C\") \
             FROM unnest(coalesce({list}, acldefault('{kind}', {owner}))) x), 'nobody')"
        ),
        ["sorted", list] => format!(
            "CASE WHEN {list} IS NOT NULL THEN (SELECT string_agg(x, ', ' ORDER BY x COLLATE \"C\") FROM unnest({list}) x) END"
        ),
        ["options", list] => format!(
            "(SELECT string_agg(x, ', ' ORDER BY x COLLATE \"C\") FROM unnest({list}) x WHERE x NOT LIKE 'pg\\_%')"
        ),
        ["masked", list] => format!(
            "CASE WHEN {list} IS NOT NULL THEN (SELECT string_agg(y, ', ' ORDER BY y COLLATE \"C\") \
             FROM (SELECT CASE WHEN x ~* '^[^=]*(pass|secret|token|key|cred)' THEN regexp_replace(x, '=.*', '=(secret)') ELSE x END \
             FROM unnest({list}) x) z (y)) END"
        ),
        ["own", catalog, id] => format!(
            "NOT EXISTS (SELECT FROM member m WHERE m.classid = '{catalog}'::regclass AND m.objid = {id})"
        ),
        // Nothing that the server would understand: the first read of a changed record finds it.
        _ => format!("{{{shorthand}}}"),
    }
}
