//! Reports side by side: gates and phase quantiles, with what makes them hard to compare said first.
//!
//! Called by `fulldress compare`. One rehearsal is one sample, so nothing here claims that a difference is
//! significant: it shows what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{CHECKS, CheckId, Outcome, Unit};
use crate::evidence::{Evidence, PackageFacts};
use crate::figures::{cut, duration_us, thousands, value};
use crate::phase::Phase;
use crate::report::Report;
use crate::traffic::{Quantiles, RouteSummary};

/// Widest column of the text table.
const COLUMN_MAX: usize = 24;
/// Stands under every comparison.
const NO_CLAIM: &str = "Each column is one rehearsal: one sample. Differences are shown as they were seen, and no \
                        statistical significance is claimed for any of them.";

/// Several reports side by side, in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Comparison {
    /// `fulldress/comparison/1`.
    pub schema: String,
    /// One a report: its label and verdict.
    pub columns: Vec<Column>,
    /// Differences in conditions, which may explain differences in figures.
    pub notes: Vec<String>,
    /// Gates and advisory checks, in the order of the reference.
    pub checks: Vec<CheckRow>,
    /// Every finding of any report, ordered by check and object.
    pub findings: Vec<FindingRow>,
    /// Open-model response times per phase.
    pub phases: Vec<PhaseRow>,
    /// What the comparison does not say.
    pub claim: String,
}

/// Head of a column.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Column {
    /// Name that the caller gave, such as the folder's.
    pub label: String,
    /// Package and versions.
    pub package: String,
    /// Outcome of the whole.
    pub verdict: Outcome,
}

/// A check in every report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct CheckRow {
    /// The check.
    pub check: CheckId,
    /// Unit of the observed values.
    pub unit: Unit,
    /// One a report; absent where a report has no such check.
    pub cells: Vec<Option<CheckCell>>,
}

/// A check in one report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct CheckCell {
    /// Outcome.
    pub outcome: Outcome,
    /// Worst value seen, in the row's unit.
    pub observed: Option<f64>,
}

/// A finding in every report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FindingRow {
    /// The check that found it.
    pub check: CheckId,
    /// What it is about: the same in every report that has it, unlike its words, which hold figures.
    pub object: String,
    /// One a report: how often it was found there. Waived findings do not count.
    pub cells: Vec<usize>,
}

/// A phase in every report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PhaseRow {
    /// The phase.
    pub phase: Phase,
    /// One a report; absent where it has no traffic in that phase.
    pub cells: Vec<Option<PhaseCell>>,
}

/// A phase in one report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PhaseCell {
    /// Requests sent.
    pub sent: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests above the phase's objective.
    pub slow: u64,
    /// Response time.
    pub response: Quantiles,
}

/// Why reports cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompareError {
    /// Fewer than two.
    #[error("a comparison needs two reports or more, got {0}")]
    TooFew(usize),
    /// Their formats differ.
    #[error(
        "{left} has schema {left_schema} and {right} has {right_schema}: render the older one again with this fulldress"
    )]
    Schemas {
        /// Label of the first report.
        left: String,
        /// Its schema.
        left_schema: String,
        /// Label of the one that differs.
        right: String,
        /// Its schema.
        right_schema: String,
    },
}

/// Lays reports side by side; each comes with the label of its column.
///
/// # Errors
/// When there are fewer than two, or their schema versions differ.
pub fn compare(reports: &[(String, &Report)]) -> Result<Comparison, CompareError> {
    let [first, others @ ..] = reports else { return Err(CompareError::TooFew(0)) };
    if others.is_empty() {
        return Err(CompareError::TooFew(1));
    }
    if let Some(other) = others.iter().find(|other| other.1.schema != first.1.schema) {
        return Err(CompareError::Schemas {
            left: first.0.clone(),
            left_schema: first.1.schema.clone(),
            right: other.0.clone(),
            right_schema: other.1.schema.clone(),
        });
    }
    let column = |(label, report): &(String, &Report)| Column {
        label: label.clone(),
        package: package_name(report.evidence.package.as_ref()),
        verdict: report.verdict.outcome,
    };
    Ok(Comparison {
        schema: "fulldress/comparison/1".to_owned(),
        columns: reports.iter().map(column).collect(),
        notes: notes(first, others),
        checks: check_rows(reports),
        findings: finding_rows(reports),
        phases: phase_rows(reports),
        claim: NO_CLAIM.to_owned(),
    })
}

fn package_name(package: Option<&PackageFacts>) -> String {
    package.map_or_else(
        || "no package".to_owned(),
        |package| format!("{} {} → {}", package.name, package.from, package.to),
    )
}

fn check_rows(reports: &[(String, &Report)]) -> Vec<CheckRow> {
    let cell = |report: &Report, id: CheckId| {
        let check = report.checks.iter().find(|check| check.id == id)?;
        Some(CheckCell { outcome: check.outcome, observed: check.observed })
    };
    CHECKS
        .iter()
        .map(|record| CheckRow {
            check: record.id,
            unit: record.unit,
            cells: reports.iter().map(|(_, report)| cell(report, record.id)).collect(),
        })
        .collect()
}

