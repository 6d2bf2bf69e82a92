//! The statements of one session, in the order in which it ran them, with bounds on when.
//!
//! `timeline` builds them from the session's log lines and from what the sampler saw of it. Times are the server's.
//!
//! The log counts a session's lines, so their order is exact; its clock is cut to milliseconds. An instant that a trigger or
//! a sample knows to the microsecond bounds the lines before and after it.

use std::collections::BTreeSet;

use fulldress_reports::sql::split;

use crate::recorder::log::{LogEvent, LogKind, RESOLUTION_US};
use crate::recorder::sampler::Sighting;
use crate::recorder::statement::first_words;
use crate::recorder::triggers::TriggerNote;

/// A statement of the session, as the client sent it.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) text: String,
    /// Its parts, where the client sent several at once.
    pub(super) parts: Vec<String>,
    /// Earliest instant at which it can have locked anything.
    pub(super) start_us: i64,
    /// Between which instants it ended.
    pub(super) end: Option<(i64, i64)>,
    /// SQLSTATE of its failure.
    pub(super) failed: Option<String>,
    /// Whether its transaction was still open when it ended.
    pub(super) open_after: bool,
    /// The server's statement log has it.
    pub(super) logged: bool,
    /// Virtual transactions in which its lines stand: several for a statement that has transactions of its own.
    pub(super) vxids: BTreeSet<String>,
    /// Between which instants it arrived.
    arrival: (i64, i64),
    /// It came by the extended protocol: what it locks is taken before its line is written.
    prepared: bool,
}

/// A note of a trigger, with the statement in which it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedNote<'a> {
    pub(super) note: &'a TriggerNote,
    pub(super) vxid: Option<&'a str>,
    pub(super) statement: usize,
}

/// A rolled back part of a transaction: what was locked since the savepoint is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undo {
    /// The statement that set the savepoint.
    pub(super) savepoint: usize,
    /// The statement that rolled back to it.
    pub(super) rollback: usize,
}

/// Between which instants each line was written.
pub(super) fn line_bounds(lines: &[&LogEvent]) -> Vec<(i64, i64)> {
    let mut bounds: Vec<(i64, i64)> = Vec::with_capacity(lines.len());
    let mut low_us = i64::MIN;
    for line in lines {
        low_us = low_us.max(line.at_us);
        if let LogKind::Note(note) = &line.what {
            // What a note lists was locked before the note's own line, and so before the next statement.
            low_us = low_us.max(note.at_us + 1);
        }
        bounds.push((low_us, 0));
    }
    let mut high_us = i64::MAX;
    for (line, bound) in lines.iter().zip(&mut bounds).rev() {
        high_us = high_us.min(line.at_us + RESOLUTION_US);
        // A clock that was set back would turn the bounds around.
        bound.1 = high_us.max(bound.0);
        if let LogKind::Note(note) = &line.what {
            high_us = high_us.min(note.began_us);
        }
    }
    bounds
}

/// Reads the lines of a session: its statements, and the notes with their places among them.
pub(super) fn read<'a>(
    lines: &[&'a LogEvent],
    bounds: &[(i64, i64)],
    sightings: &[&Sighting],
) -> (Vec<Statement>, Vec<PlacedNote<'a>>) {
    let mut reader = Reader::default();
    for (line, bound) in lines.iter().zip(bounds) {
        reader.line(line, *bound);
    }
    for sighting in sightings {
        reader.adopt(sighting);
    }
    let mut at_us = i64::MIN;
    for statement in &mut reader.statements {
        statement.start_us = statement.start_us.max(at_us);
        at_us = statement.start_us;
    }
    // Nothing of a statement happens after the next one has arrived.
    for index in 1..reader.statements.len() {
        let arrival_us = reader.statements[index].arrival.1;
        if let Some(end) = &mut reader.statements[index - 1].end {
            end.1 = end.1.min(arrival_us).max(end.0);
        }
    }
    (reader.statements, reader.notes)
}

