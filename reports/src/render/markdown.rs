//! `summary.md`: the first screen for a CI job's summary or a comment on a change.

use std::fmt::Write as _;

use crate::check::Outcome;
use crate::figures::{self, cut, duration_us};
use crate::report::Report;

use super::{RenderError, Renderer, limit, margin, observed, quantile, title};

/// Findings listed; the others are counted. Keeps the file far below the 64 KB that comments may have.
const FINDINGS_MAX: usize = 40;

/// Writes `summary.md`.
#[derive(Debug, Clone, Copy)]
pub struct Markdown;

impl Renderer for Markdown {
    fn name(&self) -> &'static str {
        "summary.md"
    }

    fn render(&self, report: &Report) -> Result<Vec<u8>, RenderError> {
        let mut out = String::new();
        head(&mut out, report);
        gates(&mut out, report);
        findings(&mut out, report);
        traffic(&mut out, report);
        ways(&mut out, report);
        out.push_str("\n### What this verdict may claim\n\n");
        for line in reach_lines(report) {
            // Writing to a String cannot fail, here and below.
            _ = writeln!(out, "- {}", escape(&line));
        }
        Ok(out.into_bytes())
    }
}

fn head(out: &mut String, report: &Report) {
    let facts = &report.evidence.rehearsal;
    let word = report.verdict.outcome.name().to_uppercase();
    _ = writeln!(out, "## {word}: {}\n", escape(&title(report)));
    _ = writeln!(out, "{}\n", escape(&report.verdict.sentence));
    _ = writeln!(
        out,
        "{} · {} profile · mirror {} · seed {} · fulldress {}\n",
        escape(&facts.started_utc),
        escape(&facts.profile),
        escape(&facts.mirror),
        facts.seed,
        escape(&facts.fulldress)
    );
}

fn gates(out: &mut String, report: &Report) {
    out.push_str("| gate | what | limit | observed | margin | outcome |\n|---|---|--:|--:|--:|---|\n");
    for check in report.gates() {
        let outcome = match (check.outcome, check.required) {
            (Outcome::Fail, true) => "**FAIL**".to_owned(),
            (outcome, true) => outcome.name().to_owned(),
            (outcome, false) => format!("{outcome} (advisory)"),
        };
        _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {outcome} |",
            check.id,
            escape(&check.title),
            limit(check),
            observed(check),
            margin(check)
        );
    }
}

fn findings(out: &mut String, report: &Report) {
    if report.findings.is_empty() {
        return;
    }
    _ = writeln!(out, "\n### Findings ({})\n", report.findings.len());
    for finding in report.findings.iter().take(FINDINGS_MAX) {
        let place = finding
            .place
            .as_ref()
            .map_or_else(String::new, |place| format!(" {}", escape(&place.to_string())));
        let waived = report.waiver_of(finding).map_or_else(String::new, |waiver| {
            escape(&format!(" Waived by {} until {}: {}.", waiver.owner, waiver.expires, waiver.reason))
        });
        let (what, remedy) = (escape(&cut(&finding.what, 400)), escape(&finding.remedy));
        _ = writeln!(out, "- **{}**{place}: {what}{waived} *{remedy}*", finding.check);
    }
    let left = report.findings.len().saturating_sub(FINDINGS_MAX);
    if left > 0 {
        _ = writeln!(out, "- and {left} more in `report.html`");
    }
}

fn traffic(out: &mut String, report: &Report) {
    let Some(traffic) = &report.evidence.traffic else { return };
    out.push_str("\n### Phases (open model, all routes, response time)\n\n");
    out.push_str("| phase | sent | errors | slow | p50 | p99 | max |\n|---|--:|--:|--:|--:|--:|--:|\n");
    for phase in &traffic.phases {
        let response = &phase.response;
        _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            phase.phase,
            figures::thousands(phase.sent),
            figures::thousands(phase.errors_total()),
            figures::thousands(phase.slow),
            quantile(response.p50_us, response),
            quantile(response.p99_us, response),
            duration_us(response.max_us)
        );
    }
}

fn ways(out: &mut String, report: &Report) {
    let Some(rows) = super::ways::rows(&report.evidence) else { return };
    out.push_str("\n### Both ways back from the same upgraded state\n\n");
    for (index, (name, [first, second])) in rows.iter().enumerate() {
        _ = writeln!(out, "| {name} | {} | {} |", escape(first), escape(second));
        if index == 0 {
            out.push_str("|---|--:|--:|\n");
        }
    }
    if let Some(reason) = super::ways::not_taken(&report.evidence) {
        _ = writeln!(out, "\n{}", escape(reason));
    }
}

/// How far the evidence reaches, one sentence a line; the same in every rendering.
pub(super) fn reach_lines(report: &Report) -> Vec<String> {
    let evidence = &report.evidence;
    let limits = &evidence.rehearsal.limits;
    let mut lines = Vec::new();
    let locked: std::collections::BTreeSet<&String> =
        evidence.locks.iter().flat_map(|locks| &locks.records).map(|record| &record.relation).collect();
    for phase in &evidence.phases {
        if phase.phase == crate::phase::Phase::Soak
            && let Some(end_us) = phase.end_us
        {
            let length = duration_us(end_us.saturating_sub(phase.start_us));
            lines.push(format!("The new version carried the load for {length}."));
        }
    }
    match &evidence.reach {
        None => lines.push("How far the rehearsal reached was not recorded.".to_owned()),
        Some(reach) => {
            let (told, others): (Vec<_>, Vec<_>) = reach.relations.iter().partition(|size| {
                limits.production_rows.contains_key(&size.relation) || locked.contains(&size.relation)
            });
            for size in told {
                let production = limits.production_rows.get(&size.relation).map_or_else(
                    || "production's size unknown".to_owned(),
                    |rows| format!("production has {}", figures::thousands(*rows)),
                );
                let rows = figures::count(size.rows, "row");
                lines.push(format!("{}: {rows} rehearsed, {production}.", size.relation));
            }
            if !others.is_empty() {
                let tables = figures::count(others.len() as u64, "table");
                lines.push(format!("{tables} that the package did not lock: production's sizes unknown."));
            }
            if !reach.actors.is_empty() {
                lines.push(format!("Ran in the background: {}.", reach.actors.join(", ")));
            }
            if !reach.denied.is_empty() {
                lines.push(format!("Denied, as before the upgrade: {}.", reach.denied.join(", ")));
            }
            if !reach.not_rehearsed.is_empty() {
                lines.push(format!("Not rehearsed: {}.", reach.not_rehearsed.join(", ")));
            }
        }
    }
    if let Some(package) = &evidence.package
        && !package.signature_note.is_empty()
    {
        lines.push(format!("Package: {}.", package.signature_note));
    }
    lines.extend(evidence.notices.iter().map(|notice| format!("Notice: {notice}.")));
    lines
}

/// Text of strangers inside Markdown: neither table cells, nor HTML, nor links, nor emphasis come of it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '*' | '_' | '[' | ']' | '\\' | '`' => escaped.extend(['\\', letter]),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    // A bare address would become a link.
    escaped.replace("://", "&#58;//")
}
