//! From sightings and notes to locks with bounds: when each was asked for, granted and let go.
//!
//! `reconcile` calls it for each package session; `waits` then looks for clients behind the result.

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::{LockMode, LockOutcome, LockSource};

use super::statements::{Statement, Undo};
use super::timeline::Timeline;
use crate::recorder::observation::{LockTarget, SessionId};
use crate::recorder::sampler::{Sighting, is_ending};
use crate::recorder::statement::{first_words, is_control, mentions, schema_change};
use crate::recorder::triggers::{NoteEvent, TriggerNote};

/// A lock of the package before it becomes a record. Times are the server's, microseconds since 1970.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) session: SessionId,
    /// Virtual transaction.
    pub(super) vxid: String,
    pub(super) oid: u32,
    pub(super) mode: LockMode,
    pub(super) statement: usize,
    pub(super) part: usize,
    pub(super) requested_us: i64,
    pub(super) acquired: (i64, i64),
    pub(super) released: (i64, i64),
    pub(super) wait_us: i64,
    pub(super) outcome: LockOutcome,
    pub(super) rewritten: bool,
    pub(super) sources: BTreeSet<LockSource>,
}

/// One mode on one relation within one transaction, or within the part of one up to a rollback to a savepoint.
#[derive(Debug, Default)]
struct Holding {
    not_before_us: Option<i64>,
    /// Between which instants a source first saw it held.
    granted_first_low_us: i64,
    granted_first_us: Option<i64>,
    /// Between which instants a source last saw it held.
    granted_last_us: i64,
    granted_last_high_us: i64,
    gone_us: Option<i64>,
    gone_within_transaction: bool,
    wait_since_us: Option<i64>,
    waiting_last_us: Option<i64>,
    waiting_gone_us: Option<i64>,
    /// When the last of several waits began.
    last_wait_since_us: Option<i64>,
    /// How long those before it took, which ended without the lock and were caught.
    vain_us: i64,
    /// The last wait seen ended while the transaction went on.
    waiting_gone_within_transaction: bool,
    sources: BTreeSet<LockSource>,
}

impl Holding {
    /// Takes in what was seen of the same hold later on.
    fn go_on(&mut self, later: Self) {
        if self.granted_first_us.is_none() {
            self.granted_first_us = later.granted_first_us;
            self.granted_first_low_us = later.granted_first_low_us;
        }
        let before = |at: &i64| self.granted_first_us.is_none_or(|first| *at < first);
        self.not_before_us = self.not_before_us.max(later.not_before_us.filter(before));
        if later.granted_last_us >= self.granted_last_us && later.sources.contains(&LockSource::Sampler) {
            self.gone_us = later.gone_us;
            self.gone_within_transaction = later.gone_within_transaction;
        }
        self.granted_last_us = self.granted_last_us.max(later.granted_last_us);
        self.granted_last_high_us = self.granted_last_high_us.max(later.granted_last_high_us);
        self.wait_since_us = self.wait_since_us.or(later.wait_since_us);
        if let Some(since_us) = later.last_wait_since_us {
            if let Some(earlier_us) = self.last_wait_since_us.filter(|earlier_us| *earlier_us < since_us) {
                self.vain_us +=
                    (self.wait_ended_us().unwrap_or(earlier_us) - earlier_us).max(0) + later.vain_us;
            }
            self.last_wait_since_us = Some(since_us);
            self.waiting_gone_within_transaction = later.waiting_gone_within_transaction;
        }
        self.waiting_last_us = self.waiting_last_us.max(later.waiting_last_us);
        self.waiting_gone_us = later.waiting_gone_us.or(self.waiting_gone_us);
        self.sources.extend(later.sources);
    }

    /// The middle of when the last wait seen can have ended.
    fn wait_ended_us(&self) -> Option<i64> {
        let gone_us = self.waiting_gone_us?;
        Some(self.waiting_last_us.map_or(gone_us, |last_us| i64::midpoint(last_us.min(gone_us), gone_us)))
    }

    /// When it was first seen, held or waited for.
    fn begun_us(&self) -> i64 {
        [self.granted_first_us, self.wait_since_us].into_iter().flatten().min().unwrap_or(i64::MAX)
    }

    /// Earliest instant at which it can last have been seen.
    fn lasted_us(&self) -> i64 {
        self.granted_last_us.max(self.waiting_last_us.unwrap_or(i64::MIN))
    }
}

/// Virtual transaction, relation, mode.
type HoldingKey = (String, u32, LockMode);

