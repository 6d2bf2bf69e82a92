//! Rules on the package's locks: how long held, who waited, under which guards.

use std::collections::BTreeMap;

use crate::check::Outcome;
use crate::evidence::{Difference, DoubleRunOutcome};
use crate::figures::{self, cut, duration_us, milliseconds};
use crate::finding::{Finding, Place};
use crate::lock::{LockEvidence, LockRecord, PackageSession, StatementRef};
use crate::phase::Phase;

use super::{Case, Ruling, unplayed};

/// The phases whose locks are judged.
const CHANGING: [Phase; 2] = [Phase::Upgrade, Phase::Rollback];
/// Routes that a finding names.
const ROUTES_SHOWN: usize = 3;
/// Idle time below this is the way between client and server, and in no finding; microseconds.
const IDLE_TOLD_US: u64 = 10_000;
const NO_RECORDER: &str = "the lock recorder reported nothing";

pub(super) fn hold(case: &Case<'_>) -> Ruling {
    let Some(locks) = &case.evidence.locks else {
        return Ruling::inconclusive(NO_RECORDER);
    };
    let blocking = judged(locks).filter(|record| record.preexisting && record.mode.blocks_clients());
    let worst = worst_by(blocking, |record| record.hold.high_us);
    let observed = worst.first().map_or(0, |record| record.hold.high_us);
    let proven = worst.iter().any(|record| milliseconds(record.hold.low_us) > case.limit);
    let over = worst.iter().filter(|record| milliseconds(record.hold.high_us) > case.limit);
    let findings: Vec<_> = over.map(|record| hold_finding(case, record)).collect();
    let pass = worst.first().map_or_else(
        || "no lock that blocks clients was taken on an existing relation".to_owned(),
        |record| {
            let held = duration_us(record.hold.high_us);
            format!("blocking locks held at most {held} ({} on {})", record.mode.sql(), record.relation)
        },
    );
    let mut ruling = case.decided(milliseconds(observed), findings, pass);
    if ruling.outcome == Outcome::Fail && !proven {
        ruling.outcome = Outcome::Inconclusive;
        ruling.evidence = format!(
            "the hold is known too loosely to tell whether it was above {}: {}",
            case.limit_text(),
            ruling.evidence
        );
    }
    ruling.unless_missing(unplayed(case.evidence, &CHANGING))
}

fn hold_finding(case: &Case<'_>, record: &LockRecord) -> Finding {
    let held = if record.hold.low_us == record.hold.high_us {
        duration_us(record.hold.high_us)
    } else {
        format!("{} to {}", duration_us(record.hold.low_us), duration_us(record.hold.high_us))
    };
    let rewrite = if record.rewritten { " while its storage was rewritten" } else { "" };
    let idle_us = record.idle.map_or(0, |idle| idle.low_us);
    let idle = if idle_us < IDLE_TOLD_US {
        String::new()
    } else {
        format!(", {} of it with the session idle in its transaction", duration_us(idle_us))
    };
    let what = format!(
        "`{}` held {} on {} for {held}{rewrite}{idle} (limit {}); {}.",
        cut(&record.statement, 120),
        record.mode.sql(),
        record.relation,
        case.limit_text(),
        waits(record),
    );
    case.measured(object_of(record), record.place.as_ref(), milliseconds(record.hold.high_us), what)
}

pub(super) fn wait(case: &Case<'_>) -> Ruling {
    let Some(locks) = &case.evidence.locks else {
        return Ruling::inconclusive(NO_RECORDER);
    };
    let worst = worst_by(judged(locks), longest_wait);
    let observed = worst.first().map_or(0, |record| longest_wait(record));
    let over = worst.iter().filter(|record| milliseconds(longest_wait(record)) > case.limit);
    let findings: Vec<_> = over.map(|record| wait_finding(case, record)).collect();
    let waits_total: u64 = judged(locks).map(|record| record.victims_total).sum();
    let pass = if waits_total == 0 {
        "no client waited behind the package".to_owned()
    } else {
        let waits = figures::count(waits_total, "client wait");
        format!("{waits} behind the package, the longest {}", duration_us(observed))
    };
    case.decided(milliseconds(observed), findings, pass).unless_missing(unplayed(case.evidence, &CHANGING))
}

fn wait_finding(case: &Case<'_>, record: &LockRecord) -> Finding {
    let victim = record.victims.iter().max_by_key(|victim| victim.blocked_us);
    let example = victim.map_or_else(String::new, |victim| {
        format!(", among them `{}` of {}", cut(&victim.statement, 80), victim.role)
    });
    let what = format!(
        "{} while `{}` {} {} on {} (limit {}){example}.",
        waits(record),
        cut(&record.statement, 120),
        verb(record),
        record.mode.sql(),
        record.relation,
        case.limit_text(),
    );
    case.measured(object_of(record), record.place.as_ref(), milliseconds(longest_wait(record)), what)
}

