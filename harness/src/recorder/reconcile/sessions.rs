//! What each package session changed, and whether it held the migration lock while it did.

use fulldress_reports::lock::{LockMode, PackageSession, StatementRef};

use super::holdings::Draft;
use super::timeline::{Change, Timeline};
use super::{Context, SHORT_STATEMENT_CHARACTERS};
use crate::recorder::observation::LockTarget;
use crate::recorder::statement::{first_words, mentions, normalise};
use crate::recorder::triggers::{NotedLock, TriggerNote, duration_ms};

/// Sums up one session.
pub(super) fn session(context: &Context<'_>, timeline: &Timeline<'_>, drafts: &[Draft]) -> PackageSession {
    let own: Vec<&Draft> = drafts.iter().filter(|draft| draft.session == timeline.session).collect();
    let first_us = context.material.clock.rehearsal_us(timeline.first_us);
    let mut session = PackageSession {
        pid: timeline.session.pid,
        role: timeline.role.clone(),
        phase: context.phase(first_us),
        step: context.step(first_us, &timeline.application),
        schema_changes: 0,
        migration_lock_held: true,
        without_lock_timeout: Vec::new(),
        first_unlocked: None,
    };
    for change in &timeline.changes {
        let Some(blocking) = touches_preexisting(context, timeline, &own, change) else { continue };
        session.schema_changes += 1;
        let at_us =
            change.start.map_or_else(|| timeline.statements[change.statement].start_us, |note| note.at_us);
        let lock_timeout_ms = match change.start {
            Some(note) => duration_ms(&note.lock_timeout),
            None => timeline.lock_timeout_ms(at_us),
        };
        if blocking && lock_timeout_ms == Some(0) {
            session.without_lock_timeout.push(reference(context, timeline, change));
        }
        if !migration_lock_held(context, timeline, &own, change) {
            session.migration_lock_held = false;
            if session.first_unlocked.is_none() {
                session.first_unlocked = Some(reference(context, timeline, change));
            }
        }
    }
    session
}

fn reference(context: &Context<'_>, timeline: &Timeline<'_>, change: &Change<'_>) -> StatementRef {
    let text = context.text(timeline, change.statement, change.part);
    StatementRef { statement: normalise(&text, SHORT_STATEMENT_CHARACTERS), place: context.files.find(&text) }
}

/// Whether a change locks a relation that existed before, and then whether it blocks clients.
fn touches_preexisting(
    context: &Context<'_>,
    timeline: &Timeline<'_>,
    own: &[&Draft],
    change: &Change<'_>,
) -> Option<bool> {
    let existed =
        |oid: u32| context.names.get(&oid).filter(|name| context.material.preexisting.contains(*name));
    let strong = |mode: LockMode| mode >= LockMode::ShareUpdateExclusiveLock;
    let text = context.text(timeline, change.statement, change.part);
    let taken = own.iter().filter(|draft| (draft.statement, draft.part) == (change.statement, change.part));
    let mut modes: Vec<LockMode> = Vec::new();
    let start = change.start.map_or(&[][..], |note| &note.locks);
    let news = |note: &TriggerNote| -> Vec<NotedLock> {
        note.locks.iter().filter(|lock| !start.contains(lock)).cloned().collect()
    };
    let added = change.end.map(news).unwrap_or_default();
    if added.is_empty() {
        modes.extend(taken.filter(|draft| existed(draft.oid).is_some()).map(|draft| draft.mode));
    }
    // A relation that the transaction has locked already is altered again without a new lock.
    let again = start.iter().filter(|lock| existed(lock.0).is_some_and(|name| mentions(&text, name)));
    let noted = added.iter().filter(|lock| existed(lock.0).is_some()).chain(again);
    modes.extend(noted.filter_map(NotedLock::mode));
    // A statement that runs outside a transaction has let go of its locks when its trigger fires, and a quick one lies
    // between two samples: its text names what it worked on.
    if modes.is_empty() && concurrent(&text) {
        let named = context.material.preexisting.iter().any(|name| mentions(&text, name));
        modes.extend(named.then_some(LockMode::ShareUpdateExclusiveLock));
    }
    let strongest = modes.into_iter().filter(|mode| strong(*mode)).max()?;
    Some(strongest.blocks_clients())
}

/// Whether a statement builds, drops or rebuilds an index, or detaches a partition, CONCURRENTLY.
fn concurrent(text: &str) -> bool {
    let words = first_words(text, 16);
    let kind = words.first().map(String::as_str);
    let changes = matches!(kind, Some("CREATE" | "DROP" | "REINDEX" | "ALTER"));
    changes && words.iter().any(|word| word == "CONCURRENTLY")
}

fn migration_lock_held(
    context: &Context<'_>,
    timeline: &Timeline<'_>,
    own: &[&Draft],
    change: &Change<'_>,
) -> bool {
    let wanted = context.material.migration_lock;
    let in_note = |note: &TriggerNote| {
        let advisory = note.advisory.iter().any(|lock| wanted.accepts_key(lock.key()));
        let table = note.locks.iter().filter(|lock| lock.4).any(|lock| {
            let name = context.names.get(&lock.0).or(lock.1.as_ref());
            name.zip(lock.mode()).is_some_and(|(name, mode)| wanted.accepts_relation(name, mode))
        });
        advisory || table
    };
    match (change.start, change.end) {
        (Some(start), Some(end)) => in_note(start) && in_note(end),
        (Some(start), None) => in_note(start),
        // No trigger fires for TRUNCATE and the like: samples and the notes around it must tell.
        (None, _) => held_around(context, timeline, own, change, &in_note),
    }
}

fn held_around(
    context: &Context<'_>,
    timeline: &Timeline<'_>,
    own: &[&Draft],
    change: &Change<'_>,
    in_note: &dyn Fn(&TriggerNote) -> bool,
) -> bool {
    let wanted = context.material.migration_lock;
    let at_us = own
        .iter()
        .find(|draft| (draft.statement, draft.part) == (change.statement, change.part))
        .map_or_else(|| timeline.statements[change.statement].start_us, |draft| draft.acquired.1);
    let sampled = context.sightings(timeline.session).into_iter().any(|sighting| {
        let accepted = match (&sighting.target, sighting.mode) {
            (LockTarget::Advisory(key), _) => wanted.accepts_key(*key),
            (LockTarget::Relation(oid), Some(mode)) => {
                context.names.get(oid).is_some_and(|name| wanted.accepts_relation(name, mode))
            }
            _ => false,
        };
        let since_us = sighting.not_before_us.unwrap_or(sighting.first_us);
        accepted && sighting.granted && since_us <= at_us && sighting.gone_us.is_none_or(|gone| gone >= at_us)
    });
    let before = timeline.notes.iter().rfind(|placed| placed.note.at_us <= at_us);
    let after = timeline.notes.iter().find(|placed| placed.note.at_us > at_us);
    let noted =
        before.is_some_and(|placed| in_note(placed.note)) && after.is_none_or(|placed| in_note(placed.note));
    sampled || noted || asked_before(timeline, change.statement)
}

/// Whether the session asked for an advisory lock earlier and did not let it go: for scripts too fast to sample.
fn asked_before(timeline: &Timeline<'_>, statement: usize) -> bool {
    let earlier = timeline.statements[..=statement].iter().rev().map(|one| one.text.to_lowercase());
    for text in earlier {
        if text.contains("pg_advisory_unlock") {
            return false;
        }
        if text.contains("pg_advisory_lock(") || text.contains("pg_try_advisory_lock(") {
            return true;
        }
    }
    false
}
