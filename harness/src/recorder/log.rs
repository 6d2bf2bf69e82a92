//! Reads PostgreSQL's jsonlog files into typed events.
//!
//! `Recorder` polls a [`LogReader`] while the rehearsal runs and once at its end; `reconcile` consumes the
//! events. The log stamps whole milliseconds, cut off: an event happened in `[at_us, at_us + 999]`.

mod end;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use fulldress_reports::lock::LockMode;
use serde::Deserialize;
use sqlx::PgConnection;

use super::observation::{AdvisoryKey, LockTarget, SessionId};
use super::triggers::{FAILED_PREFIX, NOTE_PREFIX, TriggerNote};

/// The log's timestamps are cut to milliseconds: the instant lies up to this much later, microseconds.
pub const RESOLUTION_US: i64 = 999;

/// Most bytes read from one file at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What the recorder's own mark begins with.
const MARKER_PREFIX: &str = "fulldress-marker:";

/// Longest line that is kept while its end is missing, bytes.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Why the server's log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder or a file in it could not be read.
    #[error("read the server log in {}: {source}; check log_directory and its permissions", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server refused to hand out its log.
    #[error("read the server log through SQL: {0}; the role needs pg_monitor and pg_read_server_files")]
    Sql(#[from] sqlx::Error),
    /// The mark at the log's end could not be written.
    #[error("mark the end of the log: {0}; the role needs to be a superuser")]
    Marker(sqlx::Error),
}

/// Where the log is.
#[derive(Debug, Clone)]
pub enum LogPlace {
    /// A folder of this machine.
    Folder(PathBuf),
    /// The server's own log folder, read over a connection.
    Server,
}

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

/// Reads a log incrementally: across rotation, and with a last line that is still being written.
#[derive(Debug)]
pub struct LogReader {
    place: LogPlace,
    database: String,
    since_us: i64,
    files: BTreeMap<String, FileState>,
}

#[derive(Debug, Default)]
struct FileState {
    offset: u64,
    torn: Vec<u8>,
}

impl FileState {
    /// Takes in bytes and hands out the complete lines.
    fn feed(&mut self, bytes: &[u8], (database, since_us): (&str, i64), into: &mut LogEvents) {
        self.offset += bytes.len() as u64;
        self.torn.extend_from_slice(bytes);
        let Some(end) = self.torn.iter().rposition(|byte| *byte == b'\n') else {
            if self.torn.len() > LINE_BYTES_MAX {
                into.malformed += 1;
                self.torn.clear();
            }
            return;
        };
        let rest = self.torn.split_off(end + 1);
        let complete = std::mem::replace(&mut self.torn, rest);
        for line in complete.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse_line(line, database) {
                Parsed::Event(event) if event.at_us + RESOLUTION_US >= since_us => into.events.push(*event),
                Parsed::Event(_) | Parsed::Irrelevant => {}
                Parsed::Malformed => into.malformed += 1,
            }
        }
    }
}

impl LogReader {
    /// A reader of what sessions of a database, and the server itself, have written since an instant in server
    /// microseconds since 1970.
    #[must_use]
    pub const fn new(place: LogPlace, database: String, since_us: i64) -> Self {
        Self { place, database, since_us, files: BTreeMap::new() }
    }

    /// Reads what was added since the last time. [`LogPlace::Server`] needs the connection.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be read; what was read before stays.
    pub async fn poll(
        &mut self,
        mut connection: Option<&mut PgConnection>,
        into: &mut LogEvents,
    ) -> Result<(), LogError> {
        for (name, size) in self.list(connection.as_deref_mut()).await? {
            let known = self.files.entry(name.clone()).or_default();
            if known.offset > size {
                // Another file under the same name, as after the restore of a data folder.
                *known = FileState::default();
            }
            loop {
                let offset = self.files.entry(name.clone()).or_default().offset;
                if offset >= size {
                    break;
                }
                let bytes = self.read(connection.as_deref_mut(), &name, offset).await?;
                if bytes.is_empty() {
                    break;
                }
                self.files.entry(name.clone()).or_default().feed(
                    &bytes,
                    (&self.database, self.since_us),
                    into,
                );
            }
        }
        Ok(())
    }