pub(super) fn migration(case: &Case<'_>) -> Ruling {
    let Some(locks) = &case.evidence.locks else {
        return Ruling::inconclusive(NO_RECORDER);
    };
    let changing: Vec<_> = sessions(locks).filter(|session| session.schema_changes > 0).collect();
    let findings: Vec<_> = changing
        .iter()
        .filter(|session| !session.migration_lock_held)
        .map(|session| {
            let changes = figures::count(u64::from(session.schema_changes), "schema change");
            let first = session.first_unlocked.as_ref();
            let statement = first.map_or_else(String::new, |first| {
                format!("; the first was `{}`", cut(&first.statement, 120))
            });
            let what = format!(
                "A session of {} made {changes} without the migration lock{statement}.",
                origin(session)
            );
            Finding {
                place: first.and_then(|first| first.place.clone()),
                ..case.finding(origin(session), what)
            }
        })
        .collect();
    let pass = match changing.len() {
        0 => "no session changed an existing relation".to_owned(),
        1 => "the one session that changed the schema held the migration lock throughout".to_owned(),
        many => format!("all {many} sessions that changed the schema held the migration lock throughout"),
    };
    case.counted(findings, pass).unless_missing(unattributed(case, locks))
}

/// What keeps a rule on sessions from passing: phases not played, or schema changes that belong to no session.
fn unattributed(case: &Case<'_>, locks: &LockEvidence) -> Option<String> {
    if locks.sessions.is_empty() && locks.trust.ddl_statements > 0 {
        let changes = figures::count(locks.trust.ddl_statements, "schema change");
        return Some(format!("{changes} could be attributed to no session of the package"));
    }
    unplayed(case.evidence, &CHANGING)
}

pub(super) fn timeout(case: &Case<'_>) -> Ruling {
    let Some(locks) = &case.evidence.locks else {
        return Ruling::inconclusive(NO_RECORDER);
    };
    // One statement may be known from its session and from its lock records: the key tells them together.
    let mut unguarded: BTreeMap<(Option<Place>, String), String> = BTreeMap::new();
    for session in sessions(locks) {
        for StatementRef { statement, place } in &session.without_lock_timeout {
            unguarded.insert((place.clone(), cut(statement, 120)), origin(session));
        }
    }
    let blocking = || judged(locks).filter(|record| record.preexisting && record.mode.blocks_clients());
    for record in blocking().filter(|record| record.lock_timeout_ms == Some(0)) {
        unguarded.insert((record.place.clone(), cut(&record.statement, 120)), record.relation.clone());
    }
    let unknown = blocking().filter(|record| record.lock_timeout_ms.is_none()).count() as u64;
    let guarded = blocking().filter(|record| record.lock_timeout_ms > Some(0)).count() as u64;
    let findings = unguarded
        .into_iter()
        .map(|((place, statement), object)| {
            let what = format!("`{statement}` ran with no lock_timeout: it may wait for ever, and everything queues behind it.");
            Finding { place, ..case.finding(object, what) }
        })
        .collect();
    let missing =
        (unknown > 0).then(|| format!("the lock_timeout of {} is unknown", figures::count(unknown, "lock")));
    let pass = format!("{} ran under a lock_timeout", figures::count(guarded, "blocking lock"));
    case.counted(findings, pass).unless_missing(missing.or_else(|| unattributed(case, locks)))
}

pub(super) fn double_run(case: &Case<'_>) -> Ruling {
    let Some(run) = &case.evidence.double_run else {
        return Ruling::inconclusive("no second runner was started");
    };
    let errors = run.errors.first().map_or_else(String::new, |first| format!(" ({first})"));
    let seen = if run.seen.is_empty() { String::new() } else { format!(": {}", run.seen.join("; ")) };
    if !run.overlapped && run.outcome != DoubleRunOutcome::Hung {
        return Ruling::inconclusive(format!(
            "the two runners never met, so nothing was tried{seen}{errors}"
        ));
    }
    let mut findings: Vec<_> = run.differences.iter().map(|one| difference(case, one)).collect();
    let broken = match run.outcome {
        DoubleRunOutcome::Serialised | DoubleRunOutcome::Refused => None,
        DoubleRunOutcome::NotSerialised => {
            Some(format!("The second runner ran beside the first{seen}{errors}."))
        }
        DoubleRunOutcome::Corrupted => {
            Some(format!("The two runners got into each other's way{seen}{errors}."))
        }
        DoubleRunOutcome::Hung => {
            Some(format!("The two runners did not end within their time limit{seen}{errors}."))
        }
    };
    if let Some(what) = broken {
        findings.insert(0, case.finding("second runner", what));
    }
    let pass = match (run.outcome, run.waited_on_migration_lock) {
        (DoubleRunOutcome::Refused, _) => "one of two runners was refused before it changed anything",
        (_, true) => "the second runner waited on the migration lock and found nothing to do",
        (_, false) => "the second runner waited for the first and found nothing to do",
    };
    case.counted(findings, format!("{pass}{seen}{errors}"))
}

