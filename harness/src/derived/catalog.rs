//! What traffic is derived from: tables with their columns, keys, foreign keys and indexes, as the catalog has them.
//!
//! `derived::routes` makes statements of it; nothing here knows what a route is.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, Row};

/// A table that clients can read and write: an ordinary or a partitioned one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Schema-qualified, quoted where SQL needs it.
    pub name: String,
    /// Rows, counted.
    pub rows: u64,
    /// In the order of their names.
    pub columns: Vec<Column>,
    /// Columns of the primary key, in its order; else of the first unique index whose columns are all NOT NULL.
    pub key: Vec<String>,
    /// Every unique index that is not partial and has plain columns only, with its columns; the key's too.
    pub unique: Vec<Vec<String>>,
    /// Unique or exclusion rules that no copy of a row can be made to keep: an expression, a predicate, an exclusion.
    pub unusual: Option<String>,
    /// Columns of each foreign key.
    pub foreign_keys: Vec<Vec<String>>,
    /// Leading column of every valid B-tree index that is no expression.
    pub indexed: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Quoted where SQL needs it.
    pub name: String,
    /// As SQL writes it, with its modifier.
    pub sql_type: String,
    /// Category of the type's base type: `N` number, `S` text, `U` user-defined, `D` date or time, …
    pub category: char,
    /// Base type's name, such as `int4`, `uuid`, `text`.
    pub base: String,
    /// Longest text in characters, where the type has a limit.
    pub length_max: Option<u32>,
    /// How the server fills it by itself.
    pub filled: Filled,
    /// The sequence that belongs to it, as `currval` takes it.
    pub sequence: Option<String>,
}

/// How the server fills a column that an INSERT leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// It does not, or with NULL or a constant.
    Not,
    /// From a sequence, an identity.
    Sequence,
    /// With a random UUID.
    Uuid,
    /// It is generated, and an INSERT may not name it.
    Generated,
}

impl Table {
    /// The column of a name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Schemas and tables that are nobody's: the server's, the rehearsal's, an extension's, and migrators' own.
const TABLES: &str = "
    SELECT c.oid::int8, format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'fulldress')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 2";

const COLUMNS: &str = "
    SELECT a.attrelid::int8, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), b.typcategory::text, b.typname::text,
        CASE WHEN b.typname IN ('varchar', 'bpchar') AND coalesce(nullif(t.typtypmod, -1), a.atttypmod) > 4
             THEN coalesce(nullif(t.typtypmod, -1), a.atttypmod) - 4 END,
        CASE WHEN a.attgenerated <> '' THEN 'generated'
             WHEN a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~ 'nextval\\(' THEN 'sequence'
             WHEN pg_get_expr(d.adbin, d.adrelid) ~* 'uuid' THEN 'uuid' ELSE 'not' END,
        pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY 1, 2";

const INDEXES: &str = "
    SELECT i.indrelid::int8, i.indisunique, i.indisprimary, i.indisexclusion, i.indpred IS NOT NULL, i.indexprs IS NOT NULL,
        coalesce((SELECT array_agg(quote_ident(a.attname) ORDER BY k.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.place <= i.indnkeyatts), '{}'),
        coalesce((SELECT bool_and(a.attnotnull) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.place <= i.indnkeyatts), false),
        x.relname::text, i.indkey[0] > 0 AND m.amname = 'btree'
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam WHERE i.indisvalid AND i.indrelid >= 16384
    ORDER BY 1, i.indisprimary DESC, i.indnkeyatts, x.relname";

const FOREIGN_KEYS: &str = "
    SELECT k.conrelid::int8, array_agg(quote_ident(a.attname) ORDER BY c.place)
    FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS c(attnum, place)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.attnum
    WHERE k.contype = 'f' AND k.conparentid = 0 GROUP BY k.oid, k.conrelid ORDER BY 1, 2";

/// Reads every table of the connection's database.
///
/// # Errors
/// When the catalog or a table cannot be read.
pub async fn read(connection: &mut PgConnection) -> Result<Vec<Table>, sqlx::Error> {
    let mut tables: BTreeMap<i64, Table> = BTreeMap::new();
    for row in sqlx::query(TABLES).fetch_all(&mut *connection).await? {
        let name: String = row.try_get(1)?;
        let table = Table {
            name,
            rows: 0,
            columns: Vec::new(),
            key: Vec::new(),
            unique: Vec::new(),
            unusual: None,
            foreign_keys: Vec::new(),
            indexed: Vec::new(),
        };
        tables.insert(row.try_get(0)?, table);
    }
    for row in sqlx::query(COLUMNS).fetch_all(&mut *connection).await? {
        if let Some(table) = tables.get_mut(&row.try_get::<i64, _>(0)?) {
            table.columns.push(column(&row)?);
        }
    }
    for row in sqlx::query(INDEXES).fetch_all(&mut *connection).await? {
        if let Some(table) = tables.get_mut(&row.try_get::<i64, _>(0)?) {
            index(table, &row)?;
        }
    }
    for row in sqlx::query(FOREIGN_KEYS).fetch_all(&mut *connection).await? {
        if let Some(table) = tables.get_mut(&row.try_get::<i64, _>(0)?) {
            table.foreign_keys.push(row.try_get(1)?);
        }
    }
    let mut tables: Vec<Table> = tables.into_values().collect();
    tables.sort_by(|left, right| left.name.cmp(&right.name));
    for table in &mut tables {
        let query = format!("SELECT count(*) FROM {}", table.name);
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *connection).await?;
        table.rows = rows.unsigned_abs();
    }
    Ok(tables)
}

fn column(row: &sqlx::postgres::PgRow) -> Result<Column, sqlx::Error> {
    let category: String = row.try_get(3)?;
    let length_max: Option<i32> = row.try_get(5)?;
    let filled: String = row.try_get(6)?;
    Ok(Column {
        name: row.try_get(1)?,
        sql_type: row.try_get(2)?,
        category: category.chars().next().unwrap_or('X'),
        base: row.try_get(4)?,
        length_max: length_max.and_then(|length| u32::try_from(length).ok()),
        filled: match filled.as_str() {
            "generated" => Filled::Generated,
            "sequence" => Filled::Sequence,
            "uuid" => Filled::Uuid,
            _ => Filled::Not,
        },
        sequence: row.try_get(7)?,
    })
}

fn index(table: &mut Table, row: &sqlx::postgres::PgRow) -> Result<(), sqlx::Error> {
    let (unique, primary, exclusion): (bool, bool, bool) =
        (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    let (partial, expression): (bool, bool) = (row.try_get(4)?, row.try_get(5)?);
    let columns: Vec<String> = row.try_get(6)?;
    let not_null: bool = row.try_get(7)?;
    let name: String = row.try_get(8)?;
    let ordered: bool = row.try_get(9)?;
    if let Some(first) = columns.first().filter(|first| ordered && !table.indexed.contains(first)) {
        table.indexed.push(first.clone());
    }
    if exclusion {
        table.unusual = Some(format!("the exclusion constraint {name}"));
    } else if unique && (partial || expression) {
        table.unusual = Some(format!("the unique index {name} with an expression or a condition"));
    } else if unique {
        if primary || table.key.is_empty() && not_null {
            table.key.clone_from(&columns);
        }
        table.unique.push(columns);
    }
    Ok(())
}
