//! Findings and waivers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::CheckId;

/// A place in a file of the package or of the plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// Path inside the package, or relative to the plan.
    pub file: String,
    /// Line, counted from 1.
    pub line: Option<u32>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}", self.file),
            None => formatter.write_str(&self.file),
        }
    }
}

/// One concrete instance that a check or a rule found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The check that it belongs to.
    pub check: CheckId,
    /// What it is about: a relation, a unit, a flag, a key. Stable from run to run; waivers name it.
    pub object: String,
    /// Where it comes from.
    pub place: Option<Place>,
    /// One sentence: what was seen, with figures and units.
    pub what: String,
    /// What to change.
    pub remedy: String,
    /// Measured size in the check's unit, where the finding has one; what a waiver's bound is held against.
    pub magnitude: Option<f64>,
}

/// An accepted finding. It turns the finding `waived` until it expires or its bound is exceeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// The check whose finding is accepted.
    pub check: CheckId,
    /// The finding's object, exactly.
    pub object: String,
    /// The largest magnitude accepted, in the check's unit.
    pub bound: Option<f64>,
    /// Why.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// Last day on which it holds, `YYYY-MM-DD` in UTC.
    pub expires: String,
}
