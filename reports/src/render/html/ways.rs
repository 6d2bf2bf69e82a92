//! Both ways back beside each other, and what the second one left.

use maud::{Markup, html};

use super::sections::difference_table;
use crate::evidence::{Difference, Evidence};
use crate::render::ways;

/// Nothing where only one way was rehearsed.
pub(super) fn both_ways(evidence: &Evidence) -> Markup {
    let Some((other, rows)) = evidence.other_way.as_ref().zip(ways::rows(evidence)) else {
        return html! {};
    };
    let left: Vec<&Difference> =
        other.data.differences.iter().chain(other.residue.left.values().flatten()).collect();
    html! {
        h2 { "Both ways back" }
        div.scroll { table {
            @for (index, (name, figures)) in rows.iter().enumerate() {
                tr {
                    th { (name) }
                    @for figure in figures { @if index == 0 { th.n { (figure) } } @else { td.n { (figure) } } }
                }
            }
        } }
        @if let Some(reason) = &other.not_taken { p { "Not taken: " (reason) } } @else {
            @for stuck in &other.rollback.stuck { p { (stuck) } }
            (difference_table("Schema that the second way did not bring back", &other.schema.drift.iter().collect::<Vec<_>>(), true))
            (difference_table("Data and effects that the second way left", &left, true))
        }
        p.how {
            "The first was taken under traffic. The second was taken after its proofs, without traffic, from a copy of the upgraded \
             state with every write that was acknowledged until the copy was begun at the end of the soak. Unavailable: an \
             application service did not answer its health check. Drift is held against the schema before the upgrade; residue counts \
             tables that the workload leaves alone, and effects outside the database."
        }
    }
}
