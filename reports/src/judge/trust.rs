//! What a failed instrument and a small dataset take away from the checks that rest on them.

use crate::check::{CheckId, Outcome};
use crate::evidence::Evidence;

use super::Ruled;

/// Checks that rest on when the driver sent and received; outages have probes of their own.
const ON_CLIENT_TIMING: [CheckId; 3] = [CheckId::SloLatency, CheckId::SloErrors, CheckId::SloBudget];
/// Checks that rest on the lock recorder having seen everything.
const ON_RECORDER: [CheckId; 6] = [
    CheckId::LockHold,
    CheckId::LockWait,
    CheckId::LockMigration,
    CheckId::LockTimeout,
    CheckId::LockDeadlock,
    CheckId::LockOrder,
];
/// Checks whose durations grow with the dataset.
const ON_SCALE: [CheckId; 4] =
    [CheckId::LockHold, CheckId::LockWait, CheckId::SloLatency, CheckId::SloBudget];

/// Applies the three rules in order of weight. A failure that the server itself witnessed is never softened.
pub(super) fn adjust(evidence: &Evidence, ruled: &mut [Ruled]) {
    if outcome(ruled, CheckId::EvidDriver) == Outcome::Unmeasured {
        let reason = sentence(ruled, CheckId::EvidDriver);
        for one in ruled.iter_mut().filter(|one| ON_CLIENT_TIMING.contains(&one.record.id)) {
            let ruling = &mut one.ruling;
            if ruling.outcome != Outcome::Inconclusive {
                ruling.outcome = Outcome::Unmeasured;
                // What a saturated driver timed is no evidence of anything.
                ruling.findings.clear();
                ruling.evidence = format!("the driver was the bottleneck: {reason}");
            }
        }
    }
    if matches!(outcome(ruled, CheckId::EvidRecorder), Outcome::Unmeasured | Outcome::Inconclusive)
        && evidence.locks.is_some()
    {
        let reason = sentence(ruled, CheckId::EvidRecorder);
        soften(ruled, &ON_RECORDER, &format!("the lock recorder cannot be fully trusted ({reason})"));
    }
    let small =
        ruled.iter().any(|one| one.record.id == CheckId::EvidScale && !one.ruling.findings.is_empty());
    if small {
        soften(ruled, &ON_SCALE, "the dataset is too small for durations to count");
    }
}

/// Passing checks become inconclusive.
fn soften(ruled: &mut [Ruled], ids: &[CheckId], reason: &str) {
    for one in ruled.iter_mut().filter(|one| ids.contains(&one.record.id)) {
        if one.ruling.outcome == Outcome::Pass {
            one.ruling.outcome = Outcome::Inconclusive;
            one.ruling.evidence = format!("{}; but {reason}", one.ruling.evidence);
        }
    }
}

fn find(ruled: &[Ruled], id: CheckId) -> Option<&Ruled> {
    ruled.iter().find(|one| one.record.id == id)
}

fn outcome(ruled: &[Ruled], id: CheckId) -> Outcome {
    find(ruled, id).map_or(Outcome::Inconclusive, |one| one.ruling.outcome)
}

fn sentence(ruled: &[Ruled], id: CheckId) -> String {
    find(ruled, id).map_or_else(String::new, |one| one.ruling.evidence.clone())
}
