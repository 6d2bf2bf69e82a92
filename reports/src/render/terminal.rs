//! The verdict for a terminal: plain text, at most 100 columns, colour only where it is asked for.

use std::fmt::Write as _;

use crate::check::Outcome;
use crate::figures::cut;
use crate::report::Report;

use super::{limit, margin, observed, title};

/// Widest line.
const COLUMNS_MAX: usize = 100;
/// Narrowest line that a table still fits in.
const COLUMNS_MIN: usize = 80;
/// Findings printed of each check, so that every check is named; the others are counted.
const FINDINGS_MAX: usize = 2;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours; the words say the same without them.
    pub colour: bool,
    /// Width of the terminal, columns; kept between 80 and 100.
    pub columns: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self { colour: false, columns: COLUMNS_MAX }
    }
}

/// The report as text: verdict, gates, findings, reach.
#[must_use]
pub fn text(report: &Report, style: Style) -> String {
    let columns = style.columns.clamp(COLUMNS_MIN, COLUMNS_MAX);
    let mut out = String::new();
    let word = report.verdict.outcome.name().to_uppercase();
    let facts = &report.evidence.rehearsal;
    // Writing to a String cannot fail; the results below are dropped for that reason.
    let painted = paint(&word, report.verdict.outcome, style.colour);
    let head = format!("{}  {}  {}", title(report), facts.started_utc, facts.profile);
    _ = writeln!(out, "{painted}  {}", printable(&head));
    wrap(&mut out, "", &printable(&report.verdict.sentence), columns);
    out.push('\n');
    gates(&mut out, report, style.colour, columns);
    findings(&mut out, report, columns);
    ways(&mut out, report, columns);
    reach(&mut out, report, columns);
    out
}

fn gates(out: &mut String, report: &Report, colour: bool, columns: usize) {
    let title_width = columns.saturating_sub(68).clamp(12, 28);
    _ = writeln!(
        out,
        "{:<13}  {:<16}  {:<title_width$}  {:>9}  {:>12}  {:>8}",
        "outcome", "gate", "what", "limit", "observed", "margin"
    );
    let (passed, shown): (Vec<_>, Vec<_>) =
        report.gates().into_iter().partition(|check| check.outcome == Outcome::Pass && check.limit == 0.0);
    let mut advisory = false;
    for check in shown {
        let mark = if check.required { "" } else { "*" };
        advisory |= !check.required;
        let outcome = paint(&format!("{:<13}", format!("{}{mark}", check.outcome)), check.outcome, colour);
        let what = cut(&check.title, title_width);
        let line = format!(
            "{outcome}  {:<16}  {what:<title_width$}  {:>9}  {:>12}  {:>8}",
            check.id,
            limit(check),
            observed(check),
            margin(check),
        );
        _ = writeln!(out, "{}", line.trim_end());
        if matches!(check.outcome, Outcome::Inconclusive | Outcome::Unmeasured) {
            wrap(out, "               ", &printable(&check.evidence), columns);
        }
    }
    if !passed.is_empty() {
        // A passing check that allows nothing and saw nothing has no figures to print.
        let names: Vec<_> = passed.iter().map(|check| check.id.name()).collect();
        let word = paint(&format!("{:<13}", "pass"), Outcome::Pass, colour);
        let mut lines = String::new();
        wrap(&mut lines, "               ", &names.join(" "), columns);
        _ = write!(out, "{word}  {}", lines.trim_start());
    }
    if advisory {
        out.push_str("* advisory: does not decide the verdict\n");
    }
}

fn findings(out: &mut String, report: &Report, columns: usize) {
    if report.findings.is_empty() {
        return;
    }
    _ = writeln!(out, "\nfindings ({})", report.findings.len());
    let checks: std::collections::BTreeSet<_> = report.findings.iter().map(|finding| finding.check).collect();
    for check in checks {
        let of_check: Vec<_> = report.findings.iter().filter(|finding| finding.check == check).collect();
        for (index, finding) in of_check.iter().take(FINDINGS_MAX).enumerate() {
            let place = finding.place.as_ref().map_or_else(String::new, |place| format!("{place}  "));
            let waived = report.waiver_of(finding).map_or_else(String::new, |waiver| {
                format!(" (waived by {} until {}: {})", waiver.owner, waiver.expires, waiver.reason)
            });
            let text = format!("{place}{}{waived}", finding.what);
            let name = if index == 0 { check.name() } else { "" };
            wrap(out, &format!("  {name:<16}  "), &printable(&text), columns);
        }
        let left = of_check.len().saturating_sub(FINDINGS_MAX);
        if left > 0 {
            _ = writeln!(out, "  {:<16}  … and {left} more in report.html", "");
        }
        if let Some(first) = of_check.first() {
            wrap(out, "                    → ", &printable(&first.remedy), columns);
        }
    }
}

/// Both ways back beside each other.
fn ways(out: &mut String, report: &Report, columns: usize) {
    let Some(rows) = super::ways::rows(&report.evidence) else { return };
    out.push_str("\nboth ways back from the same upgraded state\n");
    for (name, [first, second]) in rows {
        let line = format!("  {name:<29} {:>23} {:>23}", printable(&first), printable(&second));
        _ = writeln!(out, "{}", line.trim_end());
    }
    if let Some(reason) = super::ways::not_taken(&report.evidence) {
        wrap(out, "  ", &printable(reason), columns);
    }
}

fn reach(out: &mut String, report: &Report, columns: usize) {
    out.push_str("\nwhat this verdict may claim\n");
    for line in super::markdown::reach_lines(report) {
        wrap(out, "  ", &printable(&line), columns);
    }
}

/// Breaks a text into lines of at most `columns`; every line begins with `indent`, or with as many spaces.
fn wrap(out: &mut String, indent: &str, text: &str, columns: usize) {
    let mut line = indent.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > columns {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(indent.chars().count());
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// Statements and paths come from strangers: no escape sequence of theirs reaches the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn paint(text: &str, outcome: Outcome, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match outcome {
        Outcome::Pass => "32",
        Outcome::Fail => "1;31",
        Outcome::Inconclusive => "33",
        Outcome::Unmeasured => "35",
        Outcome::Waived => "36",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}
