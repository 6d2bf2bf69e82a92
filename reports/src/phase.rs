//! Named spans of a rehearsal's time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A named span of time; the variants stand in the order in which a rehearsal plays them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Caches fill; recorded and shown, never judged.
    Warmup,
    /// Production as it is today: what every later phase is compared with.
    Baseline,
    /// The package's steps run.
    Upgrade,
    /// The new version carries the load.
    Soak,
    /// The way back.
    Rollback,
    /// The old version carries the load again.
    Recovery,
    /// The upgrade is applied a second time, without traffic.
    Reapply,
    /// Another way back is taken from the upgraded state, without traffic.
    OtherWay,
}

impl Phase {
    /// The phases that run under traffic, in order.
    pub const UNDER_TRAFFIC: [Self; 6] =
        [Self::Warmup, Self::Baseline, Self::Upgrade, Self::Soak, Self::Rollback, Self::Recovery];

    /// The name used in files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warmup => "warmup",
            Self::Baseline => "baseline",
            Self::Upgrade => "upgrade",
            Self::Soak => "soak",
            Self::Rollback => "rollback",
            Self::Recovery => "recovery",
            Self::Reapply => "reapply",
            Self::OtherWay => "other-way",
        }
    }

    /// Whether steps of the package run in this phase; its latency is kept in 100 ms intervals.
    #[must_use]
    pub const fn is_changing(self) -> bool {
        matches!(self, Self::Upgrade | Self::Rollback)
    }

    /// Length of the intervals in which latency is kept, in microseconds.
    #[must_use]
    pub const fn interval_us(self) -> u64 {
        if self.is_changing() { 100_000 } else { 1_000_000 }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

/// A phase as it was played; microseconds since the rehearsal's epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseSpan {
    /// Which phase.
    pub phase: Phase,
    /// First instant that belongs to it.
    pub start_us: u64,
    /// First instant that no longer belongs to it; absent when the rehearsal ended inside it.
    pub end_us: Option<u64>,
}
