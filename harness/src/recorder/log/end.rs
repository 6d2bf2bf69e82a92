//! Reads a server's log to its end: a marker is written into it, and reading goes on until that comes by.
//!
//! The recorder does so when it ends, and the trial of two runners. Only a marker shows that nothing is left behind in a
//! buffer of the server.

use std::time::Duration;

use fulldress_workloads::clock::Clock;
use sqlx::PgConnection;

use super::{LogError, LogEvents, LogKind, LogReader, MARKER_PREFIX};

/// How often the log is asked for the marker.
const MARKER_POLL: Duration = Duration::from_millis(20);
/// How often it is asked before the log counts as incomplete.
const MARKER_POLLS_MAX: u32 = 250;

impl LogReader {
    /// Reads everything that was written until now; the connection is a superuser's. False when the end did not arrive
    /// within five seconds.
    ///
    /// # Errors
    /// [`LogError`] where the marker cannot be written or the log cannot be read; what was read before stays.
    pub async fn read_to_now(
        &mut self,
        connection: &mut PgConnection,
        clock: Clock,
        into: &mut LogEvents,
    ) -> Result<bool, LogError> {
        let marker = clock.now_us().to_string();
        let text = format!("DO $$ BEGIN RAISE LOG '{MARKER_PREFIX}{marker}'; END $$");
        // The text is made of a constant and digits.
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *connection).await.map_err(LogError::Marker)?;
        for _ in 0..MARKER_POLLS_MAX {
            self.poll(Some(connection), into).await?;
            if into.events.iter().rev().any(|event| event.what == LogKind::Marker(marker.clone())) {
                return Ok(true);
            }
            tokio::time::sleep(MARKER_POLL).await;
        }
        Ok(false)
    }
}
