//! Rows one by one, each tried until the server takes it: for tables with a condition that is not understood here.
//!
//! Called by `fill` after COPY was refused. Bounded, and what refused last is named.

use sqlx::{AssertSqlSafe, PgConnection};

use super::insert;
use super::plan::Table;
use super::row::{At, Rows};

/// Rows that are tried at most, however many were asked for.
const ROWS_MAX: u64 = 1_000;
/// Attempts for a row while no row was taken, and once some were.
const ATTEMPTS_FIRST: u64 = 200;
const ATTEMPTS: u64 = 40;
/// Rows refused after each other that end it.
const REFUSED_MAX: u64 = 5;

/// What trial gave.
pub(super) struct Tried {
    pub(super) rows: u64,
    /// Why there are not more.
    pub(super) refusal: Option<String>,
}

/// Tries every row of a table.
pub(super) async fn rows(
    connection: &mut PgConnection,
    plans: &Rows<'_>,
    table: &Table,
) -> Result<Tried, sqlx::Error> {
    let wanted = table.rows.min(ROWS_MAX);
    let mut tried = Tried { rows: 0, refusal: None };
    let mut refused = 0;
    let mut values = Vec::new();
    for row in 0..wanted {
        let attempts = if tried.rows == 0 { ATTEMPTS_FIRST } else { ATTEMPTS };
        let mut refusal = None;
        for attempt in 0..attempts {
            plans.row(table, At { row, attempt }, &mut values);
            match sqlx::raw_sql(AssertSqlSafe(insert::one(table, &values))).execute(&mut *connection).await {
                Ok(_) => {
                    refusal = None;
                    break;
                }
                Err(sqlx::Error::Database(error)) => {
                    refusal = Some(sentence(table, error.as_ref()));
                    // Another row helps against wrong data only.
                    if !error
                        .code()
                        .is_some_and(|code| ["22", "23", "P0"].iter().any(|class| code.starts_with(class)))
                    {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        refused = if refusal.is_some() { refused + 1 } else { 0 };
        tried.rows += u64::from(refusal.is_none());
        tried.refusal = refusal.or(tried.refusal);
        if tried.rows == 0 || refused == REFUSED_MAX {
            break;
        }
    }
    if tried.rows == table.rows {
        tried.refusal = None;
    } else if tried.refusal.is_none() {
        tried.refusal = Some(format!("{} is filled by trial, of {ROWS_MAX} rows at most", table.name));
    }
    Ok(tried)
}

/// Why the server refused, with the constraint where it names one.
pub(super) fn sentence(table: &Table, error: &dyn sqlx::error::DatabaseError) -> String {
    match error.constraint() {
        Some(constraint) => {
            format!("no row was found that {constraint} of {} takes: {}", table.name, error.message())
        }
        None => format!("no row was found that {} takes: {}", table.name, error.message()),
    }
}
