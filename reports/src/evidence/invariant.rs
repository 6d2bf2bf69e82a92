//! Invariants: what the plan says must hold in the data, whatever the package does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// One invariant as it was read before, during and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvariantEvidence {
    /// Name from the plan.
    pub name: String,
    /// Readings by phase. The one before the traffic counts as the warmup's.
    pub phases: Vec<InvariantPhase>,
    /// The first reading in which it did not hold.
    pub broken: Option<InvariantBreak>,
    /// The first reading since the upgrade began in which it did not hold.
    pub broken_since: Option<InvariantBreak>,
    /// The first error of the query, with its phase.
    pub error: Option<(Phase, String)>,
    /// Why the last reading that gave no answer gave none.
    pub missed: Option<String>,
    /// Whether it held after the rollback, when the traffic had ended; absent: it was not read then.
    pub held_after: Option<bool>,
}

/// The readings of an invariant in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvariantPhase {
    /// Which.
    pub phase: Phase,
    /// Readings in which it held.
    pub held: u64,
    /// Readings in which it did not.
    pub broken: u64,
    /// Readings that gave no answer: they took too long, gave way to a session that waited for them, or failed.
    pub missed: u64,
}

/// A reading in which an invariant did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvariantBreak {
    /// Phase of the reading; absent: after the traffic.
    pub phase: Option<Phase>,
    /// When the reading began, microseconds since the rehearsal's epoch.
    pub at_us: u64,
    /// How many rows offend, or which value stands where.
    pub seen: String,
}

impl InvariantEvidence {
    /// Readings with an answer in phases that `wanted` names.
    #[must_use]
    pub fn answered(&self, wanted: &[Phase]) -> u64 {
        let of = self.phases.iter().filter(|one| wanted.contains(&one.phase));
        of.map(|one| one.held + one.broken).sum()
    }
}
