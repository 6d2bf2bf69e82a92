//! Background actors: what else lives in production's database and makes a short lock long.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::task::JoinHandle;

use crate::plan::LongReader;

/// `application_name` of the long reader.
pub const LONG_READER: &str = "background-long-reader";

/// Actors that run until they are stopped.
pub struct Actors {
    tasks: Vec<JoinHandle<()>>,
}

impl Actors {
    /// Starts the long reader: transactions that lock `relations` for reading and then stay open, as a dump does.
    /// It connects again when its connection is cut.
    #[must_use]
    pub fn start(options: PgConnectOptions, reader: &LongReader, relations: &[String]) -> Self {
        let hold = Duration::from_millis(reader.hold_ms);
        let pause = Duration::from_millis(reader.pause_ms);
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", relations.join(", "));
        let options = options.application_name(LONG_READER).disable_statement_logging();
        let task = tokio::spawn(async move {
            loop {
                // A cut connection is expected: the database is restarted and restored under it.
                let _ = read_for_long(&options, &lock, hold, pause).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { tasks: vec![task] }
    }

    /// Stops them; their connections end with them.
    pub fn stop(self) {
        for task in self.tasks {
            task.abort();
        }
    }
}

async fn read_for_long(
    options: &PgConnectOptions,
    lock: &str,
    hold: Duration,
    pause: Duration,
) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    loop {
        let mut transaction =
            connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        // Locked, not scanned: scans would pass for traffic in the statistics that EVID-COVERAGE reads.
        sqlx::query(AssertSqlSafe(lock.to_owned())).execute(&mut *transaction).await?;
        // The snapshot is taken by the first query; the lock alone would not hold back CREATE INDEX CONCURRENTLY.
        sqlx::query("SELECT 1").execute(&mut *transaction).await?;
        tokio::time::sleep(hold).await;
        transaction.commit().await?;
        tokio::time::sleep(pause).await;
    }
}
