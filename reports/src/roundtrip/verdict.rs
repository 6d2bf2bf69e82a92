//! The verdicts on a migration, the rule that decides them, and what a person can require.
//!
//! Called by [`super::Facts::judge`]; the command line reads the names here.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Facts, Migration, Reapply, Way, WayBack};

/// What came of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything came back.
    Exact,
    /// Everything came back, columns in another physical order.
    OrderOnly,
    /// Something of the schema did not come back.
    Drift,
    /// The schema came back, rows or values did not.
    DataLost,
    /// The server refused the way back.
    DownFailed,
    /// The way back has no statement.
    EmptyDown,
    /// There is no way back.
    NoDown,
    /// The server refused the way up, or it could not be run.
    UpFailed,
}

/// A verdict as a record.
#[derive(Debug, Clone, Copy)]
pub struct VerdictRecord {
    /// Which one.
    pub verdict: Verdict,
    /// Its name in JSON and on the command line.
    pub name: &'static str,
    /// What it means, one sentence.
    pub meaning: &'static str,
    /// What to do, one sentence.
    pub remedy: &'static str,
}

/// Every verdict, the best first.
pub const VERDICTS: [VerdictRecord; 8] = [
    VerdictRecord {
        verdict: Verdict::Exact,
        name: "exact",
        meaning: "The way back brings schema and rows back.",
        remedy: "Nothing is to be done.",
    },
    VerdictRecord {
        verdict: Verdict::OrderOnly,
        name: "order-only",
        meaning: "The way back brings everything back, with the columns of a table or a view in another order.",
        remedy: "Name columns in INSERT and COPY, and do not rely on SELECT *.",
    },
    VerdictRecord {
        verdict: Verdict::Drift,
        name: "drift",
        meaning: "After the way back the schema is not what it was before the migration.",
        remedy: "Let the way back undo each object that is named.",
    },
    VerdictRecord {
        verdict: Verdict::DataLost,
        name: "data-lost",
        meaning: "The way back brings the schema back, and not the rows or values that it had.",
        remedy: "Keep what the migration takes away until no way back is wanted any more, or copy it back.",
    },
    VerdictRecord {
        verdict: Verdict::DownFailed,
        name: "down-failed",
        meaning: "The way back fails on the state that its own way up made.",
        remedy: "Correct the statement that is named.",
    },
    VerdictRecord {
        verdict: Verdict::EmptyDown,
        name: "empty-down",
        meaning: "The way back has no statement.",
        remedy: "Write it, or say in it that there is none by failing.",
    },
    VerdictRecord {
        verdict: Verdict::NoDown,
        name: "no-down",
        meaning: "There is no way back.",
        remedy: "Write one, or plan a release that can only go forward.",
    },
    VerdictRecord {
        verdict: Verdict::UpFailed,
        name: "up-failed",
        meaning: "The way up fails, or could not be run.",
        remedy: "Correct the statement that is named, or give what it needs with --setup, --postgres or --superuser.",
    },
];

impl Verdict {
    /// Its record.
    #[must_use]
    pub fn record(self) -> &'static VerdictRecord {
        // The table has every verdict; a test holds it.
        VERDICTS.iter().find(|record| record.verdict == self).unwrap_or(&VERDICTS[0])
    }

    /// Its name in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.record().name
    }

    /// The rule.
    pub(super) fn of(facts: &Facts) -> Self {
        let failed = facts.failure.as_ref().map(|failure| failure.during);
        let lost = facts.data.as_ref().is_some_and(|data| !data.lost.is_empty());
        match (&facts.back, failed) {
            (_, Some(Way::Up)) => Self::UpFailed,
            (_, Some(Way::Down)) => Self::DownFailed,
            (WayBack::Missing, _) => Self::NoDown,
            (WayBack::Empty(_), _) => Self::EmptyDown,
            _ if !facts.differences.is_empty() => Self::Drift,
            _ if lost => Self::DataLost,
            _ if !facts.reordered.is_empty() => Self::OrderOnly,
            _ => Self::Exact,
        }
    }
}

/// What a person can require of every migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// No way up fails.
    UpFailed,
    /// No way back fails.
    DownFailed,
    /// Every schema comes back.
    Drift,
    /// No row or value is lost, also where the schema does not come back.
    DataLost,
    /// Columns come back in their order.
    OrderOnly,
    /// No way back is empty.
    EmptyDown,
    /// No way back is missing.
    NoDown,
    /// The second way up reaches the schema of the first.
    ReapplyDiffers,
    /// The second way up does not fail.
    ReapplyFailed,
}

/// A requirement as a record.
#[derive(Debug, Clone, Copy)]
pub struct RequirementRecord {
    /// Which one.
    pub requirement: Requirement,
    /// Its name in JSON and on the command line: what must not happen.
    pub name: &'static str,
    /// Whether it is required when nobody says what is.
    pub by_default: bool,
}

/// Every requirement.
pub const REQUIREMENTS: [RequirementRecord; 9] = [
    RequirementRecord { requirement: Requirement::UpFailed, name: "up-failed", by_default: true },
    RequirementRecord { requirement: Requirement::DownFailed, name: "down-failed", by_default: true },
    RequirementRecord { requirement: Requirement::Drift, name: "drift", by_default: true },
    RequirementRecord { requirement: Requirement::DataLost, name: "data-lost", by_default: true },
    RequirementRecord { requirement: Requirement::OrderOnly, name: "order-only", by_default: false },
    RequirementRecord { requirement: Requirement::EmptyDown, name: "empty-down", by_default: false },
    RequirementRecord { requirement: Requirement::NoDown, name: "no-down", by_default: false },
    RequirementRecord {
        requirement: Requirement::ReapplyDiffers,
        name: "reapply-differs",
        by_default: false,
    },
    RequirementRecord { requirement: Requirement::ReapplyFailed, name: "reapply-failed", by_default: true },
];

impl Requirement {
    /// Its name in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        let record = REQUIREMENTS.iter().find(|record| record.requirement == self);
        record.map_or("", |record| record.name)
    }

    /// The requirement of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        REQUIREMENTS.iter().find(|record| record.name == name).map(|record| record.requirement)
    }

    /// What is required when nobody says what is.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        REQUIREMENTS.iter().filter(|record| record.by_default).map(|record| record.requirement).collect()
    }

    /// Whether a migration meets it.
    #[must_use]
    pub fn met(self, migration: &Migration) -> bool {
        match self {
            Self::UpFailed => migration.verdict != Verdict::UpFailed,
            Self::DownFailed => migration.verdict != Verdict::DownFailed,
            Self::Drift => migration.differences.is_empty(),
            Self::DataLost => migration.data.as_ref().is_none_or(|data| data.lost.is_empty()),
            Self::OrderOnly => migration.reordered.is_empty(),
            Self::EmptyDown => migration.verdict != Verdict::EmptyDown,
            Self::NoDown => migration.verdict != Verdict::NoDown,
            Self::ReapplyDiffers => migration.reapply != Some(Reapply::Differs),
            Self::ReapplyFailed => migration.reapply != Some(Reapply::Failed),
        }
    }
}
