//! What two runners' evidence says: a pure function of what was seen, sent and left.

use std::collections::BTreeSet;

use fulldress_reports::evidence::{Difference, DoubleRunEvidence, DoubleRunOutcome, StepRun};
use fulldress_reports::figures::{cut, duration_us};

use super::account::Account;
use super::watch::{Runner, Seen};
use crate::recorder::statement::normalise;
use crate::upgrade::steps::TIMED_OUT;

/// Longest statement in a phrase, characters.
const STATEMENT_CHARACTERS: usize = 120;
const NAMES: [&str; 2] = ["first runner", "second runner"];

/// Everything that is known of a trial.
#[derive(Debug)]
pub(super) struct Told<'trial> {
    /// Steps that each runner finished.
    pub(super) runs: [Vec<StepRun>; 2],
    /// Whether both came to their end within the limit.
    pub(super) ended: bool,
    pub(super) seen: &'trial Seen,
    pub(super) accounts: &'trial [Account; 2],
    /// Differences from the schema that one runner reaches; not read when they did not end.
    pub(super) differences: Vec<Difference>,
    /// Steps that fail without a second runner too.
    pub(super) failed_alone: &'trial BTreeSet<String>,
}

/// What the evidence says.
pub(super) fn judge(told: Told<'_>) -> DoubleRunEvidence {
    let ended = told.ended && !told.failed().any(|(_, run)| timed_out(run));
    let waited = told.waited();
    let refused = told.refused();
    let failed = told.failed().next().is_some();
    let outcome = if !ended {
        DoubleRunOutcome::Hung
    } else if !told.differences.is_empty() {
        DoubleRunOutcome::Corrupted
    } else if refused {
        DoubleRunOutcome::Refused
    } else if failed {
        DoubleRunOutcome::Corrupted
    } else if waited {
        DoubleRunOutcome::Serialised
    } else {
        DoubleRunOutcome::NotSerialised
    };
    // Both asked for the lock and neither found it taken: they were at work together before or after it, which tries
    // nothing. A runner that failed or left something else met the other, however short the meeting was.
    let asked = told.accounts.iter().all(Account::asked);
    let overlapped = match outcome {
        DoubleRunOutcome::NotSerialised => told.seen.met && !asked,
        _ => true,
    };
    let errors = told.failed().filter_map(|(runner, run)| {
        Some(format!("{}, step {}: {}", NAMES[runner], run.id, run.error.as_ref()?))
    });
    DoubleRunEvidence {
        outcome,
        overlapped,
        waited_on_migration_lock: waited,
        errors: errors.collect(),
        seen: told.phrases(ended),
        differences: told.differences,
        at_step: None,
    }
}

fn timed_out(run: &StepRun) -> bool {
    run.error.as_deref() == Some(TIMED_OUT)
}

impl Told<'_> {
    /// Steps that failed, and not for a reason of their own.
    fn failed(&self) -> impl Iterator<Item = (Runner, &StepRun)> {
        let all =
            self.runs.iter().enumerate().flat_map(|(runner, runs)| runs.iter().map(move |run| (runner, run)));
        all.filter(|(_, run)| run.error.is_some() && !self.failed_alone.contains(&run.id))
    }

    /// Whether one was seen to wait for the migration lock until the other let it go.
    fn waited(&self) -> bool {
        let blocked = self.seen.waits.iter().any(|wait| wait.on_migration_lock && wait.for_the_other);
        // A runner that was told to come again met the other's migration lock as well.
        let told_to_come_again = self.runs.iter().flatten().any(|run| run.attempts > 1);
        blocked || told_to_come_again || self.polled().is_some()
    }

    /// Whether every failure is one runner's that was refused the lock before it changed anything.
    fn refused(&self) -> bool {
        let who: BTreeSet<Runner> = self.failed().map(|(runner, _)| runner).collect();
        who.len() == 1 && self.failed().all(|(runner, run)| self.accounts[runner].refused(&run.id))
    }

    /// A runner that asked for the lock again and again, or while the other one had it; how often.
    fn polled(&self) -> Option<(Runner, Option<usize>)> {
        (0..2).find_map(|runner| {
            let account = &self.accounts[runner];
            let met = account.asked_while(|at_us| self.seen.other_held(runner, at_us));
            (account.polls().is_some() || met).then(|| (runner, account.polls()))
        })
    }

    fn phrases(&self, ended: bool) -> Vec<String> {
        let mut phrases = Vec::new();
        if !ended {
            phrases.extend(self.at_the_limit());
        }
        phrases.extend(self.longest_wait());
        if let Some((runner, polls)) = self.polled() {
            let often = polls.map_or_else(
                || "while the other one had it".to_owned(),
                |polls| format!("{polls} times in one step"),
            );
            phrases.push(format!("the {} asked for the migration lock {often}", NAMES[runner]));
        }
        let tried = |(runner, runs): (Runner, &Vec<StepRun>)| {
            let most = runs.iter().max_by_key(|run| run.attempts).filter(|run| run.attempts > 1)?;
            Some(format!("the {} tried step {} {} times", NAMES[runner], most.id, most.attempts))
        };
        phrases.extend(self.runs.iter().enumerate().filter_map(tried));
        if self.accounts.iter().flat_map(|account| &account.failures).any(|one| one.sqlstate == "40P01") {
            phrases.push("PostgreSQL broke a deadlock".to_owned());
        }
        if !self.accounts.iter().any(Account::asked) {
            phrases.push("neither asked for a migration lock".to_owned());
        } else if phrases.is_empty() {
            phrases.push("the migration lock was asked for, and never while the other one had it".to_owned());
        }
        phrases
    }

    /// What each session did when the time was over.
    fn at_the_limit(&self) -> Vec<String> {
        let busy = self.seen.last.iter().filter(|session| session.busy || session.holds);
        busy.map(|session| {
            let name = NAMES[session.runner];
            let statement = cut(&normalise(&session.statement, 400), STATEMENT_CHARACTERS);
            let lock = if session.holds { " with the migration lock" } else { "" };
            match &session.waits_for {
                Some((target, behind)) => {
                    let owner = match behind.first() {
                        Some(other) if *other != session.runner => format!(" of the {}", NAMES[*other]),
                        Some(_) => " of its own".to_owned(),
                        None => String::new(),
                    };
                    format!("at the limit `{statement}` of the {name} waited for {target}{owner}")
                }
                None => format!("at the limit the {name} sat in a session{lock}, last `{statement}`"),
            }
        })
        .collect()
    }

    fn longest_wait(&self) -> Option<String> {
        let waits = self.seen.waits.iter().filter(|wait| wait.for_the_other);
        let longest = waits.max_by_key(|wait| (wait.on_migration_lock, wait.length_us()))?;
        let lock = if longest.on_migration_lock { ", the migration lock" } else { "" };
        let length = duration_us(longest.length_us());
        Some(format!("the {} waited {length} for {}{lock}", NAMES[longest.runner], longest.target))
    }
}

#[cfg(test)]
mod tests;
