//! How a step by SQL ended, and which kind of error that is.

use fulldress_reports::traffic::{ErrorKind, Sqlstate};
use serde_json::Value;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::lanes::Progress;

/// How a step ended, before it is judged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    /// Every statement gave the right number of rows, and what there was to commit is committed.
    Done {
        /// What the write's row says; absent where it does not say it.
        value: Option<Value>,
    },
    /// A statement gave another number of rows.
    WrongRows {
        /// Whether its effect stays, which a transaction's does not.
        kept: bool,
        /// How many.
        count: u64,
    },
    /// The server refused it, or no answer came.
    Failed {
        /// Why.
        kind: ErrorKind,
        /// Whether it may have taken effect all the same.
        perhaps_done: bool,
        /// Whether the server closed the connection.
        lost_connection: bool,
        /// What the server or the system said.
        said: String,
    },
}

impl Ending {
    /// No connection could be made.
    pub(super) fn unconnected(error: &sqlx::Error) -> Self {
        let kind = state_of(error).map_or(ErrorKind::Connect, ErrorKind::Sql);
        Self::Failed { kind, perhaps_done: false, lost_connection: false, said: sentence(error) }
    }

    /// A statement was refused, or its connection broke.
    pub(super) fn refused(error: &sqlx::Error, progress: Progress) -> Self {
        let lost_connection = ends_connection(error);
        // A refusal is definite; a server that goes away in between leaves it open.
        let perhaps_done = lost_connection && progress == Progress::Deciding;
        let kind = state_of(error).map_or(ErrorKind::Reset, ErrorKind::Sql);
        Self::Failed { kind, perhaps_done, lost_connection, said: sentence(error) }
    }

    /// Whether the server closed the connection.
    pub(super) const fn lost_connection(&self) -> bool {
        matches!(self, Self::Failed { lost_connection: true, .. })
    }
}

/// The server's own words, where it has some.
fn sentence(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// The server's own code.
pub(super) fn state_of(error: &sqlx::Error) -> Option<Sqlstate> {
    error.as_database_error().and_then(|error| Sqlstate::parse(&error.code()?))
}

fn ends_connection(error: &sqlx::Error) -> bool {
    match error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) {
        Some(error) => matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic),
        // Whatever else it is, what comes next on this connection would not be understood.
        None => true,
    }
}
