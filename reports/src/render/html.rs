//! `report.html`: one offline file without a script. First the verdict, the gates and one chart; then, in the
//! order in which a reader asks, what was found, what was measured, and how far it can be trusted.

mod faults;
mod invariants;
mod sections;
mod ways;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::check::{Check, Outcome};
use crate::report::Report;

use super::{RenderError, Renderer, chart, limit, margin, observed, title};

/// The page may load nothing at all; its own style is the only exception.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// Kept free of `<`, so that it needs no escaping inside its element.
const STYLE: &str = include_str!("report.css");

/// Writes `report.html`.
#[derive(Debug, Clone, Copy)]
pub struct Html;

impl Renderer for Html {
    fn name(&self) -> &'static str {
        "report.html"
    }

    fn render(&self, report: &Report) -> Result<Vec<u8>, RenderError> {
        Ok(page(report).into_string().into_bytes())
    }
}

fn page(report: &Report) -> Markup {
    let word = report.verdict.outcome.name().to_uppercase();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (word) ": " (title(report)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(report, &word))
                (gates(report))
                (figure(report))
                (sections::all(report))
            }
        }
    }
}

fn head(report: &Report, word: &str) -> Markup {
    let facts = &report.evidence.rehearsal;
    let signature = report.evidence.package.as_ref().map_or("", |package| package.signature_note.as_str());
    html! {
        header class=(report.verdict.outcome.name()) {
            p { span.word { (word) } span.what { (title(report)) } }
            p.sentence { (prose(&report.verdict.sentence)) }
            p.meta {
                (facts.name) " · " (facts.started_utc) " · " (facts.profile) " profile · mirror " (facts.mirror)
                " · seed " (facts.seed) " · rehearsal " (facts.id) " · fulldress " (facts.fulldress)
                @if !signature.is_empty() { " · " (signature) }
            }
        }
    }
}

/// A sentence whose statements, marked by backticks, are set as code.
fn prose(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Gates with something to say; those that allow nothing and saw nothing share the last row.
fn gates(report: &Report) -> Markup {
    let quiet = |check: &&Check| check.outcome == Outcome::Pass && check.limit == 0.0;
    let (passed, shown): (Vec<_>, Vec<_>) = report.gates().into_iter().partition(quiet);
    html! {
        div.scroll { table.gates {
            thead { tr {
                th { "check" } th { "what" } th.n { "limit" } th.n { "observed" } th.n { "margin" } th { "outcome" }
            } }
            tbody {
                @for check in shown {
                    tr {
                        td.id { (check.id) }
                        td { (check.title) }
                        td.n { (limit(check)) }
                        td.n { (observed(check)) }
                        td.n { (margin(check)) }
                        td class=(format!("outcome {}", check.outcome)) {
                            (check.outcome.name().to_uppercase())
                            @if !check.required { " (advisory)" }
                        }
                    }
                }
                @if !passed.is_empty() {
                    tr {
                        td.far colspan="5" {
                            (passed.len()) " further: "
                            @for (index, check) in passed.iter().enumerate() {
                                @if index > 0 { ", " }
                                (check.title)
                            }
                        }
                        td class="outcome pass" { "PASS" }
                    }
                }
            }
        } }
        p.how {
            "Margin is observed over limit: ×1 uses the limit up. Required checks decide the verdict; evidence for \
             each stands under “All checks”."
        }
    }
}

fn figure(report: &Report) -> Markup {
    html! {
        figure {
            div.key {
                span { i.p50 {} "p50" }
                span { i.p99 {} "p99" }
                span { i.max {} "max response time" }
                span { i.limit {} "objective" }
                span { i class="box step" {} "step" }
                span { i class="box exclusive" {} "ACCESS EXCLUSIVE, error, outage" }
                span { i class="box blocking" {} "other lock that blocks writes" }
            }
            div.scroll { (chart::draw(&report.evidence)) }
            figcaption {
                "All open-model requests by their intended start; response time runs from the intended start to the \
                 last byte, on a logarithmic axis. Intervals are 1 s, and 100 ms in the shaded phases upgrade and \
                 rollback. A gap in a line means that no request was answered well. A lock's thin line is the time \
                 it was waited for."
            }
        }
    }
}
