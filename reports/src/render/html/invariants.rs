//! The readings of the plan's invariants, phase by phase.

use maud::{Markup, html};

use crate::evidence::{Evidence, InvariantPhase};
use crate::figures::thousands;

use super::sections::{ROWS_MAX, cut_short};

pub(super) fn invariants(evidence: &Evidence) -> Markup {
    let rows: Vec<(&str, &InvariantPhase)> = evidence
        .invariants
        .iter()
        .flat_map(|one| one.phases.iter().map(|phase| (one.name.as_str(), phase)))
        .collect();
    html! {
        @if !rows.is_empty() {
            h2 { "Invariants" }
            div.scroll { table {
                thead { tr {
                    th { "invariant" } th { "phase" } th.n { "held" } th.n { "broken" } th.n { "no answer" }
                } }
                tbody { @for (name, phase) in rows.iter().take(ROWS_MAX) { tr {
                    td.wrap { (name) }
                    td { (phase.phase) }
                    td.n { (thousands(phase.held)) }
                    td.n { (thousands(phase.broken)) }
                    td.n { (thousands(phase.missed)) }
                } } }
            } }
            (cut_short(rows.len()))
            @for one in &evidence.invariants {
                @if let Some(why) = &one.missed { p.how { (one.name) ": the last reading without an answer: " (why) "." } }
            }
            p.how {
                "Read in one statement each, seldom enough to take 2 % of a core at most. A reading gives way to whoever \
                 waits for it, and ends at the plan's limit."
            }
        }
    }
}
