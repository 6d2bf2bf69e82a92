//! A package at work: the same steps at the same pace on a server with a recorder and on one without.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Pause after each statement: what a migrator takes between two of them, and room for the clients.
const PAUSE: Duration = Duration::from_millis(20);

/// Rows of the table that only the package uses.
const BACKFILL: &str = "DROP TABLE IF EXISTS bench_backfill; \
    CREATE TABLE bench_backfill AS SELECT g AS id, g AS value FROM generate_series(1, 5000) AS g; \
    ALTER TABLE bench_backfill ADD PRIMARY KEY (id)";

/// One round of an upgrade: short exclusive locks on a table that clients write, batches of a backfill, an index built and
/// dropped, and a transaction that holds a lock while its client thinks.
const ROUND: [&str; 14] = [
    "BEGIN",
    "SET LOCAL lock_timeout = '2s'",
    "ALTER TABLE pgbench_history ALTER COLUMN filler SET DEFAULT 'new'",
    "COMMIT",
    "UPDATE bench_backfill SET value = value + 1 WHERE id BETWEEN 1 AND 200",
    "UPDATE bench_backfill SET value = value + 1 WHERE id BETWEEN 201 AND 400",
    "CREATE INDEX bench_backfill_value ON bench_backfill (value)",
    "DROP INDEX bench_backfill_value",
    "BEGIN",
    "LOCK TABLE bench_backfill IN SHARE ROW EXCLUSIVE MODE",
    "UPDATE bench_backfill SET value = 0 WHERE id BETWEEN 401 AND 600",
    "COMMIT",
    "ALTER TABLE pgbench_history ALTER COLUMN filler DROP DEFAULT",
    "ANALYZE bench_backfill",
];

/// A session of the package that goes on until it is told to stop.
pub(crate) struct Package {
    stop: watch::Sender<bool>,
    task: JoinHandle<u32>,
}

impl Package {
    /// Connects, makes its table and begins.
    pub(crate) async fn start(options: PgConnectOptions) -> Self {
        let mut session = options.connect().await.unwrap();
        session.execute(BACKFILL).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(work(session, stopped)) }
    }

    /// Ends it after a whole round; how many rounds there were.
    pub(crate) async fn stop(self) -> u32 {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

async fn work(mut session: PgConnection, stopped: watch::Receiver<bool>) -> u32 {
    let mut rounds = 0;
    while !*stopped.borrow() {
        for statement in ROUND {
            session.execute(statement).await.unwrap();
            tokio::time::sleep(PAUSE).await;
        }
        rounds += 1;
    }
    session.close().await.unwrap();
    rounds
}
