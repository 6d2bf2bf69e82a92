//! How the superuser's sessions reach a mirror's database: the same for every kind.

use std::time::Duration;

use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use super::MirrorError;

/// SQLSTATE of a server that starts, recovers or shuts down.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// Pause between two attempts while it does.
const COMING_UP_PAUSE: Duration = Duration::from_millis(25);

/// Connects to a mirror's database; waits for at most `limit` while the server is there and lets nobody in yet: one of its
/// sessions crashed, and it recovers by itself.
///
/// # Errors
/// When the server does not answer, refuses for another reason, or is not up within the limit.
pub async fn connect(options: &PgConnectOptions, limit: Duration) -> Result<PgConnection, MirrorError> {
    let clock = Clock::start();
    loop {
        match options.connect().await {
            Err(error) if comes_up(&error) && Duration::from_micros(clock.now_us()) < limit => {
                tokio::time::sleep(COMING_UP_PAUSE).await;
            }
            connected => return connected.map_err(|error| database_error("cannot be reached", &error)),
        }
    }
}

/// Whether the server is there and lets nobody in yet.
fn comes_up(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == CANNOT_CONNECT_NOW)
}

/// A failure of the mirror's database: `what` reads after "the mirror's database".
#[must_use]
pub fn database_error(what: &str, error: &sqlx::Error) -> MirrorError {
    let text = format!("the mirror's database {what}: {error}");
    MirrorError { hint: super::disk_hint(&text), ..MirrorError::new(text, "") }
}
