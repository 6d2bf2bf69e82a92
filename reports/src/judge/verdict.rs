//! The outcome of the whole, its exit code, and the sentence that a release engineer reads in ten seconds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{CheckId, Outcome};
use crate::evidence::{Evidence, WriteFate};
use crate::figures::{self, cut, duration_us};
use crate::lock::LockRecord;
use crate::phase::Phase;

use super::evid::{Touched, touched};
use super::waiver::WaivedFinding;
use super::{Ruled, lock, played};

/// The outcome of the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// `pass`, `fail`, `inconclusive` or `unmeasured`.
    pub outcome: Outcome,
    /// Exit code of the command: 0 pass, 1 fail, 3 inconclusive, 4 unmeasured, 5 mirror or machine failed,
    /// 6 package refused.
    pub exit_code: u8,
    /// What a reader with ten seconds must know.
    pub sentence: String,
}

/// Failing checks in the order in which a reader must hear of them; the others follow in their own order.
const IMPORTANCE: [CheckId; 13] = [
    CheckId::PkgArchive,
    CheckId::PkgDigest,
    CheckId::RollStuck,
    CheckId::UpgStep,
    CheckId::RollLedger,
    CheckId::LockWait,
    CheckId::LockHold,
    CheckId::DepOutage,
    CheckId::RollData,
    CheckId::RollSchema,
    CheckId::SloErrors,
    CheckId::SloLatency,
    CheckId::SloBudget,
];
/// Place of a failing check in the order in which a reader must hear of it, from 0.
pub(crate) fn importance(id: CheckId) -> usize {
    IMPORTANCE.iter().position(|important| *important == id).unwrap_or(IMPORTANCE.len())
}

/// Clauses that a reader takes in at once; further failures are counted.
const CLAUSES_MAX: usize = 2;

/// The verdict rule: any required check failed, else any unmeasured, else any inconclusive, else pass.
pub(super) fn reach(evidence: &Evidence, ruled: &[Ruled], waived: &[WaivedFinding]) -> Verdict {
    let worst = [Outcome::Fail, Outcome::Unmeasured, Outcome::Inconclusive]
        .into_iter()
        .find(|outcome| required(ruled).any(|one| one.ruling.outcome == *outcome))
        .unwrap_or(Outcome::Pass);
    let outcome = match worst {
        Outcome::Pass if evidence.interrupted.is_some() => Outcome::Inconclusive,
        other => other,
    };
    Verdict {
        outcome,
        exit_code: exit_code(evidence, outcome),
        sentence: sentence(evidence, ruled, waived, outcome),
    }
}

fn required(ruled: &[Ruled]) -> impl Iterator<Item = &Ruled> {
    ruled.iter().filter(|one| one.required)
}

fn exit_code(evidence: &Evidence, outcome: Outcome) -> u8 {
    let refused = evidence.package.as_ref().is_some_and(|package| package.refused.is_some());
    let environment = evidence.interrupted.as_ref().is_some_and(|end| end.environment);
    match outcome {
        _ if refused => 6,
        _ if environment => 5,
        Outcome::Fail => 1,
        Outcome::Unmeasured => 4,
        Outcome::Inconclusive => 3,
        Outcome::Pass | Outcome::Waived => 0,
    }
}

fn sentence(evidence: &Evidence, ruled: &[Ruled], waived: &[WaivedFinding], outcome: Outcome) -> String {
    let main = match outcome {
        Outcome::Fail => failure(evidence, ruled),
        Outcome::Unmeasured => lacking(ruled, Outcome::Unmeasured, "could not be measured"),
        Outcome::Inconclusive => lacking(ruled, Outcome::Inconclusive, "had too little evidence"),
        Outcome::Pass | Outcome::Waived => pass(evidence, ruled, waived),
    };
    match &evidence.interrupted {
        Some(end) if end.environment => {
            format!("The mirror or the machine failed: {} {main}", stop(&end.reason))
        }
        Some(end) => format!("The rehearsal ended early: {} {main}", stop(&end.reason)),
        None => main,
    }
}

