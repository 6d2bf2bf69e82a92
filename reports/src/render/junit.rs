//! `junit.xml`: one test case a check, one suite a family, for CI systems that show nothing else.

use quick_junit::{NonSuccessKind, Report as JunitReport, TestCase, TestCaseStatus, TestSuite};

use crate::check::{Check, Outcome};
use crate::report::Report;

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