    async fn list(&self, connection: Option<&mut PgConnection>) -> Result<Vec<(String, u64)>, LogError> {
        match (&self.place, connection) {
            (LogPlace::Folder(folder), _) => {
                list_folder(folder).map_err(|source| LogError::Folder { folder: folder.clone(), source })
            }
            (LogPlace::Server, Some(connection)) => {
                let rows: Vec<(String, i64)> = sqlx::query_as(
                    "SELECT name, size FROM pg_catalog.pg_ls_logdir() WHERE name LIKE '%.json' ORDER BY name",
                )
                .fetch_all(connection)
                .await?;
                Ok(rows.into_iter().map(|(name, size)| (name, u64::try_from(size).unwrap_or(0))).collect())
            }
            (LogPlace::Server, None) => Ok(Vec::new()),
        }
    }

    async fn read(
        &self,
        connection: Option<&mut PgConnection>,
        name: &str,
        offset: u64,
    ) -> Result<Vec<u8>, LogError> {
        match (&self.place, connection) {
            (LogPlace::Folder(folder), _) => {
                let path = folder.join(name);
                read_chunk(&path, offset).map_err(|source| LogError::Folder { folder: folder.clone(), source })
            }
            (LogPlace::Server, Some(connection)) => Ok(sqlx::query_scalar(
                "SELECT pg_catalog.pg_read_binary_file(current_setting('log_directory') || '/' || $1, $2, $3)",
            )
            .bind(name)
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .bind(CHUNK_BYTES.cast_signed())
            .fetch_one(connection)
            .await?),
            (LogPlace::Server, None) => Ok(Vec::new()),
        }
    }
}