#[derive(Default)]
struct Reader<'a> {
    statements: Vec<Statement>,
    notes: Vec<PlacedNote<'a>>,
    /// When the session's last line was written, at the earliest.
    last_us: Option<i64>,
    /// When the session began to prepare what it will execute, at the earliest.
    preparing_us: Option<i64>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a LogEvent, bound: (i64, i64)) {
        let before_us = self.last_us.unwrap_or(i64::MIN);
        match &line.what {
            LogKind::Statement { text } => self.begin(text, before_us, bound, true),
            LogKind::Duration { preparation: true, duration_us, .. } => {
                self.preparing_us.get_or_insert(before_us.max(bound.0 - duration_us - RESOLUTION_US));
            }
            LogKind::Duration { preparation: false, duration_us, text } => {
                if let Some(text) = text {
                    let began = (bound.0 - duration_us, bound.1 - duration_us);
                    self.begin(text, before_us.max(began.0), began, true);
                }
                if let Some(last) = self.statements.last_mut().filter(|last| last.end.is_none()) {
                    last.end = Some(bound);
                    last.open_after = line.vxid.is_some();
                }
            }
            LogKind::Failed { sqlstate, .. } => self.fail(line, sqlstate, before_us, bound),
            LogKind::Note(note) => self.note(line, note),
            _ => {}
        }
        let running = |last: &&mut Statement| last.end.is_none_or(|end| end == bound);
        if let (Some(vxid), Some(last)) = (&line.vxid, self.statements.last_mut().filter(running)) {
            last.vxids.insert(vxid.clone());
        }
        self.last_us = Some(bound.0);
    }

    fn begin(&mut self, text: &str, before_us: i64, (low_us, high_us): (i64, i64), logged: bool) {
        let prepared_us = self.preparing_us.take();
        self.statements.push(Statement {
            text: text.to_owned(),
            parts: split(text).into_iter().map(str::to_owned).collect(),
            start_us: prepared_us.unwrap_or(low_us),
            end: None,
            failed: None,
            open_after: false,
            logged,
            vxids: BTreeSet::new(),
            arrival: (prepared_us.unwrap_or(before_us), high_us),
            prepared: prepared_us.is_some(),
        });
    }

    fn fail(&mut self, line: &LogEvent, sqlstate: &str, before_us: i64, bound: (i64, i64)) {
        if let Some(text) = &line.statement {
            let open = self.statements.last().filter(|last| last.end.is_none() && last.text == *text);
            if open.is_none() {
                self.begin(text, before_us, bound, false);
            }
        }
        if let Some(last) = self.statements.last_mut().filter(|last| last.end.is_none()) {
            last.end = Some(bound);
            last.failed = Some(sqlstate.to_owned());
            last.open_after = line.vxid.is_some();
        }
    }

    fn note(&mut self, line: &'a LogEvent, note: &'a TriggerNote) {
        let text = line.statement.as_deref().unwrap_or(&note.tag);
        let known = self.statements.last().is_some_and(|last| {
            let open = if last.logged { last.end.is_none() } else { last.start_us == note.statement_us };
            last.text == text && open
        });
        let arrived = (note.statement_us, note.statement_us);
        if !known {
            self.begin(text, note.statement_us, arrived, false);
        }
        if let Some(last) = self.statements.last_mut() {
            last.arrived(note.statement_us);
        }
        let statement = self.statements.len().saturating_sub(1);
        self.notes.push(PlacedNote { note, vxid: line.vxid.as_deref(), statement });
    }

    /// Finds a sampled statement among the logged ones, or adds it where the log has none.
    fn adopt(&mut self, sighting: &Sighting) {
        let Some(arrived_us) = sighting.query_start_us.filter(|_| !sighting.query.is_empty()) else { return };
        let query = sighting.query.trim_end();
        let at = self.statements.iter().position(|statement| {
            (statement.arrival.0..=statement.arrival.1).contains(&arrived_us)
                && statement.text.starts_with(query)
        });
        if let Some(at) = at {
            self.statements[at].arrived(arrived_us);
            return;
        }
        let at = self.statements.partition_point(|statement| statement.start_us <= arrived_us);
        let mut fresh = Reader::default();
        fresh.begin(&sighting.query, arrived_us, (arrived_us, arrived_us), false);
        self.statements.splice(at..at, fresh.statements);
        for note in &mut self.notes {
            note.statement += usize::from(note.statement >= at);
        }
    }
}

impl Statement {
    /// Between which instants it came, as far as its line in the log or a trigger tells.
    pub(super) fn came(&self) -> (i64, i64) {
        (self.start_us, self.arrival.1.max(self.start_us))
    }

    /// It is known when it arrived.
    fn arrived(&mut self, at_us: i64) {
        if self.prepared {
            // Each message of the extended protocol has an arrival of its own; the first is the bound.
            return;
        }
        self.arrival = (at_us, at_us);
        self.start_us = if self.logged { self.start_us.max(at_us) } else { at_us };
    }
}

/// What was rolled back to savepoints, in the order of the rollbacks.
pub(super) fn undone(statements: &[Statement]) -> Vec<Undo> {
    let mut open: Vec<(String, usize)> = Vec::new();
    let mut undone = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        // Which part of several ran when is not known.
        if statement.failed.is_some() || statement.parts.len() != 1 {
            continue;
        }
        let words = first_words(&statement.text, 4);
        let words: Vec<&str> =
            words.iter().map(String::as_str).filter(|word| !["WORK", "TRANSACTION"].contains(word)).collect();
        let found = |name: &str| open.iter().rposition(|(known, _)| known == name);
        match words.as_slice() {
            ["SAVEPOINT", name] => open.push(((*name).to_owned(), index)),
            ["ROLLBACK" | "ABORT", "TO", "SAVEPOINT", name] | ["ROLLBACK" | "ABORT", "TO", name] => {
                if let Some(at) = found(name) {
                    undone.push(Undo { savepoint: open[at].1, rollback: index });
                    open.truncate(at + 1);
                }
            }
            ["RELEASE", "SAVEPOINT", name] | ["RELEASE", name] => {
                if let Some(at) = found(name) {
                    open.truncate(at);
                }
            }
            ["BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "PREPARE", ..] => open.clear(),
            _ => {}
        }
    }
    undone
}
