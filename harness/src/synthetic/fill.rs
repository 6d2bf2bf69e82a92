//! Fills every empty table: catalog, plan, rows, sequences.
//!
//! Called by whoever has a schema without data; the room's entrance. Foreign keys are right by construction, so that the server's
//! triggers need not run where the role may switch them off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::task::JoinSet;

use super::catalog;
use super::encode::quote;
use super::keys::SKEW;
use super::plan::{Plan, Source, State, Table, plan};
use super::row::Rows;
use super::{FillError, Filled, FilledTable, Request, copy, trial};

/// Rows of one COPY; below it a second writer gains nothing.
const SHARE: u64 = 20_000;
/// Texts as this module reads and writes them; the mirror's data is disposable, so that no commit waits for the disk.
const SETTINGS: &str = "SET jit = off; SET synchronous_commit = off; SET client_min_messages = error; SET statement_timeout = 0; \
    SET lock_timeout = 0; SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; \
    SET bytea_output = hex; SET standard_conforming_strings = on; SET extra_float_digits = 1";
/// No trigger of the application, no check of a foreign key.
const UNWATCHED: &str = "SET session_replication_role = replica";

/// Fills every empty ordinary or partitioned table outside the server's own schemas, `fulldress` and extensions. Tables that have rows
/// are left alone, and their keys are used.
///
/// # Errors
/// When the server does not let us in, or a connection breaks. A table that cannot be filled is told in [`Filled`].
pub async fn fill(server: &PgConnectOptions, request: &Request) -> Result<Filled, FillError> {
    let mut connection = connect(server).await?;
    let catalog = catalog::read(&mut connection).await?;
    let has_rows = catalog::with_rows(&mut connection, &catalog.relations).await?;
    let mut state =
        State { empty: has_rows.iter().map(|has_rows| !has_rows).collect(), keys: BTreeMap::new() };
    for key in &catalog.foreign_keys {
        if state.is_to_fill(&catalog, key.relation) && !state.is_to_fill(&catalog, key.target) {
            let keys = catalog::keys(&mut connection, key).await?;
            state.keys.insert((key.relation, key.name.clone()), keys);
        }
    }
    if catalog.is_superuser {
        execute(&mut connection, UNWATCHED).await?;
    }
    let mut writer = Writer {
        server,
        unwatched: catalog.is_superuser,
        count: request.writers.max(1),
        sequences: Vec::new(),
    };
    let mut filled: BTreeMap<usize, FilledTable> = BTreeMap::new();
    let mut current = Arc::new(plan(&catalog, &state, request));
    while let Some(place) = current.order.iter().copied().find(|place| !filled.contains_key(place)) {
        let (outcome, was_tried) = writer.fill(&mut connection, &current, place).await?;
        filled.insert(place, outcome);
        if was_tried {
            // What refers to it must be planned anew, from the rows that there are.
            let oid = catalog.relations[place].oid;
            state.empty[place] = false;
            for key in catalog.foreign_keys.iter().filter(|key| key.target == oid) {
                let keys = catalog::keys(&mut connection, key).await?;
                state.keys.insert((key.relation, key.name.clone()), keys);
            }
            current = Arc::new(plan(&catalog, &state, request));
        }
    }
    writer.advance_sequences(&mut connection).await?;
    let mut tables: Vec<FilledTable> = filled.into_values().collect();
    tables.sort_by(|left, right| left.relation.cmp(&right.relation));
    let _closed = connection.close().await;
    Ok(Filled { tables, skew: f64::from(SKEW) })
}

async fn connect(server: &PgConnectOptions) -> Result<PgConnection, FillError> {
    let mut connection = server.connect().await.map_err(FillError::server("connect"))?;
    execute(&mut connection, SETTINGS).await?;
    Ok(connection)
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), FillError> {
    let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    statement.execute(connection).await.map(drop).map_err(FillError::server("prepare the session"))
}

/// Writes tables one after the other, a large one through several connections.
struct Writer<'a> {
    server: &'a PgConnectOptions,
    unwatched: bool,
    count: usize,
    /// Calls that set sequences past what was written.
    sequences: Vec<String>,
}

