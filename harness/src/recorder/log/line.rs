//! What one line of the server's log says.
//!
//! `reader` hands it complete lines; texts of lock waits go on to `waits`.

use serde::Deserialize;

use super::waits::{parse_deadlock, parse_milliseconds, parse_wait};
use super::{LogEvent, LogKind, MARKER_PREFIX};
use crate::recorder::observation::SessionId;
use crate::recorder::triggers::{FAILED_PREFIX, NOTE_PREFIX};

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

pub(super) enum Parsed {
    Event(Box<LogEvent>),
    Irrelevant,
    Malformed,
}

pub(super) fn parse_line(line: &[u8], database: &str) -> Parsed {
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