/// The locks of one session. `names` are those that statements have for what they lock; `looks` is when the sampler looked,
/// and `end_us` when recording ended.
pub(super) fn drafts(
    timeline: &Timeline<'_>,
    sightings: &[&Sighting],
    names: &BTreeMap<u32, String>,
    looks: &[(i64, i64)],
    end_us: i64,
) -> Vec<Draft> {
    let mut holdings: BTreeMap<HoldingKey, Vec<Holding>> = BTreeMap::new();
    take_sightings(&mut holdings, timeline, sightings, looks);
    take_notes(&mut holdings, timeline);
    let mut drafts: Vec<Draft> = Vec::new();
    for ((vxid, oid, mode), seen) in holdings {
        let name = names.get(&oid).map_or("", String::as_str);
        for draft in drafts_of(timeline, (&vxid, oid, mode), seen, name, end_us) {
            match drafts.iter_mut().find(|known| same_lock(known, &draft)) {
                // CREATE INDEX CONCURRENTLY keeps its lock across its own transactions.
                Some(known) if known.mode == draft.mode => merge(known, draft),
                Some(known) if known.mode < draft.mode => *known = draft,
                Some(_) => {}
                None => drafts.push(draft),
            }
        }
    }
    drop_covered(&mut drafts);
    drafts
}

/// A lock that was taken after a savepoint ends with the rollback to it, and may be taken again; one that was taken before
/// goes on.
fn drafts_of(
    timeline: &Timeline<'_>,
    (vxid, oid, mode): (&str, u32, LockMode),
    mut seen: Vec<Holding>,
    name: &str,
    end_us: i64,
) -> Vec<Draft> {
    let undone = timeline.undone_in(vxid);
    let mut drafts = Vec::new();
    seen.sort_by_key(Holding::begun_us);
    let mut left = seen.into_iter().peekable();
    while let Some(mut holding) = left.next() {
        narrow_by_notes(timeline, (vxid, oid, mode), &mut holding);
        let (statement, _) = locate(timeline, (vxid, oid, mode), &holding, name);
        let of_statement = |(undo, _): &&(Undo, _)| (undo.savepoint + 1..undo.rollback).contains(&statement);
        let released = undone.iter().find(of_statement).map(|(_, span)| *span);
        let goes_on = |later: &Holding| released.is_none_or(|(_, to_us)| later.lasted_us() <= to_us);
        while let Some(later) = left.next_if(goes_on) {
            holding.go_on(later);
        }
        narrow_by_notes(timeline, (vxid, oid, mode), &mut holding);
        let mut draft = draft(timeline, (vxid, oid, mode), &holding, name, end_us);
        if let Some((low_us, high_us)) = released.filter(|_| draft.outcome == LockOutcome::Granted) {
            let high_us = draft.released.1.min(high_us).max(draft.acquired.0);
            draft.released = (draft.released.0.max(low_us).min(high_us), high_us);
        }
        drafts.push(draft);
    }
    drafts
}

fn same_lock(one: &Draft, other: &Draft) -> bool {
    (one.oid, one.statement, one.part) == (other.oid, other.statement, other.part)
}

fn merge(known: &mut Draft, other: Draft) {
    known.requested_us = known.requested_us.min(other.requested_us);
    known.acquired = (known.acquired.0.min(other.acquired.0), known.acquired.1.min(other.acquired.1));
    known.released = (known.released.0.max(other.released.0), known.released.1.max(other.released.1));
    known.wait_us = known.wait_us.max(other.wait_us);
    known.sources.extend(other.sources);
}

/// A weaker lock that a session takes on what it already holds more strongly blocks nobody else.
fn drop_covered(drafts: &mut Vec<Draft>) {
    let all = drafts.clone();
    drafts.retain(|draft| {
        !all.iter().any(|earlier| {
            earlier.oid == draft.oid
                && (earlier.statement, earlier.part) < (draft.statement, draft.part)
                && earlier.requested_us <= draft.acquired.1
                && earlier.outcome == LockOutcome::Granted
                && earlier.released.1 >= draft.released.1
                && LockMode::ALL
                    .into_iter()
                    .all(|mode| !draft.mode.conflicts_with(mode) || earlier.mode.conflicts_with(mode))
        })
    });
}

fn take_sightings(
    holdings: &mut BTreeMap<HoldingKey, Vec<Holding>>,
    timeline: &Timeline<'_>,
    sightings: &[&Sighting],
    looks: &[(i64, i64)],
) {
    for sighting in sightings {
        let (LockTarget::Relation(oid), Some(mode)) = (&sighting.target, sighting.mode) else { continue };
        let ending = is_ending(&sighting.vxid);
        let not_before_us = sighting.not_before_us.unwrap_or(i64::MIN);
        let ended = || timeline.ending_between(sighting.last_us, sighting.first_us, not_before_us);
        let vxid = ending.then(ended).flatten().unwrap_or(&sighting.vxid);
        let pieces = pieces(sighting, &timeline.undone_in(vxid), looks);
        let seen = holdings.entry((vxid.to_owned(), *oid, mode)).or_default();
        seen.extend(pieces.iter().map(|piece| sighted(piece, looks)));
    }
}

