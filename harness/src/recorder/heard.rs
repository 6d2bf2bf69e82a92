//! Which statements the clients run: in the warmup, where nothing is measured, the server's log tells each of them.
//!
//! The conductor begins and ends it; `Recorder::finish` hands over what was heard, and the conductor learns from it which
//! route makes a statement that waits later.

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::clock::ServerClock;
use super::log::{LogEvent, LogEvents, LogKind, RESOLUTION_US};
use super::observation::{PackageIdentity, is_own};
use super::reconcile::SHORT_STATEMENT_CHARACTERS;
use super::statement::normalise;
use super::{Recorder, RecorderError, database};

/// Settings with which the log tells each statement when it has ended. Values of parameters stay out of it.
const TELLING: [(&str, &str); 2] = [("log_min_duration_statement", "0"), ("log_parameter_max_length", "0")];

/// A statement that a client ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heard {
    /// Login role.
    pub role: String,
    /// Its text, in the form in which a waiting statement is shown.
    pub statement: String,
    /// When it began, microseconds since the rehearsal's epoch; right to within a millisecond.
    pub start_us: u64,
    /// When it ended, likewise.
    pub end_us: u64,
}

/// What the recorder has heard, and how the server's settings were before.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    usual: Vec<(&'static str, String)>,
    events: Vec<LogEvent>,
}

impl Recorder {
    /// Lets the server's log tell each statement of each client from now on. That costs time: call it only where nothing is
    /// measured, and [`Self::stop_listening`] before anything is.
    ///
    /// # Errors
    /// [`RecorderError::Database`]: the settings were refused, and nothing will be heard.
    pub async fn listen(&mut self) -> Result<(), RecorderError> {
        for (name, telling) in TELLING {
            let usual: String = sqlx::query_scalar("SELECT pg_catalog.current_setting($1)")
                .bind(name)
                .fetch_one(&mut self.connection)
                .await
                .map_err(database("ask for the log's settings"))?;
            set(&mut self.connection, name, telling).await?;
            self.hearing.usual.push((name, usual));
        }
        reload(&mut self.connection).await
    }

    /// Puts the settings back and keeps what was heard; nothing happens where nothing was begun.
    ///
    /// # Errors
    /// [`RecorderError::Database`] where the settings could not be put back, [`RecorderError::Log`] and
    /// [`RecorderError::LogEnd`] where the log could not be read, or not to its end; what was heard until then is kept.
    pub async fn stop_listening(&mut self) -> Result<(), RecorderError> {
        if self.hearing.usual.is_empty() {
            return Ok(());
        }
        for (name, usual) in std::mem::take(&mut self.hearing.usual) {
            set(&mut self.connection, name, &usual).await?;
        }
        reload(&mut self.connection).await?;
        let Some(reader) = &mut self.log else { return Ok(()) };
        let read = reader.read_to_now(&mut self.connection, self.config.clock, &mut self.events).await;
        self.hearing.events.extend(take_heard(&mut self.events, &self.config.identity));
        if read? { Ok(()) } else { Err(RecorderError::LogEnd) }
    }
}

impl Hearing {
    /// The statements on the rehearsal's clock.
    pub(super) fn statements(&self, clock: &ServerClock) -> Vec<Heard> {
        let heard = |event: &LogEvent| {
            let LogKind::Duration { duration_us, preparation: false, text: Some(text) } = &event.what else {
                return None;
            };
            // The stamp is cut to milliseconds: the middle of what it can mean.
            let ended_us = event.at_us + RESOLUTION_US / 2;
            Some(Heard {
                role: event.role.clone()?,
                statement: normalise(text, SHORT_STATEMENT_CHARACTERS),
                start_us: clock.rehearsal_us(ended_us - duration_us),
                end_us: clock.rehearsal_us(ended_us),
            })
        };
        self.events.iter().filter_map(heard).collect()
    }
}

/// Takes the clients' statements out of the events: what follows is about locks, and must not go through all of them.
fn take_heard(events: &mut LogEvents, identity: &PackageIdentity) -> Vec<LogEvent> {
    let of_client = |event: &mut LogEvent| {
        let own = event.role.as_ref().is_some_and(|role| identity.own_roles.contains(role))
            || is_own(event.application.as_deref());
        let package = identity.owns(event.role.as_deref(), event.host.as_deref());
        event.client && !own && !package && matches!(event.what, LogKind::Duration { .. })
    };
    events.events.extract_if(.., of_client).collect()
}

async fn set(connection: &mut PgConnection, name: &str, value: &str) -> Result<(), RecorderError> {
    let quoted = value.replace('\'', "''");
    // The name is a constant of this file.
    let statement = AssertSqlSafe(format!("ALTER SYSTEM SET {name} = '{quoted}'"));
    let set = sqlx::raw_sql(statement).execute(connection).await;
    set.map(|_| ()).map_err(database("set what the log tells"))
}

async fn reload(connection: &mut PgConnection) -> Result<(), RecorderError> {
    let reloaded = sqlx::query("SELECT pg_catalog.pg_reload_conf()").execute(connection).await;
    reloaded.map(|_| ()).map_err(database("reload the server's settings"))
}