fn failure(evidence: &Evidence, ruled: &[Ruled]) -> String {
    let mut failed: Vec<&Ruled> = required(ruled).filter(|one| one.ruling.outcome == Outcome::Fail).collect();
    failed.sort_by_key(|one| importance(one.record.id));
    let mut clauses: Vec<String> = Vec::new();
    let mut told = 0;
    let mut lock_told = false;
    for one in &failed {
        let about_lock = matches!(one.record.id, CheckId::LockWait | CheckId::LockHold);
        if about_lock && lock_told {
            // One clause tells both: who waited, and behind what.
            told += 1;
        } else if clauses.len() < CLAUSES_MAX {
            lock_told |= about_lock;
            told += 1;
            clauses.push(clause(evidence, one));
        }
    }
    let mut text = capitalised(&clauses.join("; "));
    match failed.len() - told {
        0 => text.push('.'),
        1 => text.push_str("; 1 further gate failed."),
        more => text.push_str(&format!("; {more} further gates failed.")),
    }
    text
}

/// One failed check as a clause without a full stop.
fn clause(evidence: &Evidence, one: &Ruled) -> String {
    let told = match one.record.id {
        CheckId::LockWait | CheckId::LockHold => lock_clause(evidence, one),
        CheckId::RollLedger => ledger_clause(evidence),
        _ => None,
    };
    told.unwrap_or_else(|| {
        let first = one.ruling.findings.first().map_or(one.ruling.evidence.as_str(), |finding| &finding.what);
        let first = cut(first, 240);
        let first = first.trim_end_matches('.');
        let more = one.ruling.findings.len().saturating_sub(1);
        if more > 0 { format!("{first} ({} +{more})", one.record.id) } else { first.to_owned() }
    })
}

fn lock_clause(evidence: &Evidence, one: &Ruled) -> Option<String> {
    let locks = evidence.locks.as_ref()?;
    let by_wait = one.record.id == CheckId::LockWait;
    let size: fn(&LockRecord) -> u64 =
        if by_wait { lock::longest_wait } else { |record| record.hold.high_us };
    let candidates =
        lock::judged(locks).filter(|record| by_wait || record.preexisting && record.mode.blocks_clients());
    let record = lock::worst_by(candidates, size).into_iter().next()?;
    let source = record
        .place
        .as_ref()
        .map_or_else(|| format!("`{}`", cut(&record.statement, 60)), ToString::to_string);
    let (mode, relation) = (record.mode.sql(), &record.relation);
    let limit = figures::value(one.record.unit, one.limit);
    if record.victims_total == 0 {
        let held = duration_us(record.hold.high_us);
        return Some(format!(
            "{source} held {mode} on {relation} for {held} (limit {limit}), though no client waited"
        ));
    }
    let waited = duration_us(lock::longest_wait(record));
    let waits = figures::count(record.victims_total, "client statement");
    let verb = lock::verb(record);
    if by_wait {
        return Some(format!(
            "{waits} waited up to {waited} while {source} {verb} {mode} on {relation} (limit {limit}){}",
            felt(evidence, record.phase)
        ));
    }
    let held = duration_us(record.hold.high_us);
    Some(format!(
        "{source} held {mode} on {relation} for {held} (limit {limit}); {waits} waited up to {waited}{}",
        felt(evidence, record.phase)
    ))
}

