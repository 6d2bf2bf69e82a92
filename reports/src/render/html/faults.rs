//! The fault matrix: places down, faults across, and what became of each way from there.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::sections::{ROWS_MAX, cut_short};
use crate::evidence::{Evidence, FaultCell, FaultKind, FaultOutcome, FaultWay};
use crate::figures::{count, duration_us};

const WAYS: [FaultWay; 2] = [FaultWay::Rollback, FaultWay::Resume];

pub(super) fn faults(evidence: &Evidence) -> Markup {
    let Some(faults) = &evidence.faults else {
        return html! { h2 { "Faults inside the upgrade" } p { "None was tried." } };
    };
    let mut places: BTreeMap<(usize, &str), Vec<&FaultCell>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for cell in &faults.cells {
        if !order.contains(&cell.step.as_str()) {
            order.push(&cell.step);
        }
        let step = order.iter().position(|step| *step == cell.step).unwrap_or(0);
        places.entry((step, &cell.place)).or_default().push(cell);
    }
    let mut rows: Vec<_> = places.into_iter().collect();
    rows.sort_by_key(|((step, _), cells)| (*step, cells.first().and_then(|cell| cell.line)));
    let longest_us = faults.cells.iter().map(|cell| cell.length_us).max().unwrap_or(0);
    html! {
        h2 { "Faults inside the upgrade" }
        p {
            (count(faults.cells.len() as u64, "fault")) " of " (faults.possible) ", each on a clone; the longest took "
            (duration_us(longest_us)) "."
        }
        @if !rows.is_empty() {
            div.scroll { table {
                thead {
                    tr { th { "step" } th { "struck" } @for kind in FaultKind::ALL { th colspan="2" { (kind.name()) } } }
                    tr { th {} th {} @for _ in FaultKind::ALL { @for way in WAYS { th { (way.name()) } } } }
                }
                tbody {
                    @for ((_, place), cells) in rows.iter().take(ROWS_MAX) {
                        tr {
                            td { (cells.first().map_or("", |cell| cell.step.as_str())) }
                            td { (place) }
                            @for kind in FaultKind::ALL { @for way in WAYS { (outcome(cells, kind, way)) } }
                        }
                    }
                }
            } }
            (cut_short(rows.len()))
        }
        (broken(&faults.cells))
        @if !faults.not_tried.is_empty() {
            h3 { "Not tried" }
            ul { @for what in faults.not_tried.iter().take(ROWS_MAX) { li { (what) } } }
        }
        p.how {
            "A step is stopped at a place, on a clone without traffic. From there its rollback must reach the schema, the rows \
             and the host's files from before, and the upgrade, run again from that step on, the upgraded schema with as many rows."
        }
    }
}

fn outcome(cells: &[&FaultCell], kind: FaultKind, way: FaultWay) -> Markup {
    let cell = cells.iter().find(|cell| cell.fault == kind && cell.way == way);
    html! {
        @match cell.map(|cell| cell.outcome) {
            None => td { "–" },
            Some(FaultOutcome::Reached) => td { "reached" },
            Some(FaultOutcome::Differs) => td.fail { "differs" },
            Some(FaultOutcome::Stuck) => td.fail { "stuck" },
        }
    }
}

/// Why a way did not lead to its state, for each that did not.
fn broken(cells: &[FaultCell]) -> Markup {
    let broken: Vec<&FaultCell> = cells.iter().filter(|cell| cell.outcome != FaultOutcome::Reached).collect();
    html! {
        @if !broken.is_empty() {
            ul {
                @for cell in broken.iter().take(ROWS_MAX) {
                    li {
                        (cell.step) " " (cell.place) ", " (cell.fault.name()) ", " (cell.way.name()) ": "
                        (super::prose(&cell.why.join("; ")))
                    }
                }
            }
            (cut_short(broken.len()))
        }
    }
}
