//! Statements that were ended while they waited or worked, and were sent again.
//!
//! `reconcile` asks once for all sessions: a shell that calls psql in a loop tries again in another session.

use std::collections::BTreeMap;

use fulldress_reports::lock::{LockMode, StatementRetries};

use super::statements::Statement;
use super::timeline::Timeline;
use super::{Context, STATEMENT_CHARACTERS};
use crate::recorder::observation::LockTarget;
use crate::recorder::sampler::Sighting;
use crate::recorder::statement::{is_control, normalise};

/// A statement as it was sent once, and how often it tried again by itself.
type Attempt<'a> = (&'a Statement, u64);

/// The statements of which an attempt followed one that `lock_timeout`, a deadlock or a cancellation had ended, and those that
/// caught such an end themselves and asked again.
pub(super) fn retries(context: &Context<'_>, timelines: &[Timeline<'_>]) -> Vec<StatementRetries> {
    let mut attempts: BTreeMap<(Option<String>, &str), Vec<Attempt<'_>>> = BTreeMap::new();
    for timeline in timelines {
        let fully_logged = context.is_fully_logged(timeline);
        let sightings = context.sightings(timeline.session);
        for (index, statement) in timeline.statements.iter().enumerate() {
            // What only a sample saw may be a statement that the log has too, a moment apart.
            let certain = statement.logged || statement.failed.is_some() || !fully_logged;
            if certain && !is_control(&statement.text) {
                let at_us = context.material.clock.rehearsal_us(statement.start_us);
                let step = context.step(at_us, &timeline.application);
                let text =
                    statement.text.trim_end_matches(|letter: char| letter == ';' || letter.is_whitespace());
                attempts
                    .entry((step, text))
                    .or_default()
                    .push((statement, caught(timeline, &sightings, index)));
            }
        }
    }
    let summed =
        attempts.into_iter().filter_map(|((step, text), attempts)| sum(context, step, text, attempts));
    let mut summed: Vec<StatementRetries> = summed.collect();
    summed.sort_by_key(|one| std::cmp::Reverse(one.retries));
    summed
}

fn sum(
    context: &Context<'_>,
    step: Option<String>,
    text: &str,
    mut attempts: Vec<Attempt<'_>>,
) -> Option<StatementRetries> {
    attempts.sort_by_key(|(attempt, _)| attempt.start_us);
    let first_us = context.material.clock.rehearsal_us(attempts.first()?.0.start_us);
    let (last, _) = attempts.last()?;
    let caught = attempts.iter().map(|(_, caught)| caught).sum();
    let mut summed = StatementRetries {
        phase: context.phase(first_us),
        step,
        statement: normalise(text, STATEMENT_CHARACTERS),
        place: context.files.find(text),
        timed_out: 0,
        deadlocked: 0,
        cancelled: 0,
        caught,
        retries: caught,
        succeeded: if last.failed.is_some() { Some(false) } else { last.end.map(|_| true) },
    };
    // When each attempt ended that nobody has followed up yet.
    let mut ended: Vec<i64> = Vec::new();
    for (attempt, _) in attempts {
        if let Some(at) = ended.iter().position(|ended_us| *ended_us <= attempt.came().1) {
            ended.remove(at);
            summed.retries += 1;
        }
        match attempt.failed.as_deref() {
            Some("55P03") => summed.timed_out += 1,
            Some("40P01") => summed.deadlocked += 1,
            Some("57014") => summed.cancelled += 1,
            _ => continue,
        }
        ended.push(attempt.end.map_or(attempt.start_us, |end| end.0));
    }
    (summed.retries > 0).then_some(summed)
}

/// How often one run of a statement asked again for a lock that it had waited for in vain.
///
/// Only samples tell: what procedural code catches reaches no log. So a wait that began and ended between two looks is not
/// counted, nor one whose transaction the code has ended in between.
fn caught(timeline: &Timeline<'_>, sightings: &[&Sighting], index: usize) -> u64 {
    let statement = &timeline.statements[index];
    let end_us = timeline.statement_end_us(index);
    let since_us = |sighting: &Sighting| sighting.wait_since_us.unwrap_or(sighting.first_us);
    let mut waits: BTreeMap<(&LockTarget, Option<LockMode>, &str), Vec<i64>> = BTreeMap::new();
    for sighting in sightings.iter().filter(|sighting| !sighting.granted) {
        // Between the transactions of others nothing is asked for twice.
        let asks = !matches!(sighting.target, LockTarget::VirtualTransaction | LockTarget::Other(_));
        let at_us = since_us(sighting);
        if asks && (statement.start_us..=end_us).contains(&at_us) {
            waits.entry((&sighting.target, sighting.mode, &sighting.vxid)).or_default().push(at_us);
        }
    }
    let (mut of_relations, mut of_rows) = (0, 0);
    for ((target, mode, vxid), mut begun) in waits {
        begun.sort_unstable();
        begun.dedup();
        let had = |from_us: i64, to_us: i64| {
            sightings.iter().any(|sighting| {
                sighting.granted
                    && (&sighting.target, sighting.mode, sighting.vxid.as_str()) == (target, mode, vxid)
                    && (from_us..to_us).contains(&sighting.first_us)
            })
        };
        let again = begun.windows(2).filter(|pair| !had(pair[0], pair[1])).count() as u64;
        match target {
            // One attempt may wait for its place in the queue of a row, and then for the transaction that has the row.
            LockTarget::Tuple(_) | LockTarget::Transaction(_) => of_rows = again.max(of_rows),
            _ => of_relations += again,
        }
    }
    of_relations + of_rows
}