fn difference(case: &Case<'_>, difference: &Difference) -> Finding {
    let Difference { kind, object, after, .. } = difference;
    // As the fingerprint writes an index that a build left unfinished.
    let invalid = kind == "index" && after.as_ref().is_some_and(|after| after.contains(" valid f "));
    let what = if invalid {
        format!("Index {object} is INVALID after two runners: its build was cut short.")
    } else {
        format!("{} {object} differs after two runners.", capitalised(kind))
    };
    case.finding(object.as_str(), what)
}

pub(super) fn residue(case: &Case<'_>) -> Ruling {
    let Some(locks) = &case.evidence.locks else {
        return Ruling::inconclusive(NO_RECORDER);
    };
    let findings = locks
        .leftovers
        .iter()
        .map(|left| {
            let what = format!("{} {} was left behind after phase {}.", left.kind, left.object, left.phase);
            case.finding(left.object.as_str(), capitalised(&what))
        })
        .collect();
    case.counted(findings, "no invalid index, unvalidated constraint, disabled trigger, changed setting, leaked lock or open transaction was left")
        .unless_missing(unread_leftovers(locks).or_else(|| unplayed(case.evidence, &CHANGING)))
}

fn unread_leftovers(locks: &LockEvidence) -> Option<String> {
    let phase = locks.leftovers_unread.first()?;
    Some(format!("what was left behind after phase {phase} could not be read"))
}

/// The records of the phases that are judged.
pub(super) fn judged(locks: &LockEvidence) -> impl Iterator<Item = &LockRecord> {
    locks.records.iter().filter(|record| record.phase.is_changing())
}

fn sessions(locks: &LockEvidence) -> impl Iterator<Item = &PackageSession> {
    locks.sessions.iter().filter(|session| session.phase.is_changing())
}

/// One record a statement and relation, the one with the largest `size`; largest first.
pub(super) fn worst_by<'evidence>(
    records: impl Iterator<Item = &'evidence LockRecord>,
    size: fn(&LockRecord) -> u64,
) -> Vec<&'evidence LockRecord> {
    let mut worst: BTreeMap<(&str, &str, Option<&Place>), &LockRecord> = BTreeMap::new();
    for record in records {
        let key = (record.statement.as_str(), record.relation.as_str(), record.place.as_ref());
        let kept = worst.entry(key).or_insert(record);
        if size(record) > size(kept) {
            *kept = record;
        }
    }
    let mut worst: Vec<_> = worst.into_values().collect();
    worst
        .sort_by(|left, right| size(right).cmp(&size(left)).then(left.requested_us.cmp(&right.requested_us)));
    worst
}

/// The longest wait behind a lock, microseconds.
pub(super) fn longest_wait(record: &LockRecord) -> u64 {
    record.victims.iter().map(|victim| victim.blocked_us).max().unwrap_or(0)
}

/// `held`, or `queued for` where clients waited behind a request that was itself waiting.
pub(super) fn verb(record: &LockRecord) -> &'static str {
    if record.wait_us > record.hold.high_us { "queued for" } else { "held" }
}

/// `412 client waits, up to 6.1 s`.
fn waits(record: &LockRecord) -> String {
    match record.victims_total {
        0 => "no client waited".to_owned(),
        total => format!(
            "{} waited up to {}{}",
            figures::count(total, "client statement"),
            duration_us(longest_wait(record)),
            routes(record)
        ),
    }
}

/// ` for POST /checkout, GET /orders and 2 more routes`; how many, where not all of them are known.
fn routes(record: &LockRecord) -> String {
    let known: Vec<_> = record.routes.iter().filter(|waits| waits.route.is_some()).collect();
    let waits: u64 = known.iter().map(|waits| waits.waits).sum();
    let names: Vec<&str> = known.iter().filter_map(|waits| waits.route.as_deref()).collect();
    let mut shown = names.iter().take(ROUTES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(ROUTES_SHOWN).filter(|more| *more > 0) {
        shown.push_str(&format!(" and {}", figures::count(more as u64, "more route")));
    }
    if names.is_empty() {
        String::new()
    } else if known.len() == record.routes.len() {
        format!(" for {shown}")
    } else {
        format!(", {} of them surely for {shown}", figures::thousands(waits))
    }
}

/// A lock's object is its relation: the same from run to run.
fn object_of(record: &LockRecord) -> &str {
    &record.relation
}

fn origin(session: &PackageSession) -> String {
    session.step.as_ref().map_or_else(|| format!("role {}", session.role), |step| format!("step {step}"))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