/// A sighting cut at the rollbacks to savepoints: what was let go there may have been taken again before the next look.
fn pieces(sighting: &Sighting, undone: &[(Undo, (i64, i64))], looks: &[(i64, i64)]) -> Vec<Sighting> {
    let mut pieces = Vec::new();
    let mut rest = sighting.clone();
    for (_, (from_us, to_us)) in undone {
        if rest.first_us > *from_us {
            continue;
        }
        if rest.last_us < *to_us {
            break;
        }
        let mut before = rest.clone();
        before.last_us = looks
            .partition_point(|look| look.1 <= *from_us)
            .checked_sub(1)
            .map_or(rest.first_us, |index| looks[index].0.max(rest.first_us));
        before.gone_us = Some(*to_us);
        before.gone_within_transaction = true;
        pieces.push(before);
        let next = looks.get(looks.partition_point(|look| look.0 < *to_us));
        rest.first_us = next.map_or(rest.last_us, |look| look.1);
        rest.not_before_us = Some(*from_us);
    }
    pieces.push(rest);
    pieces
}

/// What one sighting tells of a holding.
fn sighted(sighting: &Sighting, looks: &[(i64, i64)]) -> Holding {
    let mut holding = Holding { sources: BTreeSet::from([LockSource::Sampler]), ..Holding::default() };
    if !sighting.granted {
        holding.wait_since_us = Some(sighting.wait_since_us.unwrap_or(sighting.first_us));
        holding.last_wait_since_us = holding.wait_since_us;
        holding.waiting_gone_within_transaction = sighting.gone_within_transaction;
        holding.waiting_last_us = Some(sighting.last_us);
        holding.waiting_gone_us = sighting.gone_us;
        return holding;
    }
    let first = looks.get(looks.partition_point(|look| look.1 < sighting.first_us));
    let first = first.filter(|look| look.1 == sighting.first_us);
    let last = looks.get(looks.partition_point(|look| look.0 < sighting.last_us));
    let last = last.filter(|look| look.0 == sighting.last_us);
    holding.granted_first_us = Some(sighting.first_us);
    holding.granted_first_low_us = first.map_or(sighting.first_us, |look| look.0);
    holding.not_before_us = sighting.not_before_us;
    holding.granted_last_us = sighting.last_us;
    holding.granted_last_high_us = last.map_or(sighting.last_us, |look| look.1);
    holding.gone_us = sighting.gone_us;
    holding.gone_within_transaction = sighting.gone_within_transaction;
    holding
}

fn take_notes(holdings: &mut BTreeMap<HoldingKey, Vec<Holding>>, timeline: &Timeline<'_>) {
    for placed in &timeline.notes {
        let vxid = placed.vxid.unwrap_or_default();
        for lock in placed.note.locks.iter().filter(|lock| lock.4) {
            let Some(mode) = lock.mode() else { continue };
            holdings.entry((vxid.to_owned(), lock.0, mode)).or_default().push(Holding {
                sources: BTreeSet::from([LockSource::EventTrigger]),
                granted_first_low_us: placed.note.began_us,
                granted_first_us: Some(placed.note.at_us),
                granted_last_us: placed.note.began_us,
                granted_last_high_us: placed.note.at_us,
                ..Holding::default()
            });
        }
    }
}

/// Notes list all locks of a session, so a lock that one does not list was not held then.
fn narrow_by_notes(timeline: &Timeline<'_>, (vxid, oid, mode): (&str, u32, LockMode), holding: &mut Holding) {
    holding.not_before_us =
        holding.not_before_us.filter(|at| holding.granted_first_us.is_none_or(|first| *at < first));
    if holding.gone_us.is_some_and(|gone| gone <= holding.granted_last_us) {
        holding.gone_us = None;
    }
    if holding.granted_first_us.is_none() {
        return;
    }
    for placed in &timeline.notes {
        if placed.note.locks.iter().any(|lock| lock.0 == oid && lock.mode() == Some(mode)) {
            continue;
        }
        // A note in the middle of a look may be from before or after the instant at which that read the lock.
        if placed.note.at_us < holding.granted_first_low_us {
            holding.not_before_us = holding.not_before_us.max(Some(placed.note.began_us));
        } else if placed.note.began_us > holding.granted_last_high_us
            && holding.gone_us.is_none_or(|gone| placed.note.at_us < gone)
        {
            holding.gone_us = Some(placed.note.at_us);
            holding.gone_within_transaction = placed.vxid == Some(vxid);
        }
    }
}

