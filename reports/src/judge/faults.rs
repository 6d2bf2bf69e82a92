//! ROLL-FAULT: from every fault inside the upgrade there is a way back, and a way on.

use std::collections::BTreeMap;

use super::{Case, Ruling};
use crate::evidence::{FaultCell, FaultOutcome, FaultWay};
use crate::figures::{self, cut, ratio_part};
use crate::finding::{Finding, Place};

/// Faults that one finding names.
const FAULTS_SHOWN: usize = 3;

pub(super) fn faults(case: &Case<'_>) -> Ruling {
    let Some(faults) = &case.evidence.faults else {
        return Ruling::inconclusive("no fault was tried inside the upgrade");
    };
    let mut by_place: BTreeMap<(&str, &str, FaultWay), Vec<&FaultCell>> = BTreeMap::new();
    for cell in faults.cells.iter().filter(|cell| cell.outcome != FaultOutcome::Reached) {
        by_place.entry((&cell.step, &cell.place, cell.way)).or_default().push(cell);
    }
    let findings = by_place.into_values().filter_map(|cells| finding(case, &cells)).collect();
    let tried = figures::count(faults.cells.len() as u64, "fault");
    let pass = format!(
        "from {tried} of {} that the package has places for, rollback or upgrade went on to their end",
        figures::thousands(faults.possible)
    );
    let missing = faults.cells.is_empty().then(|| match faults.not_tried.as_slice() {
        [] => "the package has no step that a fault could strike".to_owned(),
        reasons => format!("no fault was tried: {}", reasons.join("; ")),
    });
    case.counted(findings, pass).unless_missing(missing)
}

/// One finding for all faults at a place from which one way does not lead.
fn finding(case: &Case<'_>, cells: &[&FaultCell]) -> Option<Finding> {
    let first = cells.first()?;
    let mut names: Vec<&str> = cells.iter().map(|cell| cell.fault.name()).collect();
    names.truncate(FAULTS_SHOWN);
    let more = cells.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let became = match (first.way, first.outcome) {
        (FaultWay::Rollback, FaultOutcome::Stuck) => "the rollback does not end",
        (FaultWay::Rollback, _) => "the rollback does not reach the state before",
        (FaultWay::Resume, FaultOutcome::Stuck) => "the upgrade cannot be run again",
        (FaultWay::Resume, _) => "the upgrade, run again, does not reach the upgraded state",
    };
    let why = first.why.first().map(|why| format!(": {}", cut(why, 200))).unwrap_or_default();
    let what = format!(
        "When step {} is struck {} ({}{more}), {became}{why}.",
        first.step,
        first.place,
        names.join(", ")
    );
    let place = Place { file: first.file.clone(), line: first.line };
    let object = format!("{} {} ({})", first.step, first.place, first.way.name());
    Some(case.measured(object, Some(&place), ratio_part(cells.len() as u64), what))
}