fn finding_rows(reports: &[(String, &Report)]) -> Vec<FindingRow> {
    let mut rows: BTreeMap<(CheckId, &str), Vec<usize>> = BTreeMap::new();
    for (column, (_, report)) in reports.iter().enumerate() {
        for finding in &report.findings {
            let cells = rows
                .entry((finding.check, finding.object.as_str()))
                .or_insert_with(|| vec![0; reports.len()]);
            cells[column] += 1;
        }
    }
    rows.into_iter()
        .map(|((check, object), cells)| FindingRow { check, object: object.to_owned(), cells })
        .collect()
}

fn phase_rows(reports: &[(String, &Report)]) -> Vec<PhaseRow> {
    let cell = |report: &Report, phase: Phase| {
        let total = report.evidence.traffic.as_ref()?.phases.iter().find(|total| total.phase == phase)?;
        Some(PhaseCell {
            sent: total.sent,
            errors: total.errors_total(),
            slow: total.slow,
            response: total.response.clone(),
        })
    };
    Phase::UNDER_TRAFFIC
        .into_iter()
        .map(|phase| PhaseRow {
            phase,
            cells: reports.iter().map(|(_, report)| cell(report, phase)).collect(),
        })
        .filter(|row| row.cells.iter().any(Option::is_some))
        .collect()
}

/// Conditions in which a report differs from the first one.
fn notes(first: &(String, &Report), others: &[(String, &Report)]) -> Vec<String> {
    let mut notes = Vec::new();
    for (label, report) in others {
        let differing = differing_conditions(&first.1.evidence, &report.evidence);
        if !differing.is_empty() {
            notes.push(format!("{label} differs from {} in {}.", first.0, differing.join(", ")));
        }
    }
    notes
}

fn differing_conditions(left: &Evidence, right: &Evidence) -> Vec<&'static str> {
    let (left_facts, right_facts) = (&left.rehearsal, &right.rehearsal);
    let mut limits = (left_facts.limits.clone(), right_facts.limits.clone());
    // A waiver changes what is accepted, not what is measured.
    limits.0.waivers.clear();
    limits.1.waivers.clear();
    let dataset = |evidence: &Evidence| evidence.reach.as_ref().map(|reach| reach.relations.clone());
    let settings = |evidence: &Evidence| evidence.reach.as_ref().map(|reach| reach.settings.clone());
    let digest = |evidence: &Evidence| evidence.package.as_ref().map(|package| package.sha256.clone());
    [
        ("the package", digest(left) != digest(right)),
        ("the workload", workload(left) != workload(right)),
        ("the dataset", dataset(left) != dataset(right)),
        ("the limits", limits.0 != limits.1),
        ("the database's settings", settings(left) != settings(right)),
        ("the profile", left_facts.profile != right_facts.profile),
        ("the mirror", left_facts.mirror != right_facts.mirror),
        ("the seed", left_facts.seed != right_facts.seed),
        ("the version of fulldress", left_facts.fulldress != right_facts.fulldress),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name)
    .collect()
}

/// What is asked of the system: routes, and their planned rate in the baseline to a tenth of a request per second.
fn workload(evidence: &Evidence) -> BTreeSet<(String, u64)> {
    let Some(traffic) = &evidence.traffic else { return BTreeSet::new() };
    let baseline = evidence.phases.iter().find(|span| span.phase == Phase::Baseline);
    let length_us = baseline.and_then(|span| Some(span.end_us?.saturating_sub(span.start_us))).unwrap_or(0);
    let rate = |row: &RouteSummary| (row.planned * 10_000_000).checked_div(length_us).unwrap_or(0);
    let rows = traffic.routes.iter().filter(|row| row.phase == Phase::Baseline);
    rows.map(|row| (row.route.clone(), rate(row))).collect()
}