fn list_folder(folder: &std::path::Path) -> std::io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            files.push((name, entry.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

fn read_chunk(path: &std::path::Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(CHUNK_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The fields of a jsonlog line that the recorder reads.
#[derive(Deserialize)]
struct RawLine {
    timestamp: String,
    user: Option<String>,
    dbname: Option<String>,
    remote_host: Option<String>,
    session_id: String,
    line_num: u64,
    vxid: Option<String>,
    error_severity: String,
    state_code: Option<String>,
    message: Option<String>,
    detail: Option<String>,
    context: Option<String>,
    statement: Option<String>,
    application_name: Option<String>,
    backend_type: String,
}

enum Parsed {
    Event(Box<LogEvent>),
    Irrelevant,
    Malformed,
}

fn parse_line(line: &[u8], database: &str) -> Parsed {
    let Ok(raw) = serde_json::from_slice::<RawLine>(line) else { return Parsed::Malformed };
    let (Some(at_us), Some(session)) = (parse_timestamp(&raw.timestamp), SessionId::parse(&raw.session_id))
    else {
        return Parsed::Malformed;
    };
    // Relations of another database have numbers of their own.
    if raw.dbname.as_deref().is_some_and(|name| name != database) {
        return Parsed::Irrelevant;
    }
    let Some(what) = kind(&raw) else { return Parsed::Irrelevant };
    Parsed::Event(Box::new(LogEvent {
        at_us,
        session,
        line: raw.line_num,
        role: raw.user,
        application: raw.application_name,
        host: raw.remote_host,
        client: raw.backend_type == "client backend",
        vxid: raw.vxid.filter(|vxid| !vxid.ends_with("/0")),
        statement: raw.statement,
        context: raw.context,
        what,
    }))
}

/// Microseconds since 1970 of `2026-11-23 03:49:26.167 UTC`.
fn parse_timestamp(text: &str) -> Option<i64> {
    let (instant, zone) = text.rsplit_once(' ')?;
    if zone != "UTC" && zone != "GMT" {
        return None;
    }
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond]");
    let parsed = time::PrimitiveDateTime::parse(instant, &format).ok()?;
    i64::try_from(parsed.assume_utc().unix_timestamp_nanos() / 1000).ok()
}

fn kind(raw: &RawLine) -> Option<LogKind> {
    let message = raw.message.as_deref().unwrap_or("");
    match raw.error_severity.as_str() {
        "ERROR" | "FATAL" | "PANIC" => Some(LogKind::Failed {
            sqlstate: raw.state_code.clone().unwrap_or_default(),
            message: message.to_owned(),
            deadlock: parse_deadlock(raw.detail.as_deref().unwrap_or("")),
        }),
        "LOG" => log_kind(message, raw),
        _ => None,
    }
}

fn log_kind(message: &str, raw: &RawLine) -> Option<LogKind> {
    if let Some(note) = message.strip_prefix(NOTE_PREFIX) {
        return Some(match serde_json::from_str(note) {
            Ok(note) => LogKind::Note(Box::new(note)),
            Err(error) => LogKind::NoteLost(error.to_string()),
        });
    }
    if let Some(marker) = message.strip_prefix(MARKER_PREFIX) {
        return Some(LogKind::Marker(marker.to_owned()));
    }
    if message.starts_with(FAILED_PREFIX) {
        return Some(LogKind::NoteLost(message.to_owned()));
    }
    if raw.backend_type == "postmaster" {
        let known = message.starts_with("database system is ready")
            || message.starts_with("database system is shut down")
            || message.starts_with("terminating any other active server processes");
        return known.then(|| LogKind::Server(message.to_owned()));
    }
    if message.starts_with("process ") {
        return parse_wait(message, raw.detail.as_deref().unwrap_or(""));
    }
    if message.starts_with("connection authorized: ") {
        return Some(LogKind::Connected);
    }
    if message.starts_with("disconnection: ") {
        return Some(LogKind::Disconnected);
    }
    parse_statement(message)
}

/// `process 17107 still waiting for AccessShareLock on relation 16387 of database 5 after 21.488 ms`
fn parse_wait(message: &str, detail: &str) -> Option<LogKind> {
    let (_, rest) = message.strip_prefix("process ")?.split_once(' ')?;
    let (waiting, rest) = if let Some(rest) = rest.strip_prefix("still waiting for ") {
        (true, rest)
    } else if let Some(rest) = rest.strip_prefix("detected deadlock while waiting for ") {
        (true, rest)
    } else if let Some(rest) = rest.strip_prefix("acquired ") {
        (false, rest)
    } else {
        return None;
    };
    let (mode, rest) = rest.split_once(" on ")?;
    let (target, after) = rest.rsplit_once(" after ")?;
    let mode = LockMode::parse(mode);
    let target = parse_target(target);
    let after_us = parse_milliseconds(after)?;
    Some(if waiting {
        LogKind::Waiting { mode, target, after_us, holders: parse_holders(detail) }
    } else {
        LogKind::Acquired { mode, target, after_us }
    })
}

/// `Process holding the lock: 17099. Wait queue: 17100, 17107.` or `Processes holding the lock: 1, 2. …`
fn parse_holders(detail: &str) -> Vec<u32> {
    let Some((_, rest)) = detail.split_once("holding the lock: ") else { return Vec::new() };
    let list = rest.split('.').next().unwrap_or("");
    list.split(", ").filter_map(|pid| pid.trim().parse().ok()).collect()
}

/// `Process 12 waits for ShareLock on transaction 8; blocked by process 13.`, a line a wait, then `Process 12: UPDATE …`, a
/// statement each.
fn parse_deadlock(detail: &str) -> Vec<DeadlockWait> {
    let mut waits: Vec<DeadlockWait> = Vec::new();
    let mut speaking: Option<u32> = None;
    for line in detail.lines() {
        let told = line.strip_prefix("Process ").and_then(|rest| {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
            Some((rest[..digits].parse::<u32>().ok()?, &rest[digits..]))
        });
        if let Some((pid, wait)) = told.and_then(|(pid, rest)| Some((pid, rest.strip_prefix(" waits for ")?)))
        {
            waits.extend(parse_deadlock_wait(pid, wait));
            continue;
        }
        let begun = told.and_then(|(pid, rest)| Some((pid, rest.strip_prefix(": ")?)));
        let begun = begun.filter(|(pid, _)| waits.iter().any(|wait| wait.pid == *pid));
        speaking = begun.map(|(pid, _)| pid).or(speaking);
        let Some(wait) = waits.iter_mut().find(|wait| Some(wait.pid) == speaking) else { continue };
        if !wait.statement.is_empty() {
            wait.statement.push('\n');
        }
        wait.statement.push_str(begun.map_or(line, |(_, text)| text));
    }
    waits
}

fn parse_deadlock_wait(pid: u32, text: &str) -> Option<DeadlockWait> {
    let (wait, blocker) = text.split_once("; blocked by process ")?;
    let (mode, target) = wait.split_once(" on ")?;
    Some(DeadlockWait {
        pid,
        mode: LockMode::parse(mode),
        target: parse_target(target),
        blocker: blocker.trim_end_matches('.').parse().ok()?,
        statement: String::new(),
    })
}

fn parse_target(text: &str) -> LockTarget {
    let words: Vec<&str> =
        text.split([' ', ',', '[', ']', '(', ')']).filter(|word| !word.is_empty()).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
    let parsed = match words.first().copied() {
        Some("relation") => number(1).map(LockTarget::Relation),
        // tuple (0,1) of relation 16387 of database 5
        Some("tuple") => number(5).map(LockTarget::Tuple),
        Some("transaction") => number(1).map(|id| LockTarget::Transaction(u64::from(id))),
        Some("virtual") => Some(LockTarget::VirtualTransaction),
        // advisory lock [database,classid,objid,objsubid]
        Some("advisory") => match (number(3), number(4), words.get(5).and_then(|word| word.parse().ok())) {
            (Some(classid), Some(objid), Some(objsubid)) => {
                Some(LockTarget::Advisory(AdvisoryKey { classid, objid, objsubid }))
            }
            _ => None,
        },
        _ => None,
    };
    parsed.unwrap_or_else(|| LockTarget::Other(text.to_owned()))
}

/// Microseconds of `21.488 ms`; the server prints three digits after the point.
fn parse_milliseconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.strip_suffix(" ms")?.split_once('.')?;
    Some(whole.parse::<i64>().ok()? * 1000 + fraction.parse::<i64>().ok()?)
}

fn parse_statement(message: &str) -> Option<LogKind> {
    if let Some(text) = message.strip_prefix("statement: ") {
        return Some(LogKind::Statement { text: text.to_owned() });
    }
    if let Some(text) = message.strip_prefix("execute ") {
        return Some(LogKind::Statement { text: after_name(text)?.to_owned() });
    }
    let rest = message.strip_prefix("duration: ")?;
    let (figure, rest) = rest.split_once(" ms").map(|(figure, rest)| (figure, rest.trim_start()))?;
    let duration_us = parse_milliseconds(&format!("{figure} ms"))?;
    let preparation = rest.starts_with("parse ") || rest.starts_with("bind ");
    let text = match rest.strip_prefix("statement: ") {
        Some(text) => Some(text.to_owned()),
        None => rest.strip_prefix("execute ").and_then(after_name).map(str::to_owned),
    };
    Some(LogKind::Duration { duration_us, preparation, text })
}

/// What follows the name of a prepared statement: `<unnamed>: SELECT 1`.
fn after_name(text: &str) -> Option<&str> {
    text.split_once(": ").map(|(_, statement)| statement)
}

#[cfg(test)]
mod tests;
