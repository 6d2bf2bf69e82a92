//! PostgreSQL's jsonlog as typed events.
//!
//! `Recorder` polls a [`LogReader`] while the rehearsal runs and once at its end; `reconcile` consumes the events.
//! The log stamps whole milliseconds, cut off: an event happened in `[at_us, at_us + 999]`.

mod end;
mod line;
mod reader;
mod waits;

use fulldress_reports::lock::LockMode;

pub use self::reader::{LogError, LogPlace, LogReader};
use super::observation::{LockTarget, SessionId};
use super::triggers::TriggerNote;

/// The log's timestamps are cut to milliseconds: the instant lies up to this much later, microseconds.
pub const RESOLUTION_US: i64 = 999;

/// What the recorder's own mark begins with.
const MARKER_PREFIX: &str = "fulldress-marker:";

/// One line of the log that says something about locks, statements or sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Server time, microseconds since 1970, cut to milliseconds.
    pub at_us: i64,
    /// Session that wrote it.
    pub session: SessionId,
    /// Number of the line within its session: exact order where the clock is too coarse.
    pub line: u64,
    /// Login role.
    pub role: Option<String>,
    /// `application_name`.
    pub application: Option<String>,
    /// Address of the client, `[local]` for the Unix socket.
    pub host: Option<String>,
    /// Whether a client's backend wrote it.
    pub client: bool,
    /// Virtual transaction, absent outside of one. It changes when a transaction ends and its locks go.
    pub vxid: Option<String>,
    /// The statement that ran, where the server adds it.
    pub statement: Option<String>,
    /// The context, where the server adds it.
    pub context: Option<String>,
    /// What it says.
    pub what: LogKind,
}

/// What a line of the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogKind {
    /// A lock wait outlasted `deadlock_timeout`.
    Waiting {
        /// Mode asked for, where it is a table-level mode.
        mode: Option<LockMode>,
        /// What it waits for.
        target: LockTarget,
        /// How long it has waited, microseconds.
        after_us: i64,
        /// Pids that hold a conflicting lock; the log does not name waiters ahead in the queue here.
        holders: Vec<u32>,
    },
    /// A wait that was reported ended with the lock.
    Acquired {
        /// Mode.
        mode: Option<LockMode>,
        /// Lock.
        target: LockTarget,
        /// How long it waited in all, microseconds.
        after_us: i64,
    },
    /// A statement begins.
    Statement {
        /// Its text.
        text: String,
    },
    /// A statement ended.
    Duration {
        /// How long it took, microseconds.
        duration_us: i64,
        /// Whether it was only the parse or bind message of the extended protocol.
        preparation: bool,
        /// Its text, where the statement was not logged before.
        text: Option<String>,
    },
    /// A statement failed.
    Failed {
        /// SQLSTATE.
        sqlstate: String,
        /// The message.
        message: String,
        /// Of a deadlock, who waited for whom.
        deadlock: Vec<DeadlockWait>,
    },
    /// A session was let in.
    Connected,
    /// A session ended.
    Disconnected,
    /// An event trigger's note.
    Note(Box<TriggerNote>),
    /// A note that the trigger could not make, or that could not be read.
    NoteLost(String),
    /// The recorder's own mark at the end of what it wants to read.
    Marker(String),
    /// The server stopped, crashed or came up: sessions that were open are gone.
    Server(String),
}

/// One wait of a deadlock's circle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadlockWait {
    /// Who waits.
    pub pid: u32,
    /// Mode asked for, where it is a table-level mode.
    pub mode: Option<LockMode>,
    /// What it waits for.
    pub target: LockTarget,
    /// Who has it.
    pub blocker: u32,
    /// The waiting statement.
    pub statement: String,
}

/// Everything read so far.
#[derive(Debug, Default)]
pub struct LogEvents {
    /// The events, in the order of the files.
    pub events: Vec<LogEvent>,
    /// Lines that were no JSON object of the expected form.
    pub malformed: u64,
}

#[cfg(test)]
mod tests;
