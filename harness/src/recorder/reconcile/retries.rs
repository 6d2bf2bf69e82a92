//! Statements that were ended while they waited or worked, and were sent again.
//!
//! `reconcile` asks once for all sessions: a shell that calls psql in a loop tries again in another session.

use std::collections::BTreeMap;

use fulldress_reports::lock::StatementRetries;

use super::statements::Statement;
use super::timeline::Timeline;
use super::{Context, STATEMENT_CHARACTERS};
use crate::recorder::statement::{is_control, normalise};

/// The statements of which an attempt followed one that `lock_timeout`, a deadlock or a cancellation had ended.
pub(super) fn retries(context: &Context<'_>, timelines: &[Timeline<'_>]) -> Vec<StatementRetries> {
    let mut attempts: BTreeMap<(Option<String>, &str), Vec<&Statement>> = BTreeMap::new();
    for timeline in timelines {
        let fully_logged = context.is_fully_logged(timeline);
        for statement in &timeline.statements {
            // What only a sample saw may be a statement that the log has too, a moment apart.
            let certain = statement.logged || statement.failed.is_some() || !fully_logged;
            if certain && !is_control(&statement.text) {
                let at_us = context.material.clock.rehearsal_us(statement.start_us);
                let step = context.step(at_us, &timeline.application);
                let text =
                    statement.text.trim_end_matches(|letter: char| letter == ';' || letter.is_whitespace());
                attempts.entry((step, text)).or_default().push(statement);
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
    mut attempts: Vec<&Statement>,
) -> Option<StatementRetries> {
    attempts.sort_by_key(|attempt| attempt.start_us);
    let first_us = context.material.clock.rehearsal_us(attempts.first()?.start_us);
    let last = attempts.last()?;
    let mut summed = StatementRetries {
        phase: context.phase(first_us),
        step,
        statement: normalise(text, STATEMENT_CHARACTERS),
        place: context.files.find(text),
        timed_out: 0,
        deadlocked: 0,
        cancelled: 0,
        retries: 0,
        succeeded: if last.failed.is_some() { Some(false) } else { last.end.map(|_| true) },
    };
    // When each attempt ended that nobody has followed up yet.
    let mut ended: Vec<i64> = Vec::new();
    for attempt in attempts {
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
