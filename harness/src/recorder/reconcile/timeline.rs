//! One package session as its log lines tell it: statements, notes of the triggers, ends of transactions.
//!
//! `reconcile` builds one for each session before it looks at locks. Times are the server's.

use crate::recorder::log::{LogEvent, LogKind, RESOLUTION_US};
use crate::recorder::observation::SessionId;
use crate::recorder::sampler::Sighting;
use fulldress_reports::sql::split;

use crate::recorder::statement::{SchemaChange, schema_change};
use crate::recorder::triggers::{NoteEvent, TriggerNote};

/// Longest delay that is believed between a statement's arrival and its line in the log, microseconds.
const ARRIVAL_TO_LOG_US: i64 = 1_000_000;

/// A statement of the session, as the client sent it.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) text: String,
    /// Its parts, where the client sent several at once.
    pub(super) parts: Vec<String>,
    pub(super) start_us: i64,
    pub(super) end_us: Option<i64>,
    /// SQLSTATE of its failure.
    pub(super) failed: Option<String>,
    /// The server's statement log has it.
    pub(super) logged: bool,
}

/// A note of a trigger, with the statement in which it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedNote<'a> {
    pub(super) note: &'a TriggerNote,
    pub(super) vxid: Option<&'a str>,
    pub(super) statement: usize,
}

/// One schema change.
#[derive(Debug, Clone)]
pub(super) struct Change<'a> {
    pub(super) statement: usize,
    pub(super) part: usize,
    pub(super) start: Option<&'a TriggerNote>,
    pub(super) end: Option<&'a TriggerNote>,
}

/// A package session.
#[derive(Debug)]
pub(super) struct Timeline<'a> {
    pub(super) session: SessionId,
    pub(super) role: String,
    pub(super) application: String,
    pub(super) first_us: i64,
    lines: Vec<&'a LogEvent>,
    pub(super) statements: Vec<Statement>,
    pub(super) notes: Vec<PlacedNote<'a>>,
    pub(super) changes: Vec<Change<'a>>,
}

impl<'a> Timeline<'a> {
    /// Builds it from the session's lines, in their order, and from what the sampler saw of it.
    pub(super) fn build(session: SessionId, lines: Vec<&'a LogEvent>, sightings: &[&Sighting]) -> Self {
        let mut statements = logged_statements(&lines);
        for sighting in sightings {
            adopt_sampled(&mut statements, sighting);
        }
        statements.sort_by_key(|statement| statement.start_us);
        let notes = place_notes(&lines, &statements);
        let changes = find_changes(&statements, &notes);
        let labelled =
            |pick: fn(&LogEvent) -> Option<&String>| lines.iter().filter_map(|line| pick(line)).next_back();
        let role = labelled(|line| line.role.as_ref()).or(sightings.first().map(|sighting| &sighting.role));
        let application = labelled(|line| line.application.as_ref())
            .or(sightings.first().map(|sighting| &sighting.application));
        let first_log_us = lines.first().map(|line| line.at_us);
        let first_sample_us = sightings.iter().map(|sighting| sighting.first_us).min();
        Self {
            session,
            role: role.cloned().unwrap_or_default(),
            application: application.cloned().unwrap_or_default(),
            first_us: first_log_us
                .into_iter()
                .chain(first_sample_us)
                .min()
                .unwrap_or(session.start_s * 1_000_000),
            lines,
            statements,
            notes,
            changes,
        }
    }

    /// Between which instants a transaction ended: its last line, and the session's next line after it.
    pub(super) fn transaction_end(&self, vxid: &str) -> (Option<i64>, Option<i64>) {
        let Some(last) = self.lines.iter().rposition(|line| line.vxid.as_deref() == Some(vxid)) else {
            return (None, None);
        };
        (Some(self.lines[last].at_us), self.lines.get(last + 1).map(|line| line.at_us + RESOLUTION_US))
    }

    /// Latest instant at which a statement can have ended.
    pub(super) fn statement_end_us(&self, index: usize) -> i64 {
        let next = self.statements.get(index + 1).map(|next| next.start_us);
        self.statements[index].end_us.map(|end| end + RESOLUTION_US).or(next).unwrap_or(i64::MAX)
    }

    /// `lock_timeout` in force at an instant, milliseconds, where anything tells it.
    pub(super) fn lock_timeout_ms(&self, at_us: i64) -> Option<u64> {
        use crate::recorder::triggers::duration_ms;
        let noted = self
            .notes
            .iter()
            .filter(|placed| placed.note.began_us <= at_us)
            .map(|placed| (placed.note.began_us, duration_ms(&placed.note.lock_timeout)));
        let set =
            self.statements.iter().filter(|statement| statement.start_us < at_us).filter_map(|statement| {
                let value = statement.parts.iter().rev().find_map(|part| set_lock_timeout(part))?;
                Some((statement.start_us, Some(value)))
            });
        noted.chain(set).max_by_key(|(since_us, _)| *since_us).and_then(|(_, value)| value)
    }

    /// The role's wait log: when a wait of this mode on this relation ended with the lock, and how long it took.
    pub(super) fn acquired_after_wait(&self, oid: u32, vxid: &str) -> Option<(i64, i64)> {
        self.lines.iter().find_map(|line| match &line.what {
            LogKind::Acquired { target, after_us, .. }
                if *target == crate::recorder::observation::LockTarget::Relation(oid)
                    && line.vxid.as_deref() == Some(vxid) =>
            {
                Some((line.at_us, *after_us))
            }
            _ => None,
        })
    }
}

