//! Event triggers that log the exact locks of every session that changes the schema.
//!
//! `Recorder` installs them at its start and again after a restore; what they log comes back through `log`.

use fulldress_reports::lock::LockMode;
use serde::Deserialize;
use sqlx::{Connection, PgConnection};

use super::observation::AdvisoryKey;

/// Schema that holds everything which the recorder creates; fingerprints leave it out.
pub const SCHEMA: &str = "fulldress";

/// What a logged note of the triggers begins with.
pub const NOTE_PREFIX: &str = "fulldress:";

/// What the line of a note that could not be made begins with.
pub const FAILED_PREFIX: &str = "fulldress-failed:";

/// Installs the triggers in the connection's database; an earlier installation is replaced.
///
/// # Errors
/// The server's, where the role is no superuser or the schema cannot be replaced.
pub async fn install(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(include_str!("triggers.sql")).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Takes the triggers and their schema away; does nothing where there are none.
///
/// # Errors
/// The server's, where the role may not drop the schema.
pub async fn uninstall(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("DROP SCHEMA IF EXISTS fulldress CASCADE").execute(connection).await?;
    Ok(())
}

/// One lock of the session, as a note lists it: object id, name, kind, mode, granted.
/// The name is absent once the relation is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NotedLock(pub u32, pub Option<String>, pub Option<String>, pub String, pub bool);

impl NotedLock {
    /// The mode, where it is one of the table-level modes.
    #[must_use]
    pub fn mode(&self) -> Option<LockMode> {
        LockMode::parse(&self.3)
    }
}

/// One advisory lock of the session: classid, objid, objsubid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NotedAdvisory(u32, u32, u16);

impl NotedAdvisory {
    /// Its key.
    #[must_use]
    pub const fn key(&self) -> AdvisoryKey {
        AdvisoryKey { classid: self.0, objid: self.1, objsubid: self.2 }
    }
}

/// Which event trigger fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteEvent {
    /// Before the statement does anything.
    DdlCommandStart,
    /// After it has done everything, inside its transaction.
    DdlCommandEnd,
    /// Before a table's storage is rewritten, under its lock.
    TableRewrite,
    /// After objects were dropped.
    SqlDrop,
}

/// What a trigger saw in its session.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TriggerNote {
    /// Which trigger.
    pub event: NoteEvent,
    /// Command tag, as `ALTER TABLE`.
    pub tag: String,
    /// When the client's statement arrived, server microseconds since 1970.
    pub statement_us: i64,
    /// Before the locks were read, server microseconds since 1970.
    pub began_us: i64,
    /// After the locks were read, server microseconds since 1970.
    pub at_us: i64,
    /// `lock_timeout` in force, as SHOW prints it.
    pub lock_timeout: String,
    /// All relation locks of the session on relations that are not the system's.
    pub locks: Vec<NotedLock>,
    /// Advisory locks that the session holds.
    pub advisory: Vec<NotedAdvisory>,
    /// The relation about to be rewritten: object id and name.
    pub rewritten: Option<(u32, Option<String>)>,
    /// Relations just dropped: object id, name and kind.
    pub dropped: Vec<(u32, String, String)>,
}

/// Milliseconds of a duration as SHOW prints it: `0`, `250ms`, `2s`, `1min`, `1h`, `1d`.
#[must_use]
pub fn duration_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit_ms = match text[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::duration_ms;

    #[test]
    fn durations_read_as_the_server_prints_them() {
        let read = ["0", "250ms", "2s", "1min", "1h", "1d", " 5 s ", "soon", ""].map(duration_ms);
        let milliseconds = [0, 250, 2_000, 60_000, 3_600_000, 86_400_000, 5_000].map(Some);
        assert_eq!(read[..7], milliseconds);
        assert_eq!(read[7..], [None, None]);
    }
}