fn draft(
    timeline: &Timeline<'_>,
    (vxid, oid, mode): (&str, u32, LockMode),
    holding: &Holding,
    name: &str,
    end_us: i64,
) -> Draft {
    let (statement, part) = locate(timeline, (vxid, oid, mode), holding, name);
    let running = timeline.statements.get(statement);
    let start_us = running.map_or(i64::MIN, |running| running.start_us);
    let mut sources = holding.sources.clone();
    if running.is_some_and(|running| running.logged) {
        sources.insert(LockSource::StatementLog);
    }
    let logged_wait = timeline.acquired_after_wait((oid, mode), vxid);
    let mut acquired_low =
        [holding.not_before_us, holding.waiting_last_us, holding.wait_since_us, Some(start_us)]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(start_us);
    let mut acquired_high = holding.granted_first_us.unwrap_or(end_us);
    let mut since_us = holding.wait_since_us;
    if let Some((at, after_us)) = logged_wait {
        sources.insert(LockSource::WaitLog);
        acquired_low = acquired_low.max(at.0);
        acquired_high = acquired_high.min(at.1);
        since_us = since_us.or(Some(at.0 - after_us));
    }
    let (tx_low, tx_high) = timeline.transaction_end(vxid);
    let failed = running.and_then(|running| running.failed.as_deref());
    let caught = running.filter(|_| holding.granted_first_us.is_none()).is_some_and(|running| {
        holding.waiting_gone_within_transaction && running.failed.is_none() && may_catch(&running.text)
    });
    let outcome = match timeline.lock_timeout_ms(holding.waiting_last_us.unwrap_or(start_us)) {
        Some(0) if caught => LockOutcome::Deadlocked,
        _ if caught => LockOutcome::TimedOut,
        _ => outcome(holding, failed),
    };
    let (mut low, mut high) = if holding.gone_within_transaction {
        (holding.granted_last_us, holding.gone_us.unwrap_or(end_us))
    } else {
        let high = [holding.gone_us, tx_high].into_iter().flatten().min().unwrap_or(end_us);
        (holding.granted_last_us.max(tx_low.unwrap_or(i64::MIN)), high)
    };
    if outcome != LockOutcome::Granted {
        // Given up, never held.
        let failed_us = running.and_then(|running| running.end).map(|end| end.1);
        let caught_us = holding.wait_ended_us().filter(|_| caught);
        let given_up = caught_us.or(failed_us).or(holding.waiting_gone_us).or(tx_high).unwrap_or(end_us);
        (low, high, acquired_low, acquired_high) = (given_up, given_up, given_up, given_up);
    } else if holding.granted_first_us.is_none() {
        // Seen waiting, then its statement succeeded: granted and let go between two samples.
        acquired_high = high;
        low = acquired_low;
    }
    let acquired_low = acquired_low.min(acquired_high);
    let wait_us = match (logged_wait, holding.last_wait_since_us) {
        (Some((_, after_us)), _) => after_us,
        (None, Some(since)) => i64::midpoint(acquired_low, acquired_high) - since,
        (None, None) => 0,
    };
    Draft {
        session: timeline.session,
        vxid: vxid.to_owned(),
        oid,
        mode,
        statement,
        part,
        requested_us: since_us.unwrap_or(acquired_low).min(acquired_low),
        acquired: (acquired_low, acquired_high),
        released: (low.min(high), high),
        wait_us: wait_us.max(0) + holding.vain_us,
        outcome,
        rewritten: was_rewritten(timeline, statement, oid),
        sources,
    }
}

/// Whether a statement can go on after an error inside it: it runs somebody's procedural code.
fn may_catch(text: &str) -> bool {
    let first = first_words(text, 1);
    matches!(first.first().map(String::as_str), Some("DO" | "CALL" | "SELECT" | "WITH" | "EXECUTE"))
}

fn outcome(holding: &Holding, failed: Option<&str>) -> LockOutcome {
    if holding.granted_first_us.is_some() {
        return LockOutcome::Granted;
    }
    match failed {
        None => LockOutcome::Granted,
        Some("55P03") => LockOutcome::TimedOut,
        Some("40P01") => LockOutcome::Deadlocked,
        Some(_) => LockOutcome::Cancelled,
    }
}

