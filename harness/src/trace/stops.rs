//! Statements that PostgreSQL refuses inside a transaction let their locks go before anybody can look. They are made to
//! wait: every table that they may touch is held by a session of ours, so that each request stands in the server's lock
//! table for as long as we need to read it. Then that session lets go, one stage at a time.
//!
//! Stage one holds ACCESS EXCLUSIVE, which stops any request. Stage two holds EXCLUSIVE: some look up a table under
//! ACCESS SHARE before they ask for what they need (`expand_vacuum_rel` in PostgreSQL's `vacuum.c`). Stage three holds
//! ROW EXCLUSIVE, which stops a later request for a stronger lock, and the waits for older transactions
//! (`WaitForLockers` in `lmgr.c`) that CREATE INDEX CONCURRENTLY and its kin make between their phases.

use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection};

/// More sessions than this are not taken for one statement: a server has few connections.
pub(super) const STOPPERS_MAX: usize = 24;

/// One table, held.
struct Stopper {
    connection: PgConnection,
    pid: i32,
    /// How many of [`RELEASES`] were sent.
    released: usize,
}

/// What lets go of one stage after the other.
const RELEASES: [&str; 3] = ["ROLLBACK TO second", "ROLLBACK TO third", "COMMIT"];

/// The tables that a statement may touch, held.
pub(super) struct Stops {
    stoppers: Vec<Stopper>,
    clock: Clock,
    /// For how long the statement waited for us, from when that was seen.
    pub(super) held_up_us: u64,
    /// How often it ran into one.
    pub(super) met: usize,
}

impl Stops {
    /// Holds tables. One that cannot be locked (a foreign table, a materialized view) is left out.
    pub(super) async fn hold(options: &PgConnectOptions, tables: &[String]) -> Result<Self, sqlx::Error> {
        let mut stoppers = Vec::new();
        for table in tables.iter().take(STOPPERS_MAX) {
            let mut connection = options.clone().application_name("fulldress trace: stop").connect().await?;
            let pid =
                sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut connection).await?;
            let hold = format!(
                "BEGIN; LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE; \
                 SAVEPOINT third; LOCK TABLE ONLY {table} IN EXCLUSIVE MODE; \
                 SAVEPOINT second; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE"
            );
            match (&mut connection).execute(AssertSqlSafe(hold)).await {
                Ok(_) => stoppers.push(Stopper { connection, pid, released: 0 }),
                Err(sqlx::Error::Database(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { stoppers, clock: Clock::start(), held_up_us: 0, met: 0 })
    }

    /// Lets go, by one stage, whatever the statement waits for.
    pub(super) async fn stopped(&mut self, blockers: &[i32]) -> Result<(), sqlx::Error> {
        for stopper in self.stoppers.iter_mut().filter(|stopper| blockers.contains(&stopper.pid)) {
            let since_us = self.clock.now_us();
            let Some(release) = RELEASES.get(stopper.released) else { continue };
            (&mut stopper.connection).execute(*release).await?;
            stopper.released += 1;
            self.met += 1;
            self.held_up_us += self.clock.now_us().saturating_sub(since_us);
        }
        Ok(())
    }
}
