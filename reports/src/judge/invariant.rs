//! ROLL-INVARIANT: what the plan says must hold in the data holds before, during and after.

use super::{Case, Ruling};
use crate::evidence::{InvariantBreak, InvariantEvidence};
use crate::figures::{self, duration_us};
use crate::finding::Finding;
use crate::phase::Phase;

/// The phases in which a package can break something.
const AT_RISK: [Phase; 3] = [Phase::Upgrade, Phase::Soak, Phase::Rollback];

pub(super) fn invariants(case: &Case<'_>) -> Ruling {
    let all = &case.evidence.invariants;
    if all.is_empty() {
        return Ruling::inconclusive("no invariant was read: the plan's [[invariant]] declares them");
    }
    // One that did not hold before says nothing about the package, whatever it said later.
    let findings = all.iter().filter(|one| held_before(one)).filter_map(|one| finding(case, one)).collect();
    let readings: u64 = all.iter().map(|one| one.answered(&AT_RISK)).sum();
    let proven = all.iter().filter(|one| one.broken.is_none() && unproven(one).is_none()).count();
    let of = if proven < all.len() { format!("{proven} of ") } else { String::new() };
    let pass = format!(
        "{of}{} held before, in {} in upgrade, soak and rollback, and after",
        figures::count(all.len() as u64, "invariant"),
        figures::count(readings, "reading")
    );
    let missing = all.iter().find_map(unproven);
    case.counted(findings, pass).unless_missing(missing)
}

fn held_before(one: &InvariantEvidence) -> bool {
    one.broken == one.broken_since
}

fn finding(case: &Case<'_>, one: &InvariantEvidence) -> Option<Finding> {
    let broken = one.broken_since.as_ref()?;
    let after = match one.held_after {
        Some(true) if broken.phase.is_some() => "; after the rollback it holds again",
        Some(false) if broken.phase.is_some() => "; after the rollback it does not hold either",
        _ => "",
    };
    let what = format!("Invariant {} does not hold {}{after}.", one.name, when(broken));
    Some(case.finding(one.name.as_str(), what))
}

/// Phase, time and size of a reading.
fn when(broken: &InvariantBreak) -> String {
    let phase = broken.phase.map_or_else(|| "after the rollback".to_owned(), |phase| format!("in {phase}"));
    format!("{phase}, {} after the start: {}", duration_us(broken.at_us), broken.seen)
}

/// Why an invariant proves nothing although nothing broke since the upgrade began.
fn unproven(one: &InvariantEvidence) -> Option<String> {
    let name = &one.name;
    if let Some(broken) = one.broken.as_ref().filter(|_| !held_before(one)) {
        let when = when(broken);
        return Some(format!(
            "invariant {name} did not hold before the upgrade ({when}), so it says nothing about the package: \
             correct its SQL or the data"
        ));
    }
    if let Some((phase, error)) = &one.error {
        return Some(format!("invariant {name} could not be read in {phase}: {error}"));
    }
    let why = one.missed.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    if one.answered(&[Phase::Warmup, Phase::Baseline]) == 0 {
        return Some(format!("invariant {name} was never read before the upgrade{why}"));
    }
    if one.answered(&AT_RISK) == 0 {
        return Some(format!("invariant {name} was never read in upgrade, soak or rollback{why}"));
    }
    one.held_after.is_none().then(|| format!("invariant {name} was not read after the rollback{why}"))
}
