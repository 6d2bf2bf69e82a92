//! Background actors: what else lives in production's database and makes a short lock long.
//!
//! The play starts them with the services and stops them with the traffic; nobody is told. Their sessions are the
//! superuser's, which the recorder knows as ours.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use tokio::task::JoinHandle;

use crate::plan;

/// `application_name` of the long reader.
pub const LONG_READER: &str = "background-long-reader";
/// `application_name` of the idle transaction.
pub const IDLE_TRANSACTION: &str = "background-idle-transaction";
/// `application_name` of what keeps the statistics up to date.
pub const ANALYZE: &str = "background-analyze";

/// Pause before a connection that was cut is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Actors that run until they are stopped.
#[derive(Debug)]
pub struct Actors {
    tasks: Vec<JoinHandle<()>>,
    told: Vec<String>,
}

/// One actor: what it does to which relations, again and again.
#[derive(Debug, Clone)]
struct Actor {
    application: &'static str,
    act: Act,
    relations: Vec<String>,
    hold: Duration,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    /// A transaction with one snapshot that has all relations locked for reading, as a dump has.
    Dump,
    /// A transaction that has read and then sits there, as an application has that calls somebody else meanwhile.
    Idle,
    /// ANALYZE of one relation after the other, as autovacuum does it.
    Analyze,
}

impl Actors {
    /// Starts those that the plan wants. `tables` are all of the database. They connect again when
    /// their connections are cut.
    #[must_use]
    pub fn start(options: &PgConnectOptions, plan: &plan::Actors, tables: &[String]) -> Self {
        let actors = actors(plan, tables);
        let told = actors.iter().map(|actor| actor.told(tables)).collect();
        let run = |actor: Actor| {
            let options = options.clone().application_name(actor.application).disable_statement_logging();
            tokio::spawn(async move {
                loop {
                    // A cut connection is expected: the database is restarted and restored under it.
                    let _ = actor.live(&options).await;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            })
        };
        Self { tasks: actors.into_iter().map(run).collect(), told }
    }

    /// What runs, one phrase each.
    #[must_use]
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// Stops them; their connections end with them. What is dropped stops too.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn actors(plan: &plan::Actors, tables: &[String]) -> Vec<Actor> {
    let plan::Actors { long_reader, idle_transaction, analyze } = plan;
    let all = |named: &[String]| if named.is_empty() { tables.to_vec() } else { named.to_vec() };
    let actors = [
        (
            long_reader.enabled,
            LONG_READER,
            Act::Dump,
            all(&long_reader.relations),
            long_reader.hold_ms,
            long_reader.pause_ms,
        ),
        (
            idle_transaction.enabled,
            IDLE_TRANSACTION,
            Act::Idle,
            all(&idle_transaction.relations),
            idle_transaction.hold_ms,
            idle_transaction.pause_ms,
        ),
        (analyze.enabled, ANALYZE, Act::Analyze, all(&analyze.relations), 0, analyze.pause_ms),
    ];
    let wanted =
        actors.into_iter().filter(|(enabled, _, _, relations, ..)| *enabled && !relations.is_empty());
    wanted
        .map(|(_, application, act, relations, hold_ms, pause_ms)| Actor {
            application,
            act,
            relations,
            hold: Duration::from_millis(hold_ms),
            pause: Duration::from_millis(pause_ms),
        })
        .collect()
}

impl Actor {
    fn told(&self, tables: &[String]) -> String {
        let on = if self.relations == tables { "all tables".to_owned() } else { self.relations.join(", ") };
        let (hold_ms, pause_ms) = (self.hold.as_millis(), self.pause.as_millis());
        let cycle_ms = hold_ms + pause_ms;
        match self.act {
            Act::Dump => format!("long reader of {on}, {hold_ms} ms in every {cycle_ms} ms"),
            Act::Idle => format!("idle transaction on {on}, {hold_ms} ms in every {cycle_ms} ms"),
            Act::Analyze => format!("ANALYZE of {on}, one every {pause_ms} ms"),
        }
    }

    /// Acts until the connection is lost.
    async fn live(&self, options: &PgConnectOptions) -> Result<(), sqlx::Error> {
        let mut connection = options.connect().await?;
        if matches!(self.act, Act::Analyze) {
            // As gentle as autovacuum's workers are.
            run(&mut connection, "SET vacuum_cost_delay = '2ms'").await?;
        }
        for turn in 0_usize.. {
            let there = existing(&mut connection, &self.relations).await?;
            match self.act {
                _ if there.is_empty() => {}
                Act::Dump => self.keep_open(&mut connection, &dump(&there)).await?,
                Act::Idle => self.keep_open(&mut connection, &idle(&there)).await?,
                Act::Analyze => {
                    run(&mut connection, &format!("ANALYZE {}", there[turn % there.len()])).await?;
                }
            }
            tokio::time::sleep(self.pause).await;
        }
        Ok(())
    }

    async fn keep_open(
        &self,
        connection: &mut PgConnection,
        statements: &[String],
    ) -> Result<(), sqlx::Error> {
        for statement in statements {
            run(connection, statement).await?;
        }
        tokio::time::sleep(self.hold).await;
        run(connection, "COMMIT").await
    }
}

/// Locked, not scanned: scans would pass for traffic in the statistics that EVID-COVERAGE reads. The snapshot is taken by
/// the first query; the lock alone would not hold back CREATE INDEX CONCURRENTLY.
fn dump(relations: &[String]) -> Vec<String> {
    vec![
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
        format!("LOCK TABLE {} IN ACCESS SHARE MODE", relations.join(", ")),
        "SELECT 1".to_owned(),
    ]
}

/// A query that needs no row scans nothing, and keeps its lock as any other.
fn idle(relations: &[String]) -> Vec<String> {
    let mut statements = vec!["BEGIN".to_owned()];
    statements.extend(relations.iter().map(|relation| format!("SELECT FROM {relation} LIMIT 0")));
    statements
}

/// Those relations that are there: the package may drop and rename them.
async fn existing(connection: &mut PgConnection, relations: &[String]) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL")
        .bind(relations)
        .fetch_all(connection)
        .await
}

async fn run(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(drop)
}
