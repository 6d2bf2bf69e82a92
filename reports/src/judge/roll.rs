//! Rules on the package's steps and on the way back: whether they end, and what rollback does not bring back.

use crate::evidence::{Difference, LedgerEvidence, WriteFate};
use crate::figures::{self, cut, ratio_part};
use crate::finding::Finding;
use crate::phase::Phase;

use super::{Case, Ruling, unplayed};

/// Keys that a finding prints as examples.
const KEYS_SHOWN: usize = 3;
/// The phases whose acknowledged writes a rollback can lose.
const AT_RISK: [Phase; 3] = [Phase::Upgrade, Phase::Soak, Phase::Rollback];

pub(super) fn steps(case: &Case<'_>) -> Ruling {
    let runs: Vec<_> = case.evidence.steps.iter().filter(|step| step.phase == Phase::Upgrade).collect();
    if runs.is_empty() {
        return Ruling::inconclusive("no step of the upgrade ran");
    }
    let findings: Vec<Finding> = runs
        .iter()
        .filter_map(|step| {
            let error = step.error.as_deref()?;
            let what = format!("Upgrade step {} failed: {}.", step.id, cut(error, 200));
            Some(case.finding(step.id.as_str(), what))
        })
        .collect();
    let pass = format!("all {} steps ended well", runs.len());
    case.counted(findings, pass).unless_missing(unplayed(case.evidence, &[Phase::Upgrade]))
}

pub(super) fn stuck(case: &Case<'_>) -> Ruling {
    let Some(rollback) = &case.evidence.rollback else {
        return Ruling::inconclusive("no rollback was tried");
    };
    let failed: Vec<_> = case
        .evidence
        .steps
        .iter()
        .filter(|step| step.phase == Phase::Rollback)
        .filter_map(|step| Some((step.id.as_str(), step.error.as_deref()?)))
        .collect();
    let mut findings: Vec<Finding> = rollback
        .stuck
        .iter()
        .map(|what| {
            let step = failed.iter().find(|(id, _)| what.contains(id)).map_or("rollback", |(id, _)| id);
            case.finding(step, what.clone())
        })
        .collect();
    for (id, error) in failed {
        if !findings.iter().any(|finding| finding.object == id) {
            findings.push(case.finding(id, format!("Rollback step {id} failed: {}.", cut(error, 200))));
        }
    }
    let pass = format!("the rollback ({}) ended and the old version answers", rollback.method);
    case.counted(findings, pass).unless_missing(unplayed(case.evidence, &[Phase::Rollback]))
}

pub(super) fn schema(case: &Case<'_>) -> Ruling {
    let Some(schema) = &case.evidence.schema else {
        return Ruling::inconclusive("the schema was not compared");
    };
    if schema.before.is_empty() || schema.rolled_back.is_empty() {
        return Ruling::inconclusive(
            "the schema's fingerprint before the upgrade or after rollback is missing",
        );
    }
    let mut findings = differences(case, &schema.drift);
    if findings.is_empty() && schema.order_only.is_empty() && schema.before != schema.rolled_back {
        let what = "The schema's fingerprint differs after rollback, and no object could be named.";
        findings.push(case.finding("schema", what.to_owned()));
    }
    let order = match schema.order_only.as_slice() {
        [] => String::new(),
        tables => {
            format!("; columns came back in another order in {}, which does not count", tables.join(", "))
        }
    };
    let mut ruling = case.counted(findings, "the schema is the one from before");
    ruling.evidence.push_str(&order);
    ruling
}

pub(super) fn data(case: &Case<'_>) -> Ruling {
    let Some(data) = &case.evidence.data else {
        return Ruling::inconclusive("the data was not compared");
    };
    // A sequence can be behind whoever writes to its table.
    if data.tables.is_empty() && data.differences.is_empty() {
        return Ruling::inconclusive("no table is left alone by the workload, so none could be compared");
    }
    let pass = format!(
        "{} that the workload leaves alone came back with the same rows",
        figures::count(data.tables.len() as u64, "table")
    );
    case.counted(differences(case, &data.differences), pass)
}

pub(super) fn reapply(case: &Case<'_>) -> Ruling {
    let Some(reapply) = &case.evidence.reapply else {
        return Ruling::inconclusive("the upgrade was not applied a second time");
    };
    let mut findings: Vec<_> =
        reapply.failed.iter().map(|what| case.finding("reapply", what.clone())).collect();
    findings.extend(differences(case, &reapply.differences));
    case.counted(findings, "the upgrade applied again and ended in the same schema")
}