/// Milliseconds of `SET [LOCAL|SESSION] lock_timeout = '2s'`.
fn set_lock_timeout(text: &str) -> Option<u64> {
    let lower = text.trim().trim_end_matches(';').to_lowercase();
    let rest = lower.strip_prefix("set ")?.trim_start();
    let rest = rest.strip_prefix("local ").or(rest.strip_prefix("session ")).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix("lock_timeout")?.trim_start();
    let value = rest.strip_prefix('=').or(rest.strip_prefix("to "))?;
    crate::recorder::triggers::duration_ms(value.trim().trim_matches('\''))
}

fn new_statement(text: &str, start_us: i64, logged: bool) -> Statement {
    let parts = split(text).into_iter().map(str::to_owned).collect();
    Statement { text: text.to_owned(), parts, start_us, end_us: None, failed: None, logged }
}

fn logged_statements(lines: &[&LogEvent]) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    for line in lines {
        match &line.what {
            LogKind::Statement { text } => statements.push(new_statement(text, line.at_us, true)),
            LogKind::Duration { preparation: false, duration_us, text } => {
                if let Some(text) = text {
                    statements.push(new_statement(text, line.at_us - duration_us, true));
                }
                if let Some(last) = statements.last_mut() {
                    last.end_us.get_or_insert(line.at_us);
                }
            }
            LogKind::Failed { sqlstate, .. } => {
                if let Some(text) = &line.statement {
                    let known =
                        statements.last().is_some_and(|last| last.end_us.is_none() && last.text == *text);
                    if !known {
                        statements.push(new_statement(text, line.at_us, false));
                    }
                }
                if let Some(last) = statements.last_mut().filter(|last| last.end_us.is_none()) {
                    last.end_us = Some(line.at_us);
                    last.failed = Some(sqlstate.clone());
                }
            }
            LogKind::Note(note) => {
                let text = line.statement.as_deref().unwrap_or(&note.tag);
                let known = statements.last().is_some_and(|last| {
                    last.text == text
                        && (if last.logged {
                            last.end_us.is_none()
                        } else {
                            last.start_us == note.statement_us
                        })
                });
                if !known {
                    statements.push(new_statement(text, note.statement_us, false));
                }
                if let Some(last) = statements.last_mut() {
                    // The note knows the arrival to the microsecond, the log only to the millisecond.
                    last.start_us = note.statement_us;
                }
            }
            _ => {}
        }
    }
    statements
}

/// Finds a sampled statement among the logged ones, or adds it where the log has none.
fn adopt_sampled(statements: &mut Vec<Statement>, sighting: &Sighting) {
    let Some(start_us) = sighting.query_start_us.filter(|_| !sighting.query.is_empty()) else { return };
    let known = statements.iter_mut().find(|statement| {
        let delay_us = statement.start_us + RESOLUTION_US - start_us;
        (0..ARRIVAL_TO_LOG_US).contains(&delay_us) && statement.text.starts_with(sighting.query.trim_end())
    });
    match known {
        Some(statement) => statement.start_us = start_us,
        None => statements.push(new_statement(&sighting.query, start_us, false)),
    }
}

fn place_notes<'a>(lines: &[&'a LogEvent], statements: &[Statement]) -> Vec<PlacedNote<'a>> {
    let mut notes = Vec::new();
    for line in lines {
        let LogKind::Note(note) = &line.what else { continue };
        let statement = statements.iter().rposition(|statement| statement.start_us <= note.statement_us);
        notes.push(PlacedNote { note, vxid: line.vxid.as_deref(), statement: statement.unwrap_or(0) });
    }
    notes
}

fn find_changes<'a>(statements: &[Statement], notes: &[PlacedNote<'a>]) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        let own: Vec<&TriggerNote> =
            notes.iter().filter(|placed| placed.statement == index).map(|placed| placed.note).collect();
        let starts: Vec<usize> =
            (0..own.len()).filter(|at| own[*at].event == NoteEvent::DdlCommandStart).collect();
        let kinds: Vec<Option<SchemaChange>> =
            statement.parts.iter().map(|part| schema_change(part)).collect();
        let triggering: Vec<usize> =
            (0..kinds.len()).filter(|part| kinds[*part] == Some(SchemaChange::Triggering)).collect();
        for (ordinal, at) in starts.iter().enumerate() {
            let until = starts.get(ordinal + 1).copied().unwrap_or(own.len());
            let end = own[*at..until].iter().copied().find(|note| note.event == NoteEvent::DdlCommandEnd);
            // With nested commands (a DO block, an extension) the parts cannot be told apart by counting.
            let part = if starts.len() <= triggering.len() { triggering[ordinal] } else { 0 };
            changes.push(Change { statement: index, part, start: Some(own[*at]), end });
        }
        for (part, kind) in kinds.iter().enumerate() {
            let silent = *kind == Some(SchemaChange::Silent);
            if silent || (starts.is_empty() && *kind == Some(SchemaChange::Triggering)) {
                changes.push(Change { statement: index, part, start: None, end: None });
            }
        }
    }
    changes
}
