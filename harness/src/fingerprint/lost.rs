//! Which rows a table lost: the multiset of its rows before against that after, on the columns that were there before.
//!
//! Called for the tables whose digests differ, once the database before and the one after stand side by side.
//!
//! Of each row the servers give 16 bytes, sorted; the two streams are merged as they come, so that nothing is kept here,
//! and on the server a sort of 16 bytes for each row, on disk where it does not fit into its `work_mem`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Ready, ready};

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgQueryResult, PgRow};
use sqlx::{AssertSqlSafe, Either, PgConnection, Row};

use super::data::Columns;
use super::row::{self, Column, Value};
use super::surroundings::Surroundings;

/// Seed of the second hash, away from those of the first.
const SECOND: i64 = 1_000;
/// Memory of the server's sort.
const SORT: [(&str, &str); 1] = [("work_mem", "64MB")];

/// What is not there any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Rows that were there before and are not after, by table; tables that lost none are left out. A row with another
    /// value in any column is a lost row; a column that is gone counts as NULL in every row, and a table that is gone
    /// has lost all its rows.
    pub rows: BTreeMap<String, u64>,
    /// Tables that are not there after.
    pub missing: BTreeSet<String>,
}

/// Counts what the given tables lost.
///
/// Both connections are to databases that nobody writes to meanwhile.
///
/// # Errors
/// When a table cannot be read.
pub async fn lost(
    before: &mut PgConnection,
    after: &mut PgConnection,
    columns: &Columns,
    tables: &[String],
) -> Result<Lost, sqlx::Error> {
    let mut lost = Lost::default();
    let now = Columns::read(after).await?;
    for table in tables {
        let Some(then) = columns.tables.get(table) else { continue };
        let rows = match now.tables.get(table) {
            Some(now) => lost_rows(before, after, table, &pairs(then, now)).await?,
            None => {
                lost.missing.insert(table.clone());
                let query = format!("SELECT count(*) FROM ONLY {table}");
                sqlx::query_scalar::<_, i64>(AssertSqlSafe(query))
                    .fetch_one(&mut *before)
                    .await?
                    .unsigned_abs()
            }
        };
        if rows > 0 {
            lost.rows.insert(table.clone(), rows);
        }
    }
    Ok(lost)
}

/// How each column is written before and after: a type that changed is no loss where the text of the value is the same.
fn pairs(then: &[Column], now: &[Column]) -> (Vec<Value>, Vec<Value>) {
    let pair = |column: &Column| match now.iter().find(|other| other.name == column.name) {
        Some(other) if other == column => (column.value(), other.value()),
        Some(other) => (column.as_text(), other.as_text()),
        None => (column.value(), column.absent()),
    };
    then.iter().map(pair).unzip()
}

async fn lost_rows(
    before: &mut PgConnection,
    after: &mut PgConnection,
    table: &str,
    (then, now): &(Vec<Value>, Vec<Value>),
) -> Result<u64, sqlx::Error> {
    let script = |row: &[Value], surroundings: &Surroundings| {
        let (one, other) = (row::hash(row, 1), row::hash(row, SECOND));
        let sorted = format!("SELECT {one}, {other} FROM ONLY {table} ORDER BY 1, 2");
        surroundings.around(&SORT, &sorted)
    };
    let then = script(then, &Surroundings::of(before).await?);
    let now = script(now, &Surroundings::of(after).await?);
    let mut then = sqlx::raw_sql(AssertSqlSafe(then)).fetch_many(before).try_filter_map(hash);
    let mut now = sqlx::raw_sql(AssertSqlSafe(now)).fetch_many(after).try_filter_map(hash);
    let (mut left, mut right) = (then.try_next().await?, now.try_next().await?);
    let mut lost = 0;
    while let Some(row) = left {
        match right.map_or(Ordering::Less, |other| row.cmp(&other)) {
            Ordering::Less => {
                lost += 1;
                left = then.try_next().await?;
            }
            Ordering::Equal => (left, right) = (then.try_next().await?, now.try_next().await?),
            Ordering::Greater => right = now.try_next().await?,
        }
    }
    // To the ends of both answers: the connections are used again.
    while now.try_next().await?.is_some() {}
    Ok(lost)
}

/// A row's hash, of what the script answers; its settings are no rows.
fn hash(result: Either<PgQueryResult, PgRow>) -> Ready<Result<Option<(i64, i64)>, sqlx::Error>> {
    let pair = |row: PgRow| Ok(Some((row.try_get(0)?, row.try_get(1)?)));
    ready(match result {
        Either::Right(row) if row.len() == 2 => pair(row),
        _ => Ok(None),
    })
}
