//! The workload file's tables, exactly as a person writes them: types and unknown keys are checked, nothing else.
//!
//! `file` reads them; `scenario`, `http`, `sql` and `feeder` give them their meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fulldress_reports::traffic::Model;
use serde::Deserialize;
use toml::Spanned;

use super::scenario::Spread;
use crate::answer::JsonExpectation;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkload {
    pub(super) schema: Spanned<String>,
    pub(super) name: String,
    pub(super) profile: Option<Spanned<RawProfile>>,
    #[serde(default)]
    pub(super) feeder: Vec<RawFeeder>,
    #[serde(default)]
    pub(super) scenario: Vec<RawScenario>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfile {
    pub(super) file: PathBuf,
    pub(super) from: Option<String>,
    pub(super) factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFeeder {
    pub(super) name: Spanned<String>,
    pub(super) database: Option<String>,
    pub(super) query: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) order: Option<RawOrder>,
    pub(super) popularity: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawOrder {
    Random,
    Sequence,
    Once,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub(super) name: Spanned<String>,
    pub(super) model: Model,
    pub(super) rate_per_s: Option<f64>,
    pub(super) rates: Option<RawRates>,
    #[serde(default)]
    pub(super) profile: bool,
    pub(super) schedule: Option<Spread>,
    pub(super) connections_max: Option<usize>,
    pub(super) backlog_max: Option<usize>,
    pub(super) users: Option<u32>,
    pub(super) think_ms: Option<RawThink>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) database: Option<String>,
    #[serde(default)]
    pub(super) step: Vec<RawStep>,
}

/// Rates over time.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a list of { for_s, rate_per_s, to_per_s }, or { file = \"rates.csv\" }")]
pub(super) enum RawRates {
    Stretches(Vec<RawStretch>),
    Replay(RawReplay),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReplay {
    pub(super) file: PathBuf,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStretch {
    pub(super) for_s: f64,
    pub(super) rate_per_s: f64,
    pub(super) to_per_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawThink {
    pub(super) min: u64,
    pub(super) max: u64,
}

/// A step of either protocol: which keys may stand together is the meaning's business.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    pub(super) route: Spanned<String>,
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    pub(super) statement: Option<String>,
    #[serde(default)]
    pub(super) parameters: Vec<RawParameter>,
    #[serde(default)]
    pub(super) transaction: Vec<RawStatement>,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) expect: RawExpect,
    #[serde(default)]
    pub(super) extract: BTreeMap<String, RawExtract>,
    pub(super) when: Option<String>,
    pub(super) acknowledged: Option<RawAcknowledged>,
}

/// A statement inside a transaction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStatement {
    pub(super) statement: String,
    #[serde(default)]
    pub(super) parameters: Vec<RawParameter>,
    #[serde(default)]
    pub(super) expect: RawExpect,
}

/// A template, or a plain value that needs none.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a template, a number, true or false")]
pub(super) enum RawParameter {
    Template(String),
    Whole(i64),
    Real(f64),
    Truth(bool),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExpect {
    pub(super) status: Option<u16>,
    #[serde(default)]
    pub(super) json: BTreeMap<String, JsonExpectation>,
    pub(super) rows: Option<u64>,
    pub(super) rows_min: Option<u64>,
    pub(super) rows_max: Option<u64>,
    pub(super) latency_ms: Option<u64>,
}

/// Where a value of an answer stands.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a JSON pointer, or { header = NAME, regex = PATTERN } with one or both")]
pub(crate) enum RawExtract {
    Pointer(String),
    Where(RawPlace),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPlace {
    pub(crate) header: Option<String>,
    pub(crate) regex: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAcknowledged {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: Vec<String>,
    pub(super) read_back: String,
}
