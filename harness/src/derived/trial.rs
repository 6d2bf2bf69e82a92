//! Whether a derived route works on the data as it is: each is run in a transaction that is rolled back.
//!
//! `derived` leaves out what does not, with the server's own reason: a statement that fails before the upgrade would be blamed on
//! it.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::catalog::Table;
use super::routes::{Parameter, Route, Statement};

/// Rows that a route is tried with; the second time a fresh key must be another one.
const ROWS_TRIED: i64 = 2;

/// Runs the route with rows of its table.
///
/// # Errors
/// The server's own words, or what came instead of a right answer, or that the table has no row to try it with.
pub async fn try_route(connection: &mut PgConnection, table: &Table, route: &Route) -> Result<(), String> {
    let rows = rows(connection, table, route).await.map_err(|error| words(&error))?;
    if rows.is_empty() {
        return Err("no row has a value in every column that it needs".to_owned());
    }
    for (number, row) in rows.iter().enumerate() {
        run(connection, "BEGIN").await?;
        let tried = statements(connection, route, row, &format!("fulldress-{number:016x}")).await;
        run(connection, "ROLLBACK").await?;
        if tried.is_err() {
            // A rollback does not take it back; it may not be there.
            let _ = run(connection, "DEALLOCATE fulldress_trial").await;
        }
        tried?;
    }
    Ok(())
}

async fn statements(
    connection: &mut PgConnection,
    route: &Route,
    row: &BTreeMap<String, String>,
    fresh: &str,
) -> Result<(), String> {
    for statement in &route.statements {
        one(connection, statement, row, fresh).await?;
    }
    // What is checked at the commit only.
    run(connection, "SET CONSTRAINTS ALL IMMEDIATE").await.map(drop)
}

async fn one(
    connection: &mut PgConnection,
    statement: &Statement,
    row: &BTreeMap<String, String>,
    fresh: &str,
) -> Result<(), String> {
    let values: Vec<String> = statement
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Of(column) => literal(row.get(column).map_or("", String::as_str)),
            Parameter::Fresh => literal(fresh),
        })
        .collect();
    run(connection, &format!("PREPARE fulldress_trial AS {}", statement.sql)).await?;
    let call = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
    let count = run(connection, &format!("EXECUTE fulldress_trial{call}")).await?;
    run(connection, "DEALLOCATE fulldress_trial").await?;
    match statement.rows {
        Some(rows) if u64::from(rows) != count => Err(format!("it met {count} rows instead of {rows}")),
        _ => Ok(()),
    }
}

/// Values of the columns that the route takes from its table.
async fn rows(
    connection: &mut PgConnection,
    table: &Table,
    route: &Route,
) -> Result<Vec<BTreeMap<String, String>>, sqlx::Error> {
    let mut columns: Vec<&str> = Vec::new();
    for parameter in route.statements.iter().flat_map(|statement| &statement.parameters) {
        if let Parameter::Of(column) = parameter
            && !columns.contains(&column.as_str())
        {
            columns.push(column);
        }
    }
    let listed: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
    let there: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    let query = format!(
        "SELECT {} FROM {} WHERE {} LIMIT {ROWS_TRIED}",
        if listed.is_empty() { "1".to_owned() } else { listed.join(", ") },
        table.name,
        if there.is_empty() { "true".to_owned() } else { there.join(" AND ") },
    );
    let found = sqlx::query(AssertSqlSafe(query)).fetch_all(connection).await?;
    let named = |row: &sqlx::postgres::PgRow| {
        let one = |(place, column): (usize, &&str)| Ok(((*column).to_owned(), row.try_get(place)?));
        columns.iter().enumerate().map(one).collect()
    };
    found.iter().map(named).collect()
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<u64, String> {
    let ran = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    ran.map(|done| done.rows_affected()).map_err(|error| words(&error))
}

/// What the server said, without what the library puts around.
fn words(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
