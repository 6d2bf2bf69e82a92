//! Data digest: how many rows each table has, and a hash of them that depends neither on their order nor on that of
//! the columns.
//!
//! Called by the proofs and by whoever compares two states of a history. What a table lost is counted by
//! [`super::lost`].
//!
//! How a row is hashed stands at [`super::row`]. A table's hash is the sum of its rows' hashes, of 64 bits each, in 128
//! bits, so that it does not overflow. A sum sees duplicates, which an exclusive or does not. Tables with other rows are
//! taken for equal by chance with a probability of about 2⁻⁶⁴, one in 10¹⁹; a longer hash would cost as much again and
//! guard against nothing that happens. It is no protection against somebody who constructs a collision.

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::evidence::Difference;
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, PgConnection, Row};

use super::row::{self, Column, Form, Value};
use super::surroundings::Surroundings;

/// Least work for which the server takes further processes: they cost a millisecond, and a table's pages are read at
/// some ten thousand each second.
const PARALLEL: [(&str, &str); 3] =
    [("parallel_setup_cost", "100"), ("parallel_tuple_cost", "0"), ("min_parallel_table_scan_size", "1MB")];
/// One process, which leaves the rest of the machine to the clients.
const GENTLE: [(&str, &str); 1] = [("max_parallel_workers_per_gather", "0")];
/// Tables in one message to the server: its answer is small, its text is not.
const TABLES_EACH: usize = 200;

/// Every table's columns. Generated columns follow from the others and are left out. A type's own binary form is taken
/// where it is one of the server's types, if it and its elements can be sent and are no names of objects.
const COLUMNS: &str = "SELECT format('%I.%I', n.nspname, c.relname), quote_ident(a.attname), format_type(a.atttypid, NULL),
        CASE WHEN t.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'uuid'::regtype, 'text'::regtype, 'varchar'::regtype) THEN t.typname::text
            WHEN t.oid < 16384 AND t.typsend <> 0 AND t.typtype <> 'c' AND coalesce(e.typsend <> 0, true)
                AND coalesce(e.oid, t.oid)::regtype::text !~ '^(reg|record|\"any\"|pg_)' THEN t.typsend::text
            ELSE '' END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A')
        ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'fulldress')
    ORDER BY 1, a.attname";

/// The tables of a database and their columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// By schema-qualified table, in the order of their names.
    pub(super) tables: BTreeMap<String, Vec<Column>>,
}

impl Columns {
    /// Reads them. Partitions and children are tables of their own; foreign tables and views hold no data.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let script = Surroundings::of(connection).await?.around(&[], COLUMNS);
        let mut columns = Self::default();
        for row in sqlx::raw_sql(AssertSqlSafe(script)).fetch_all(connection).await? {
            // The settings before and after.
            if row.len() != 4 {
                continue;
            }
            let table = columns.tables.entry(row.try_get(0)?).or_default();
            // A table without columns has one row of nothing here.
            if let (Some(name), Some(kind)) = (row.try_get(1)?, row.try_get(2)?) {
                let form: Option<String> = row.try_get(3)?;
                table.push(Column { name, kind, form: Form::of(form.as_deref().unwrap_or_default()) });
            }
        }
        Ok(columns)
    }

    /// Keeps the tables, schema-qualified, of which a condition holds.
    pub fn retain(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.tables.retain(|table, _| wanted(table));
    }

    /// The tables, schema-qualified.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// Columns of a table that are not there any more, or have another type.
    fn unlike(&self, table: &str, now: &[Column]) -> BTreeSet<String> {
        let then = self.tables.get(table).into_iter().flatten();
        then.filter(|column| !now.contains(column)).map(|column| column.name.clone()).collect()
    }
}

/// Rows and content of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TableDigest {
    rows: u64,
    /// A sum, as a decimal number.
    hash: String,
    /// Columns that are gone or have another type than asked for; they are not in the hash.
    unlike: BTreeSet<String>,
}

impl std::fmt::Display for TableDigest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "rows {} hash {}", self.rows, self.hash)?;
        if !self.unlike.is_empty() {
            let unlike: Vec<&str> = self.unlike.iter().map(String::as_str).collect();
            write!(formatter, " without {}", unlike.join(", "))?;
        }
        Ok(())
    }
}

/// Rows and content of tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataDigest {
    /// By schema-qualified table.
    tables: BTreeMap<String, TableDigest>,
}

impl DataDigest {
    /// Reads the given columns of the tables that are there, with all the processes that the server grants.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub async fn read(connection: &mut PgConnection, columns: &Columns) -> Result<Self, sqlx::Error> {
        Self::read_with(connection, columns, &PARALLEL).await
    }

    /// The same with one process, beside clients whose latency is measured.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub async fn read_gently(connection: &mut PgConnection, columns: &Columns) -> Result<Self, sqlx::Error> {
        Self::read_with(connection, columns, &GENTLE).await
    }

    async fn read_with(
        connection: &mut PgConnection,
        columns: &Columns,
        settings: &[(&str, &str)],
    ) -> Result<Self, sqlx::Error> {
        let surroundings = Surroundings::of(connection).await?;
        let now = Columns::read(connection).await?;
        let here: Vec<(&String, &Vec<Column>)> =
            now.tables.iter().filter(|(table, _)| columns.tables.contains_key(*table)).collect();
        let mut tables = BTreeMap::new();
        for some in here.chunks(TABLES_EACH) {
            let wanted = |table: &str, column: &Column| columns.tables[table].contains(column);
            let queries = some.iter().map(|(table, now)| {
                let now: Vec<Value> =
                    now.iter().filter(|column| wanted(table, column)).map(Column::value).collect();
                sum(table, &now)
            });
            let script = surroundings.around(settings, &queries.collect::<Vec<_>>().join(";\n"));
            let mut found = some.iter();
            let mut results = sqlx::raw_sql(AssertSqlSafe(script)).fetch_many(&mut *connection);
            while let Some(result) = results.try_next().await? {
                let Either::Right(row) = result else { continue };
                // The settings before and after.
                if row.len() != 2 {
                    continue;
                }
                let Some((table, now)) = found.next() else { break };
                let digest = TableDigest {
                    rows: row.try_get::<i64, _>(0)?.unsigned_abs(),
                    hash: row.try_get(1)?,
                    unlike: columns.unlike(table, now),
                };
                tables.insert((*table).clone(), digest);
            }
        }
        Ok(Self { tables })
    }

    /// Tables that are not the same any more: other rows, other columns, or gone.
    #[must_use]
    pub fn differing(&self, after: &Self) -> Vec<String> {
        self.differences(after).into_iter().map(|difference| difference.object).collect()
    }

    /// The same with rows and hash of both.
    #[must_use]
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        let unlike = self.tables.iter().filter(|(table, digest)| after.tables.get(*table) != Some(digest));
        unlike
            .map(|(table, digest)| Difference {
                kind: "table".to_owned(),
                object: table.clone(),
                before: Some(digest.to_string()),
                after: after.tables.get(table).map(ToString::to_string),
            })
            .collect()
    }

    /// The tables, schema-qualified, and how many rows each had.
    pub fn rows(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tables.iter().map(|(table, digest)| (table.as_str(), digest.rows))
    }
}

/// Rows of a table, and the sum of their hashes.
fn sum(table: &str, row: &[Value]) -> String {
    let hash = row::hash(row, 1);
    format!("SELECT count(*), coalesce(sum({hash}), 0)::text FROM ONLY {table}")
}
