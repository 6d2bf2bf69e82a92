//! `findings.sarif`: findings as code annotations, SARIF 2.1.0 (OASIS).

use serde_json::{Value, json};

use crate::check::{CHECKS, CheckRecord};
use crate::finding::{Finding, Place};
use crate::hazard;
use crate::report::Report;
use crate::roundtrip::{RoundTrip, VERDICTS, Verdict};
use crate::trace::Trace;

use super::{RenderError, Renderer};

/// Where findings without a place of their own are shown: code hosts drop results without a file.
const FALLBACK_FILE: &str = "manifest.toml";
/// The rule of a migration that came back exactly and could not be applied again.
const AGAIN: &str = "reapply";
/// Objects that a result names.
const OBJECTS_MAX: usize = 5;

/// Writes `findings.sarif`.
#[derive(Debug, Clone, Copy)]
pub struct Sarif;

impl Renderer for Sarif {
    fn name(&self) -> &'static str {
        "findings.sarif"
    }

    fn render(&self, report: &Report) -> Result<Vec<u8>, RenderError> {
        let rules: Vec<Value> = CHECKS.iter().map(rule).collect();
        let results: Vec<Value> = report.findings.iter().map(|finding| result(report, finding)).collect();
        let properties = json!({
            "verdict": report.verdict.outcome,
            "rehearsal": report.evidence.rehearsal.id,
        });
        document(&report.evidence.rehearsal.fulldress, rules, results, properties)
            .map_err(|error| RenderError { file: self.name(), reason: error.to_string() })
    }
}

/// The hazards of a trace as code annotations: a result a statement and hazard, at the statement's line.
///
/// # Errors
/// When a value has no JSON form; none of the trace's types has such a value.
pub fn hazards(trace: &Trace, fulldress: &str) -> Result<Vec<u8>, serde_json::Error> {
    let rules = hazard::all().map(|hazard| {
        json!({
            "id": hazard.id,
            "shortDescription": { "text": hazard.name },
            "fullDescription": { "text": format!("{} {}", hazard.what, hazard.fires) },
            "help": { "text": hazard.remedy },
            "defaultConfiguration": { "level": "warning" },
        })
    });
    let mut results = Vec::new();
    for script in &trace.scripts {
        for statement in &script.statements {
            for hazard in statement.hazards.iter().filter_map(|id| hazard::find(id)) {
                let level = if statement.error.is_some() { "error" } else { "warning" };
                results.push(json!({
                    "ruleId": hazard.id,
                    "level": level,
                    "message": { "text": format!("{} {}", hazard.what, hazard.remedy) },
                    "locations": [{
                        "physicalLocation": {
                            "artifactLocation": { "uri": uri(&script.file) },
                            "region": { "startLine": statement.line },
                        },
                    }],
                    // A line moves when a file is edited; which of the statements it is moves less.
                    "partialFingerprints": {
                        "fulldressHazard/v1": format!("{}|{}|{}", hazard.id, script.file, statement.index),
                    },
                }));
            }
        }
    }
    document(fulldress, rules.collect(), results, json!({ "serverVersion": trace.server_version }))
}

/// The migrations of a round trip that do not meet what is required, as code annotations: a result a migration, where
/// somebody should look first.
///
/// # Errors
/// When a value has no JSON form; none of the round trip's types has such a value.
pub fn round_trip(trip: &RoundTrip, fulldress: &str) -> Result<Vec<u8>, serde_json::Error> {
    let rules = VERDICTS.iter().filter(|record| record.verdict != Verdict::Exact).map(|record| {
        json!({
            "id": record.name,
            "shortDescription": { "text": record.meaning },
            "fullDescription": { "text": record.meaning },
            "help": { "text": record.remedy },
            "defaultConfiguration": { "level": "error" },
        })
    });
    let again = json!({
        "id": AGAIN,
        "shortDescription": { "text": "After the way back the migration does not apply again as it did." },
        "fullDescription": { "text": "After the way back the migration does not apply again as it did." },
        "help": { "text": "Let the way back undo everything that the way up makes." },
        "defaultConfiguration": { "level": "error" },
    });
    let results = trip.failed().map(|(migration, _)| {
        let rule = if migration.verdict == Verdict::Exact { AGAIN } else { migration.verdict.name() };
        let objects = migration.differences.iter().map(|one| one.object.as_str());
        let objects: Vec<&str> = objects.take(OBJECTS_MAX).collect();
        let named = if objects.is_empty() { String::new() } else { format!(" ({})", objects.join(", ")) };
        json!({
            "ruleId": rule,
            "level": "error",
            "message": {
                "text": format!("{}{named}. {}", migration.sentence(), migration.verdict.record().remedy),
            },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(&migration.place.file) },
                    "region": { "startLine": migration.place.line.max(1) },
                },
                "logicalLocations": [{ "fullyQualifiedName": migration.id }],
            }],
            "partialFingerprints": { "fulldressRoundTrip/v1": format!("{rule}|{}", migration.id) },
        })
    });
    let rules = rules.chain([again]).collect();
    document(fulldress, rules, results.collect(), json!({ "serverVersion": trip.server_version }))
}

fn document(
    fulldress: &str,
    rules: Vec<Value>,
    results: Vec<Value>,
    properties: Value,
) -> Result<Vec<u8>, serde_json::Error> {
    let document = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "fulldress", "semanticVersion": fulldress, "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "properties": properties,
            "results": results,
        }],
    });
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn rule(record: &CheckRecord) -> Value {
    json!({
        "id": record.id,
        "shortDescription": { "text": record.title },
        "fullDescription": { "text": record.meaning },
        "help": { "text": record.remedy },
        "defaultConfiguration": { "level": if record.required { "error" } else { "warning" } },
    })
}

fn result(report: &Report, finding: &Finding) -> Value {
    let check = report.checks.iter().find(|check| check.id == finding.check);
    let level = match check {
        Some(check) if check.required => "error",
        _ => "warning",
    };
    let mut result = json!({
        "ruleId": finding.check,
        "level": level,
        "message": { "text": format!("{} {}", finding.what, finding.remedy) },
        "locations": [location(finding)],
        // Figures change from run to run: only what a finding is about tells it apart.
        "partialFingerprints": { "fulldressFinding/v1": fingerprint(finding) },
    });
    if let Some(waiver) = report.waiver_of(finding) {
        result["suppressions"] = json!([{
            "kind": "external",
            "status": "accepted",
            "justification": format!("{} ({}, until {})", waiver.reason, waiver.owner, waiver.expires),
        }]);
    }
    result
}

fn location(finding: &Finding) -> Value {
    let (file, line) = match &finding.place {
        Some(Place { file, line }) => (file.as_str(), line.unwrap_or(1).max(1)),
        None => (FALLBACK_FILE, 1),
    };
    json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(file) },
            "region": { "startLine": line },
        },
        "logicalLocations": [{ "fullyQualifiedName": finding.object }],
    })
}

fn fingerprint(finding: &Finding) -> String {
    let file = finding.place.as_ref().map_or("", |place| place.file.as_str());
    format!("{}|{file}|{}", finding.check, finding.object)
}

/// A relative path as the relative URI reference that SARIF asks for.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