/// What the clients of the open model felt in a phase. A statement waits in the server; behind it wait the requests
/// for which the application had no connection left.
fn felt(evidence: &Evidence, phase: Phase) -> String {
    let summary =
        evidence.traffic.iter().flat_map(|traffic| &traffic.phases).find(|summary| summary.phase == phase);
    let Some(summary) = summary else { return String::new() };
    let limits = &evidence.rehearsal.limits;
    let objective_ms = if phase.is_changing() { limits.latency_changing_ms } else { limits.latency_ms };
    let (slow, failed) = (summary.slow, summary.failed());
    let slower =
        format!("{} slower than {}", figures::count(slow, "request"), duration_us(objective_ms * 1000));
    match (slow, failed) {
        (0, 0) => String::new(),
        (_, 0) => format!(", with {slower}"),
        (0, _) => format!(", with {} failed", figures::count(failed, "request")),
        _ => format!(", with {slower} and {} failed", figures::thousands(failed)),
    }
}

fn ledger_clause(evidence: &Evidence) -> Option<String> {
    let ledger = evidence.ledger.as_ref()?;
    let parts: Vec<_> =
        [(WriteFate::Lost, "lost"), (WriteFate::Changed, "changed"), (WriteFate::Duplicated, "duplicated")]
            .into_iter()
            .map(|(fate, verb)| (ledger.total(fate), verb))
            .filter(|(number, _)| *number > 0)
            .map(|(number, verb)| format!("{verb} {}", figures::count(number, "acknowledged write")))
            .collect();
    (!parts.is_empty()).then(|| format!("rollback {}", parts.join(" and ")))
}

fn lacking(ruled: &[Ruled], outcome: Outcome, how: &str) -> String {
    let lacking: Vec<_> = required(ruled).filter(|one| one.ruling.outcome == outcome).collect();
    let first = lacking.iter().find(|one| one.record.id.name().starts_with("EVID")).or(lacking.first());
    match first {
        None => "Every gate that was reached is green, and not all were reached.".to_owned(),
        Some(first) => format!(
            "No gate failed, but {} {how}; {}: {}",
            figures::count(lacking.len() as u64, "gate"),
            first.record.id,
            stop(&cut(&first.ruling.evidence, 240))
        ),
    }
}

/// A pass says how far it reached: what was large, how long, and what was not rehearsed.
fn pass(evidence: &Evidence, ruled: &[Ruled], waived: &[WaivedFinding]) -> String {
    let sentence_of = |id: CheckId| {
        ruled.iter().find(|one| one.record.id == id).map_or("", |one| one.ruling.evidence.as_str())
    };
    let mut text = format!(
        "Every gate passed: {}; {}. Rehearsed {}",
        sentence_of(CheckId::LockHold),
        sentence_of(CheckId::RollLedger),
        size_reached(evidence)
    );
    if let Some((start_us, end_us)) = played(&evidence.phases, Phase::Soak) {
        text.push_str(&format!(", {} of soak", duration_us(end_us.saturating_sub(start_us))));
    }
    let unrehearsed = evidence.reach.as_ref().map_or(&[][..], |reach| &reach.not_rehearsed);
    if !unrehearsed.is_empty() {
        text.push_str(&format!("; not rehearsed: {}", unrehearsed.join(", ")));
    }
    text.push('.');
    if !waived.is_empty() {
        text.push_str(&format!(" Accepted by waivers: {}.", figures::count(waived.len() as u64, "finding")));
    }
    text
}

fn size_reached(evidence: &Evidence) -> String {
    let touched = touched(evidence);
    let Some(Touched { relation, rows, production_rows }) = touched.first() else {
        return "with no existing relation touched".to_owned();
    };
    let rows_here =
        rows.map_or_else(|| "an unknown number of rows".to_owned(), |rows| figures::count(rows, "row"));
    let production = match (rows, production_rows) {
        (Some(rows), Some(production)) => format!(
            "production has {}, {}",
            figures::thousands(*production),
            figures::percent(figures::share_percent(*rows, *production))
        ),
        (_, Some(production)) => format!("production has {}", figures::thousands(*production)),
        (_, None) => "production's size unknown".to_owned(),
    };
    format!("with {rows_here} in {relation} ({production})")
}

/// A sentence with its full stop.
fn stop(text: &str) -> String {
    if text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
