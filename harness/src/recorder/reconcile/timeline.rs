//! One package session as its log lines tell it: statements, notes of the triggers, ends of transactions.
//!
//! `reconcile` builds one for each session before it looks at locks. Times are the server's.

use fulldress_reports::lock::LockMode;

use super::statements::{self, PlacedNote, Statement, Undo};
use crate::recorder::log::{LogEvent, LogKind};
use crate::recorder::observation::{LockTarget, SessionId};
use crate::recorder::sampler::Sighting;
use crate::recorder::statement::{SchemaChange, schema_change};
use crate::recorder::triggers::{NoteEvent, TriggerNote};

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
    /// Between which instants each line was written.
    bounds: Vec<(i64, i64)>,
    pub(super) statements: Vec<Statement>,
    pub(super) notes: Vec<PlacedNote<'a>>,
    undone: Vec<Undo>,
    pub(super) changes: Vec<Change<'a>>,
}

impl<'a> Timeline<'a> {
    /// Builds it from the session's lines, in their order, and from what the sampler saw of it.
    pub(super) fn build(session: SessionId, lines: Vec<&'a LogEvent>, sightings: &[&Sighting]) -> Self {
        let bounds = statements::line_bounds(&lines);
        let (statements, notes) = statements::read(&lines, &bounds, sightings);
        let undone = statements::undone(&statements);
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
            bounds,
            statements,
            notes,
            undone,
            changes,
        }
    }

    /// Between which instants a transaction ended: its last line, and the session's next line after it.
    pub(super) fn transaction_end(&self, vxid: &str) -> (Option<i64>, Option<i64>) {
        let Some(last) = self.lines.iter().rposition(|line| line.vxid.as_deref() == Some(vxid)) else {
            return (None, None);
        };
        (Some(self.bounds[last].0), self.bounds.get(last + 1).map(|bound| bound.1))
    }

    /// The transaction that was ending between two instants, and not before a third: the first that had said its last by
    /// then, and after which none had begun.
    pub(super) fn ending_between(&self, low_us: i64, high_us: i64, not_before_us: i64) -> Option<&str> {
        let mut last: Option<(&str, usize)> = None;
        for (index, (line, bound)) in self.lines.iter().zip(&self.bounds).enumerate() {
            if bound.0 > high_us {
                break;
            }
            let Some(vxid) = line.vxid.as_deref() else { continue };
            let another = last.filter(|(last, _)| *last != vxid);
            let lasted = another.is_some_and(|(_, at)| self.bounds[at + 1].1 >= not_before_us);
            if lasted && bound.1 >= low_us {
                break;
            }
            last = Some((vxid, index));
        }
        last.map(|(vxid, _)| vxid)
    }

    /// Latest instant at which a statement can have ended.
    pub(super) fn statement_end_us(&self, index: usize) -> i64 {
        let next = self.statements.get(index + 1).map(|next| next.start_us);
        self.statements[index].end.map(|end| end.1).or(next).unwrap_or(i64::MAX)
    }

    /// Between which instants the rollbacks to savepoints of a transaction let locks go, with what they undid.
    pub(super) fn undone_in(&self, vxid: &str) -> Vec<(Undo, (i64, i64))> {
        let own = self.undone.iter().filter(|undo| self.statements[undo.rollback].vxids.contains(vxid));
        own.map(|undo| {
            let from_us = self.statements[undo.rollback].start_us;
            (*undo, (from_us, self.statement_end_us(undo.rollback).max(from_us)))
        })
        .collect()
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

    /// The role's wait log: between which instants a wait for this lock ended with it, and how long it took.
    pub(super) fn acquired_after_wait(
        &self,
        (oid, wanted): (u32, LockMode),
        vxid: &str,
    ) -> Option<((i64, i64), i64)> {
        self.lines.iter().zip(&self.bounds).find_map(|(line, bound)| match &line.what {
            LogKind::Acquired { target, after_us, mode }
                if *target == LockTarget::Relation(oid)
                    && mode.is_none_or(|mode| mode == wanted)
                    && line.vxid.as_deref() == Some(vxid) =>
            {
                Some((*bound, *after_us))
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