impl Comparison {
    /// The comparison as text for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table = vec![self.head("", |column| column.label.clone())];
        table.push(self.head("package", |column| column.package.clone()));
        table.push(self.head("verdict", |column| column.verdict.name().to_uppercase()));
        for row in &self.checks {
            let quiet = row.cells.iter().all(|cell| {
                cell.as_ref().is_some_and(|cell| cell.outcome == Outcome::Pass && cell.observed == Some(0.0))
            });
            // A row in which nobody found anything tells nothing apart.
            if !quiet {
                table.push(row.text());
            }
        }
        for row in &self.phases {
            table.extend(row.text());
        }
        let mut out = layout(&table);
        let apart: Vec<_> = self.findings.iter().filter(|row| row.cells.contains(&0)).collect();
        out.push_str(if apart.is_empty() {
            "\nEvery report has the same findings.\n"
        } else {
            "\nFindings that not every report has:\n"
        });
        for row in apart {
            let has = self.columns.iter().zip(&row.cells).filter(|(_, count)| **count > 0);
            let labels: Vec<&str> = has.map(|(column, _)| column.label.as_str()).collect();
            _ = writeln!(out, "{}  {}  (only {})", row.check.name(), row.object, labels.join(", "));
        }
        for note in &self.notes {
            // Writing to a String cannot fail.
            _ = writeln!(out, "\nNot alike: {note}");
        }
        _ = writeln!(out, "\n{}", self.claim);
        out
    }

    /// The comparison as JSON.
    ///
    /// # Errors
    /// When a value has no JSON form; none of the comparison's types has such a value.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    fn head(&self, name: &str, of: fn(&Column) -> String) -> Vec<String> {
        std::iter::once(name.to_owned()).chain(self.columns.iter().map(of)).collect()
    }
}

impl CheckRow {
    fn text(&self) -> Vec<String> {
        let cell = |cell: &Option<CheckCell>| match cell {
            None => "—".to_owned(),
            Some(CheckCell { outcome, observed: None }) => outcome.name().to_owned(),
            Some(CheckCell { outcome, observed: Some(observed) }) => {
                format!("{outcome} {}", value(self.unit, *observed))
            }
        };
        std::iter::once(self.check.name().to_owned()).chain(self.cells.iter().map(cell)).collect()
    }
}

impl PhaseRow {
    /// Three rows: median, 99th percentile, and bad requests.
    fn text(&self) -> [Vec<String>; 3] {
        let row = |what: &str, of: fn(&PhaseCell) -> String| {
            let cells = self.cells.iter().map(|cell| cell.as_ref().map_or_else(|| "—".to_owned(), of));
            std::iter::once(format!("{} {what}", self.phase)).chain(cells).collect()
        };
        [
            row("p50", |cell| quantile(cell.response.p50_us, cell.response.count)),
            row("p99", |cell| quantile(cell.response.p99_us, cell.response.count)),
            row("errors+slow", |cell| {
                format!("{} of {}", thousands(cell.errors + cell.slow), thousands(cell.sent))
            }),
        ]
    }
}

fn quantile(quantile_us: Option<u64>, count: u64) -> String {
    quantile_us.map_or_else(|| format!("— (n={count})"), duration_us)
}

/// Pads the cells of each column to one width.
fn layout(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let shown = |row: &Vec<String>, column: usize| {
        row.get(column).map_or_else(String::new, |cell| cut(cell, COLUMN_MAX))
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| table.iter().map(|row| shown(row, column).chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in table {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| format!("{:<width$}", shown(row, column)))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{CompareError, compare};
    use crate::evidence::Evidence;
    use crate::report::Report;
    use crate::sample::{self, TODAY};

    fn report(evidence: Evidence) -> Report {
        Report::build(evidence, TODAY)
    }

    #[test]
    fn reports_stand_side_by_side() {
        let (safe, hazardous) = (report(sample::safe()), report(sample::hazardous()));
        let mut smaller = sample::safe();
        smaller.reach.as_mut().unwrap().relations[0].rows = 1_000;
        smaller.rehearsal.limits.latency_ms = 500;
        smaller.traffic.as_mut().unwrap().routes.retain(|row| row.route != "GET /products");
        let smaller = report(smaller);
        let columns = [
            ("monday".to_owned(), &safe),
            ("tuesday".to_owned(), &hazardous),
            ("small".to_owned(), &smaller),
        ];
        let comparison = compare(&columns).unwrap();
        insta::assert_snapshot!("text", comparison.text());
        let json: serde_json::Value = serde_json::from_str(&comparison.json().unwrap()).unwrap();
        assert_eq!(json["columns"][1]["verdict"], "fail");
        assert!(json["claim"].as_str().unwrap().contains("no statistical significance"));
        let all_equal = compare(&[("a".to_owned(), &safe), ("b".to_owned(), &safe)]).unwrap();
        assert_eq!(all_equal.notes, [""; 0]);
        assert!(all_equal.text().contains("Every report has the same findings."));
        let only_tuesday = comparison.findings.iter().filter(|row| row.cells[0] == 0 && row.cells[2] == 0);
        assert_eq!(only_tuesday.map(|row| row.cells[1]).sum::<usize>(), hazardous.findings.len());
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let safe = report(sample::safe());
        let mut newer = safe.clone();
        newer.schema = "fulldress/report/2".to_owned();
        assert_eq!(compare(&[]), Err(CompareError::TooFew(0)));
        assert_eq!(compare(&[("a".to_owned(), &safe)]), Err(CompareError::TooFew(1)));
        let error = compare(&[("a".to_owned(), &safe), ("b".to_owned(), &newer)]).unwrap_err();
        assert!(
            error.to_string().starts_with("a has schema fulldress/report/1 and b has fulldress/report/2")
        );
    }
}
