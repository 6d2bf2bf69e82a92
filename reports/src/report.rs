//! `report.json`: the only source of every rendering.
//!
//! Built by the conductor at the end of a rehearsal and read back by `report`, `compare` and `gate`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Check, Outcome};
use crate::evidence::Evidence;
use crate::finding::Finding;
use crate::judge::{Judgement, Verdict, WaivedFinding, importance, judge};

/// Name of the format in front of its version.
const FORMAT: &str = "fulldress/report/";
/// Version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

/// A rehearsal's evidence with everything that was decided on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// `fulldress/report/1`.
    pub schema: String,
    /// The outcome of the whole.
    pub verdict: Verdict,
    /// Every check, in the order of the reference.
    pub checks: Vec<Check>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Which findings a waiver in force accepts.
    pub waived: Vec<WaivedFinding>,
    /// The facts.
    pub evidence: Evidence,
}

/// Why a report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No JSON, or not of this shape.
    #[error("report.json is damaged at line {line}, column {column}: {reason}", line = .0.line(), column = .0.column(), reason = .0)]
    Damaged(#[from] serde_json::Error),
    /// JSON of something else.
    #[error("report.json has schema `{0}`, not `fulldress/report/…`: is this the folder of a rehearsal?")]
    Foreign(String),
    /// Written by a newer program.
    #[error(
        "report.json has version {found} of its schema and this fulldress reads up to {VERSION}: use a newer fulldress"
    )]
    Newer {
        /// Version in the file.
        found: u32,
    },
}

impl Report {
    /// Judges the evidence. `today` is the day in UTC, `YYYY-MM-DD`, that waivers are held against.
    #[must_use]
    pub fn build(evidence: Evidence, today: &str) -> Self {
        let Judgement { checks, findings, waived, verdict } = judge(&evidence, today);
        Self { schema: format!("{FORMAT}{VERSION}"), verdict, checks, findings, waived, evidence }
    }

    /// The bytes of `report.json`; equal reports give equal bytes.
    ///
    /// # Errors
    /// When a value has no JSON form; none of a report's types has such a value.
    pub fn to_json(&self) -> Result<Vec<u8>, ReportError> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads `report.json`.
    ///
    /// # Errors
    /// When the bytes are damaged, are no report, or have a newer version than this program knows.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ReportError> {
        // The version is read by itself first: a newer report may have another shape.
        let head: Head = serde_json::from_slice(bytes)?;
        let version = head.schema.strip_prefix(FORMAT).and_then(|version| version.parse::<u32>().ok());
        match version {
            None => Err(ReportError::Foreign(crate::figures::cut(&head.schema, 80))),
            Some(found) if found > VERSION => Err(ReportError::Newer { found }),
            Some(_) => Ok(serde_json::from_slice(bytes)?),
        }
    }

    /// The checks as the first screen shows them: gates before advisory checks, the worst outcome first.
    #[must_use]
    pub fn gates(&self) -> Vec<&Check> {
        let mut checks: Vec<&Check> = self.checks.iter().collect();
        // Sorting keeps the order of the reference within an outcome; what failed stands by importance, as in the
        // verdict's sentence.
        checks.sort_by_key(|check| {
            let place = if check.outcome == Outcome::Fail { importance(check.id) } else { 0 };
            (!check.required, severity(check.outcome), place)
        });
        checks
    }

    /// The waiver that accepts a finding, if one does.
    #[must_use]
    pub fn waiver_of(&self, finding: &Finding) -> Option<&WaivedFinding> {
        self.waived.iter().find(|waived| waived.check == finding.check && waived.object == finding.object)
    }

    /// The schema of `report.json`.
    #[must_use]
    pub fn json_schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }
}

/// What every version of the format has.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    schema: String,
}

/// Rank of an outcome in a table: what a reader must see first comes first.
pub(crate) const fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Fail => 0,
        Outcome::Unmeasured => 1,
        Outcome::Inconclusive => 2,
        Outcome::Waived => 3,
        Outcome::Pass => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, ReportError};
    use crate::evidence::Evidence;
    use crate::sample;

    /// Set this variable to write the schema anew after a change of the types.
    const REGENERATE: &str = "FULLDRESS_REGENERATE";

    #[test]
    fn the_schema_in_the_repository_is_the_one_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/report-1.json");
        let schema = serde_json::to_string_pretty(&Report::json_schema()).unwrap() + "\n";
        if std::env::var_os(REGENERATE).is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap();
        assert!(stored == schema, "schema/report-1.json is stale: run the tests with {REGENERATE}=1");
    }

    #[test]
    fn reports_follow_the_schema_and_come_back_equal() {
        let schema = serde_json::to_value(Report::json_schema()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for evidence in [sample::safe(), sample::hazardous(), Evidence::default()] {
            let report = Report::build(evidence, sample::TODAY);
            let bytes = report.to_json().unwrap();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{errors:?}");
            let back = Report::from_json(&bytes).unwrap();
            assert_eq!(back.to_json().unwrap(), bytes);
            assert_eq!(back, report);
        }
    }

    #[test]
    fn a_judged_report_is_judged_the_same_again() {
        let report = Report::build(sample::hazardous(), sample::TODAY);
        assert_eq!(Report::build(report.evidence.clone(), sample::TODAY), report);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let newer = Report::from_json(br#"{"schema":"fulldress/report/7","shape":"new"}"#).unwrap_err();
        assert!(matches!(newer, ReportError::Newer { found: 7 }));
        assert!(newer.to_string().contains("use a newer fulldress"));
        let foreign = Report::from_json(br#"{"schema":"other/1"}"#).unwrap_err();
        assert!(matches!(foreign, ReportError::Foreign(_)));
        assert!(matches!(Report::from_json(b"{").unwrap_err(), ReportError::Damaged(_)));
        assert!(matches!(
            Report::from_json(br#"{"schema":"fulldress/report/1"}"#).unwrap_err(),
            ReportError::Damaged(_)
        ));
    }
}
