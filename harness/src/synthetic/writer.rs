//! Writes planned tables: small ones together, larger ones by COPY, large ones through several connections at once.
//!
//! Called by `fill`, table by table; tells it what was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinSet;

use super::encode::quote;
use super::fill::{UNWATCHED, connect, execute};
use super::plan::{Plan, Source, Table};
use super::row::Rows;
use super::{FillError, FilledTable, copy, indexes, insert, trial};

/// Rows of a table that goes by INSERT.
const SMALL: u64 = 1_000;
/// Rows of tables that go in one round trip.
const TOGETHER: u64 = 10_000;
/// Least rows of one COPY beside others; with fewer a second writer gains nothing.
const SHARE_MIN: u64 = 20_000;

/// Writes tables one after the other, a large one through several connections.
pub(super) struct Writer<'a> {
    server: &'a PgConnectOptions,
    unwatched: bool,
    count: usize,
    /// Calls that set sequences past what was written.
    sequences: Vec<String>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(server: &'a PgConnectOptions, unwatched: bool, count: usize) -> Self {
        Self { server, unwatched, count: count.max(1), sequences: Vec::new() }
    }

    /// The next tables that are small enough to go in one round trip.
    pub(super) fn together(&self, plan: &Plan, waiting: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut rows = 0;
        let rows_of = |place: usize| plan.tables[place].as_ref().map_or(0, |table| table.rows);
        waiting
            .take_while(|place| {
                rows += rows_of(*place);
                rows_of(*place) <= SMALL && rows <= TOGETHER
            })
            .collect()
    }

    /// Fills small tables together; none when the server refused one of them, and so all.
    pub(super) async fn insert(
        &mut self,
        connection: &mut PgConnection,
        plan: &Plan,
        places: &[usize],
    ) -> Result<Option<Vec<(usize, FilledTable)>>, FillError> {
        let rows = Rows { tables: &plan.tables };
        let tables: Vec<(usize, &Table)> =
            places.iter().filter_map(|place| Some((*place, plan.tables[*place].as_ref()?))).collect();
        if tables.is_empty() {
            return Ok(None);
        }
        let statements = tables.iter().filter(|(_, table)| table.rows > 0);
        let sql: Vec<String> = statements.map(|(_, table)| insert::all(&rows, table)).collect();
        match sqlx::raw_sql(AssertSqlSafe(sql.join(";\n"))).execute(connection).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(_)) => return Ok(None),
            Err(error) => return Err(FillError::server("write rows")(error)),
        }
        for (_, table) in tables.iter().filter(|(_, table)| table.rows > 0) {
            self.sequences.extend(sequences(table, |_, last| last.to_string()));
        }
        let outcome = |(place, table): (usize, &Table)| {
            let unfilled = table.shortfall.clone();
            (place, FilledTable { relation: table.name.clone(), rows: table.rows, unfilled })
        };
        Ok(Some(tables.into_iter().map(outcome).collect()))
    }

    /// Fills one table of a plan; whether its rows are others than the plan's.
    pub(super) async fn fill(
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
        match self.write(connection, plan, place).await? {
            Ok(()) => {
                outcome.rows = table.rows;
                self.sequences.extend(sequences(table, |_, last| last.to_string()));
                Ok((outcome, false))
            }
            Err(refusal) => {
                let rows = Rows { tables: &plan.tables };
                let tried = trial::rows(connection, &rows, table).await;
                let tried = tried.map_err(FillError::server("write rows one by one"))?;
                outcome.rows = tried.rows;
                if tried.rows < table.rows {
                    outcome.unfilled = tried.refusal.or(outcome.unfilled);
                }
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

    /// Writes all rows at once; the inner error is the server's refusal, after which the table is empty again.
    async fn write(
        &self,
        connection: &mut PgConnection,
        plan: &Arc<Plan>,
        place: usize,
    ) -> Result<Result<(), String>, FillError> {
        let Some(table) = &plan.tables[place] else { return Ok(Ok(())) };
        if table.rows < SHARE_MIN || table.columns.is_empty() {
            let rows = Rows { tables: &plan.tables };
            let written = if table.rows <= SMALL || table.columns.is_empty() {
                sqlx::raw_sql(AssertSqlSafe(insert::all(&rows, table))).execute(connection).await.map(drop)
            } else {
                copy::copy(connection, &rows, table, 0..table.rows).await.map(drop)
            };
            return match written {
                Ok(()) => Ok(Ok(())),
                Err(sqlx::Error::Database(error)) => Ok(Err(trial::sentence(table, error.as_ref()))),
                Err(error) => Err(FillError::server("write rows")(error)),
            };
        }
        let suspended = if self.unwatched && table.rows >= indexes::LARGE && !table.partitioned {
            Some(indexes::suspend(connection, &table.name).await?)
        } else {
            None
        };
        let mut written = self.write_in_shares(plan, place, table).await;
        if let Some(suspended) = &suspended {
            let rebuilt = suspended.rebuild(connection).await?;
            written = written.map(|written| written.and(rebuilt));
        }
        if let Err(refusal) = written? {
            let only = if table.partitioned { "" } else { "ONLY " };
            execute(connection, &format!("DELETE FROM {only}{}", table.name)).await?;
            if let Some(suspended) = &suspended {
                // An index that was refused is still off; without rows none is refused.
                let _built = suspended.rebuild(connection).await?;
            }
            return Ok(Err(refusal));
        }
        Ok(Ok(()))
    }

    /// Writes through several connections.
    async fn write_in_shares(
        &self,
        plan: &Arc<Plan>,
        place: usize,
        table: &Table,
    ) -> Result<Result<(), String>, FillError> {
        let share = (table.rows / (2 * self.count as u64)).max(SHARE_MIN);
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..self.count {
            let queue = Queue { plan: Arc::clone(plan), place, next: Arc::clone(&next), share };
            tasks.spawn(write_shares(self.server.clone(), self.unwatched, queue));
        }
        let mut refusal = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if let Some(sentence) = ended?? {
                refusal = Err(sentence);
            }
        }
        Ok(refusal)
    }

    /// Sets every sequence past what was written of it.
    pub(super) async fn advance_sequences(&self, connection: &mut PgConnection) -> Result<(), FillError> {
        // A row has 1,664 columns at most.
        for calls in self.sequences.chunks(1_000) {
            execute(connection, &format!("SELECT {}", calls.join(", "))).await?;
        }
        Ok(())
    }
}

/// The shares of a table's rows that nobody has taken yet.
struct Queue {
    plan: Arc<Plan>,
    place: usize,
    /// First row of the next share.
    next: Arc<AtomicU64>,
    /// Rows of a share.
    share: u64,
}

/// Takes shares until there is none; the sentence of a refusal.
async fn write_shares(
    server: PgConnectOptions,
    unwatched: bool,
    queue: Queue,
) -> Result<Option<String>, FillError> {
    let Queue { plan, place, next, share } = queue;
    let Some(table) = &plan.tables[place] else { return Ok(None) };
    let mut connection = connect(&server).await?;
    if unwatched {
        execute(&mut connection, UNWATCHED).await?;
    }
    let rows = Rows { tables: &plan.tables };
    loop {
        let start = next.fetch_add(share, Ordering::Relaxed);
        if start >= table.rows {
            break;
        }
        match copy::copy(&mut connection, &rows, table, start..(start + share).min(table.rows)).await {
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
