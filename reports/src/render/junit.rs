//! `junit.xml`: one test case a check, one suite a family, for CI systems that show nothing else.

use quick_junit::{NonSuccessKind, Report as JunitReport, TestCase, TestCaseStatus, TestSuite};

use crate::check::{Check, Outcome};
use crate::report::Report;
use crate::roundtrip::{Migration, Requirement, RoundTrip, Verdict};

use super::{RenderError, Renderer, limit, observed};

/// Writes `junit.xml`.
#[derive(Debug, Clone, Copy)]
pub struct Junit;

impl Renderer for Junit {
    fn name(&self) -> &'static str {
        "junit.xml"
    }

    fn render(&self, report: &Report) -> Result<Vec<u8>, RenderError> {
        let mut document = JunitReport::new(format!("fulldress {}", super::title(report)));
        let mut suites: Vec<TestSuite> = Vec::new();
        for check in &report.checks {
            let family = family(check);
            if suites.last().is_none_or(|suite| suite.name.as_str() != family) {
                suites.push(TestSuite::new(family));
            }
            if let Some(suite) = suites.last_mut() {
                suite.add_test_case(case(report, check));
            }
        }
        document.add_test_suites(suites);
        let text = document
            .to_string()
            .map_err(|error| RenderError { file: self.name(), reason: error.to_string() })?;
        Ok(text.into_bytes())
    }
}

/// A round trip as one suite: one test case a migration.
///
/// # Errors
/// When the encoder refuses a value.
pub fn round_trip(trip: &RoundTrip) -> Result<String, quick_junit::SerializeError> {
    let mut suite = TestSuite::new(trip.folder.clone());
    for migration in &trip.migrations {
        suite.add_test_case(migrated(migration, &migration.unmet(&trip.required)));
    }
    let mut document = JunitReport::new("fulldress roundtrip");
    document.add_test_suite(suite);
    document.to_string()
}

fn migrated(migration: &Migration, unmet: &[Requirement]) -> TestCase {
    // What nobody requires never turns a job red; what was not tried is not painted green.
    let untried = [Verdict::UpFailed, Verdict::EmptyDown, Verdict::NoDown].contains(&migration.verdict);
    let mut status = match (unmet.is_empty(), untried) {
        (true, true) => TestCaseStatus::skipped(),
        (true, false) => TestCaseStatus::success(),
        (false, _) => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    if !unmet.is_empty() || untried {
        status.set_message(format!("{}: {}", migration.place, migration.sentence()));
        status.set_type(migration.verdict.name());
    }
    let mut case = TestCase::new(migration.id.clone(), status);
    case.set_classname("fulldress.roundtrip");
    case.set_time(std::time::Duration::from_millis(migration.took_ms));
    case.extra.insert("file".into(), migration.place.file.clone().into());
    case.extra.insert("line".into(), migration.place.line.to_string().into());
    let differences: Vec<String> = migration
        .differences
        .iter()
        .map(|one| format!("{}: {} {}", migration.place, one.kind, one.object))
        .collect();
    if !differences.is_empty() {
        case.set_system_out(differences.join("\n"));
    }
    case
}

/// The part of the id before its first hyphen.
fn family(check: &Check) -> &'static str {
    check.id.name().split('-').next().unwrap_or_default()
}

fn case(report: &Report, check: &Check) -> TestCase {
    let mut case = TestCase::new(check.id.name(), status(check));
    case.set_classname(format!("fulldress.{}", family(check).to_lowercase()));
    let findings: Vec<String> = report
        .findings
        .iter()
        .filter(|finding| finding.check == check.id)
        .map(|finding| {
            let place = finding.place.as_ref().map_or_else(String::new, |place| format!("{place}: "));
            format!("{place}{}", finding.what)
        })
        .collect();
    if !findings.is_empty() {
        case.set_system_out(findings.join("\n"));
    }
    case
}

/// A required check without evidence is an error and not skipped: CI systems paint skipped cases green.
fn status(check: &Check) -> TestCaseStatus {
    let kind = match (check.outcome, check.required) {
        (Outcome::Pass, _) => return TestCaseStatus::success(),
        (Outcome::Fail, true) => Some(NonSuccessKind::Failure),
        (Outcome::Unmeasured | Outcome::Inconclusive, true) => Some(NonSuccessKind::Error),
        // An advisory check never turns a job red.
        (Outcome::Waived, _) | (_, false) => None,
    };
    let mut status = kind.map_or_else(TestCaseStatus::skipped, TestCaseStatus::non_success);
    let figures = match check.observed {
        Some(_) => format!("limit {}, observed {}: ", limit(check), observed(check)),
        None => String::new(),
    };
    status.set_message(format!("{}: {figures}{}", check.outcome, check.evidence));
    status.set_type(check.outcome.name());
    status
}