pub(super) fn residue(case: &Case<'_>) -> Ruling {
    let Some(residue) = &case.evidence.residue else {
        return Ruling::inconclusive("no probe looked for residue");
    };
    let id = case.record.id;
    let left = residue.left.get(&id).map_or(&[][..], Vec::as_slice);
    let ruling = case.counted(differences(case, left), "the probe found the state from before");
    let missing = match residue.unreachable.get(&id) {
        Some(reason) => Some(format!("the probe did not answer: {reason}")),
        None if residue.probed.contains(&id) => None,
        None => Some("no probe looked for this kind of residue".to_owned()),
    };
    match missing {
        Some(missing) if left.is_empty() => Ruling::inconclusive(missing),
        other => ruling.unless_missing(other),
    }
}

pub(super) fn ledger(case: &Case<'_>) -> Ruling {
    let Some(ledger) = &case.evidence.ledger else {
        return Ruling::inconclusive("the ledger was not read back");
    };
    let broken = [WriteFate::Lost, WriteFate::Changed, WriteFate::Duplicated];
    let findings: Vec<_> = broken.into_iter().filter_map(|fate| broken_writes(case, ledger, fate)).collect();
    let observed: u64 = broken.into_iter().map(|fate| ledger.total(fate)).sum();
    let (unread, indeterminate) = (ledger.total(WriteFate::Unread), ledger.total(WriteFate::Indeterminate));
    let mut notes = String::new();
    if indeterminate > 0 {
        notes = format!(
            "; of {} nothing can be said, their answer never came",
            figures::thousands(indeterminate)
        );
    }
    if ledger.witness_disagreements > 0 {
        let entries = figures::thousands(ledger.witness_disagreements);
        notes.push_str(&format!("; on {entries} the running version and the database disagree"));
    }
    let kept = figures::count(ledger.total(WriteFate::Kept), "acknowledged write");
    let mut ruling = case.decided(ratio_part(observed), findings, format!("{kept} kept"));
    ruling.evidence.push_str(&notes);
    ruling.unless_missing(unproven(ledger, unread))
}

/// Why the ledger proves nothing although nothing is broken.
fn unproven(ledger: &LedgerEvidence, unread: u64) -> Option<String> {
    if unread > 0 {
        return Some(format!("{} could not be read back", figures::count(unread, "acknowledged write")));
    }
    let acknowledged: u64 = ledger
        .phases
        .iter()
        .filter(|phase| AT_RISK.contains(&phase.phase))
        .flat_map(|phase| &phase.fates)
        .filter(|(fate, _)| **fate != WriteFate::Indeterminate)
        .map(|(_, number)| number)
        .sum();
    (acknowledged == 0)
        .then(|| "no write was acknowledged in upgrade, soak or rollback, so none could be lost".to_owned())
}

fn broken_writes(case: &Case<'_>, ledger: &LedgerEvidence, fate: WriteFate) -> Option<Finding> {
    let total = ledger.total(fate);
    if total == 0 {
        return None;
    }
    let word = fate_word(fate);
    let phases: Vec<_> = ledger
        .phases
        .iter()
        .filter_map(|phase| Some((phase.phase, *phase.fates.get(&fate)?)))
        .filter(|(_, number)| *number > 0)
        .map(|(phase, number)| format!("{} in {phase}", figures::thousands(number)))
        .collect();
    let keys: Vec<_> = ledger
        .broken
        .iter()
        .filter(|write| write.fate == fate)
        .take(KEYS_SHOWN)
        .map(|write| figures::cut(&write.key, 60))
        .collect();
    let example = if keys.is_empty() { String::new() } else { format!("; for example {}", keys.join(", ")) };
    let what = format!(
        "Rollback {word} {}: {}{example}.",
        figures::count(total, "acknowledged write"),
        phases.join(", ")
    );
    Some(case.measured(format!("{word} writes"), None, ratio_part(total), what))
}

/// What rollback did to such a write, as a verb.
const fn fate_word(fate: WriteFate) -> &'static str {
    match fate {
        WriteFate::Lost => "lost",
        WriteFate::Changed => "changed",
        WriteFate::Duplicated => "duplicated",
        WriteFate::Kept => "kept",
        WriteFate::Indeterminate => "left open",
        WriteFate::Unread => "left unread",
    }
}

fn differences(case: &Case<'_>, differences: &[Difference]) -> Vec<Finding> {
    differences
        .iter()
        .map(|difference| case.finding(difference.object.as_str(), describe(difference)))
        .collect()
}

/// One sentence about a difference.
fn describe(difference: &Difference) -> String {
    let Difference { kind, object, before, after } = difference;
    match (before, after) {
        (None, Some(after)) => {
            format!("{kind} {object} was not there before and is now: {}.", cut(after, 160))
        }
        (Some(before), None) => {
            format!("{kind} {object} was there before and is gone: {}.", cut(before, 160))
        }
        (Some(before), Some(after)) => {
            format!("{kind} {object} was {} and is {}.", cut(before, 120), cut(after, 120))
        }
        (None, None) => format!("{kind} {object} differs."),
    }
}