fn was_rewritten(timeline: &Timeline<'_>, statement: usize, oid: u32) -> bool {
    timeline.notes.iter().any(|placed| {
        placed.statement == statement
            && placed.note.event == NoteEvent::TableRewrite
            && placed.note.rewritten.as_ref().is_some_and(|(rewritten, _)| *rewritten == oid)
    })
}

/// The statement, and the part of it, that took a lock.
fn locate(
    timeline: &Timeline<'_>,
    (vxid, oid, mode): (&str, u32, LockMode),
    holding: &Holding,
    name: &str,
) -> (usize, usize) {
    let seen_us = holding.wait_since_us.or(holding.granted_first_us).unwrap_or(i64::MAX);
    let from_us =
        if holding.wait_since_us.is_some() { seen_us } else { holding.not_before_us.unwrap_or(i64::MIN) };
    let of_transaction = |index: &usize| timeline.statements[*index].vxids.contains(vxid);
    let known = (0..timeline.statements.len()).any(|index| of_transaction(&index));
    let candidates: Vec<usize> = (0..timeline.statements.len())
        .filter(|index| !known || of_transaction(index))
        .filter(|index| {
            timeline.statements[*index].start_us <= seen_us && timeline.statement_end_us(*index) >= from_us
        })
        .filter(|index| !lists_at_start(timeline, *index, oid, mode))
        .collect();
    let text = |index: &usize| timeline.statements[*index].text.as_str();
    let naming: Vec<&usize> =
        candidates.iter().filter(|index| !name.is_empty() && mentions(text(index), name)).collect();
    // Two statements on one relation between two samples: each took what its kind takes, and the first one took it.
    let kind = |index: &&&usize| super::certain_mode(text(index));
    let of_kind = naming.iter().find(|index| kind(index) == Some(mode));
    let of_any_kind = || naming.iter().rfind(|index| kind(index).is_none());
    let named = of_kind.or_else(of_any_kind).or(naming.last()).copied();
    let changing = || candidates.iter().rfind(|index| schema_change(text(index)).is_some());
    let working = || candidates.iter().rfind(|index| !is_control(text(index)));
    let last =
        || timeline.statements.partition_point(|statement| statement.start_us <= seen_us).saturating_sub(1);
    let index = named.or_else(changing).or_else(working).or(candidates.last()).copied().unwrap_or_else(last);
    let part = timeline.statements.get(index).map_or(0, |statement| {
        let notes =
            timeline.notes.iter().filter(|placed| placed.statement == index).map(|placed| placed.note);
        locate_part(statement, &notes.collect::<Vec<_>>(), (oid, mode), seen_us, name)
    });
    (index, part)
}

/// Whether the session had the lock when the statement's first schema change began.
fn lists_at_start(timeline: &Timeline<'_>, statement: usize, oid: u32, mode: LockMode) -> bool {
    let single = timeline.statements[statement].parts.len() < 2;
    let first = timeline.notes.iter().find(|placed| placed.statement == statement);
    single
        && first.is_some_and(|placed| {
            placed.note.event == NoteEvent::DdlCommandStart
                && placed.note.locks.iter().any(|lock| lock.0 == oid && lock.mode() == Some(mode))
        })
}

fn locate_part(
    statement: &Statement,
    notes: &[&TriggerNote],
    (oid, mode): (u32, LockMode),
    seen_us: i64,
    name: &str,
) -> usize {
    if statement.parts.len() < 2 {
        return 0;
    }
    let lists =
        |note: &&&TriggerNote| note.locks.iter().any(|lock| lock.0 == oid && lock.mode() == Some(mode));
    let starts: Vec<&&TriggerNote> =
        notes.iter().filter(|note| note.event == NoteEvent::DdlCommandStart).collect();
    let begun = starts.iter().filter(|note| note.began_us <= seen_us && !lists(note)).count();
    let triggering: Vec<usize> = (0..statement.parts.len())
        .filter(|part| {
            schema_change(&statement.parts[*part])
                == Some(crate::recorder::statement::SchemaChange::Triggering)
        })
        .collect();
    let named = |part: usize| !name.is_empty() && mentions(&statement.parts[part], name);
    if begun > 0 && starts.len() <= triggering.len() {
        let change = triggering[begun - 1];
        // A part between this change and the next may have taken it, where it names the relation.
        let next = triggering.get(begun).copied().unwrap_or(statement.parts.len());
        let later = (change + 1..next).find(|part| named(*part));
        return if named(change) { change } else { later.unwrap_or(change) };
    }
    (0..statement.parts.len()).find(|part| named(*part)).unwrap_or(0)
}