impl Writer<'_> {
    /// Fills one table of a plan; whether its rows are others than the plan's.
    async fn fill(
        &mut self,
        connection: &mut PgConnection,
        plan: &Arc<Plan>,
        place: usize,
    ) -> Result<(FilledTable, bool), FillError> {
        let Some(table) = &plan.tables[place] else {
            return Ok((FilledTable { relation: String::new(), rows: 0, unfilled: None }, false));
        };
        let mut outcome =
            FilledTable { relation: table.name.clone(), rows: 0, unfilled: table.shortfall.clone() };
        if table.rows == 0 {
            return Ok((outcome, false));
        }
        match self.copy(connection, plan, place).await? {
            Ok(()) => {
                outcome.rows = table.rows;
                self.sequences.extend(sequences(table, |_, last| last.to_string()));
                Ok((outcome, false))
            }
            Err(refusal) => {
                let rows = Rows { tables: &plan.tables };
                let tried = trial::insert(connection, &rows, table).await;
                let tried = tried.map_err(FillError::server("write rows one by one"))?;
                outcome.rows = tried.rows;
                outcome.unfilled = tried.refusal.or(outcome.unfilled).filter(|_| tried.rows < table.rows);
                if tried.rows > 0 {
                    let largest = |column: &str, _| format!("(SELECT max({column}) FROM {})", table.name);
                    self.sequences.extend(sequences(table, largest));
                } else if outcome.unfilled.is_none() {
                    outcome.unfilled = Some(refusal);
                }
                Ok((outcome, true))
            }
        }
    }

    /// Writes all rows with COPY; the inner error is the server's refusal, after which the table is empty again.
    async fn copy(
        &self,
        connection: &mut PgConnection,
        plan: &Arc<Plan>,
        place: usize,
    ) -> Result<Result<(), String>, FillError> {
        let Some(table) = &plan.tables[place] else { return Ok(Ok(())) };
        let shares = table.rows.div_ceil(SHARE);
        let count = self.count.min(usize::try_from(shares).unwrap_or(usize::MAX));
        if count == 1 {
            let rows = Rows { tables: &plan.tables };
            return match copy::copy(connection, &rows, table, 0..table.rows).await {
                Ok(_) => Ok(Ok(())),
                Err(sqlx::Error::Database(error)) => Ok(Err(trial::sentence(table, error.as_ref()))),
                Err(error) => Err(FillError::server("write rows")(error)),
            };
        }
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(write_shares(
                self.server.clone(),
                self.unwatched,
                Arc::clone(plan),
                place,
                Arc::clone(&next),
            ));
        }
        let mut refusal = None;
        while let Some(ended) = tasks.join_next().await {
            if let Some(sentence) = ended?? {
                refusal = Some(sentence);
            }
        }
        let Some(refusal) = refusal else { return Ok(Ok(())) };
        execute(connection, &format!("DELETE FROM {}", table.name)).await?;
        Ok(Err(refusal))
    }

    async fn advance_sequences(&self, connection: &mut PgConnection) -> Result<(), FillError> {
        if self.sequences.is_empty() {
            return Ok(());
        }
        execute(connection, &format!("SELECT {}", self.sequences.join(", "))).await
    }
}

/// Takes shares of a table's rows until there is none; the sentence of a refusal.
async fn write_shares(
    server: PgConnectOptions,
    unwatched: bool,
    plan: Arc<Plan>,
    place: usize,
    next: Arc<AtomicU64>,
) -> Result<Option<String>, FillError> {
    let Some(table) = &plan.tables[place] else { return Ok(None) };
    let mut connection = connect(&server).await?;
    if unwatched {
        execute(&mut connection, UNWATCHED).await?;
    }
    let rows = Rows { tables: &plan.tables };
    loop {
        let start = next.fetch_add(SHARE, Ordering::Relaxed);
        if start >= table.rows {
            break;
        }
        match copy::copy(&mut connection, &rows, table, start..(start + SHARE).min(table.rows)).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => {
                // The others need not begin another share.
                next.store(table.rows, Ordering::Relaxed);
                return Ok(Some(trial::sentence(table, error.as_ref())));
            }
            Err(error) => return Err(FillError::server("write rows")(error)),
        }
    }
    let _closed = connection.close().await;
    Ok(None)
}

/// Calls that set a table's sequences to the last value written, as `last` words it.
fn sequences(table: &Table, last: impl Fn(&str, i64) -> String) -> Vec<String> {
    let columns = table.columns.iter();
    columns
        .filter_map(|column| match &column.source {
            Source::Sequence { name, first, step } => {
                let written = first.saturating_add(step.saturating_mul(table.rows as i64 - 1));
                Some(format!("setval({}, {})", quote(name), last(&column.quoted, written)))
            }
            _ => None,
        })
        .collect()
}
