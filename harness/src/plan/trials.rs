//! Trials on clones of the mirror: two runners at once, and faults in the middle.

use serde::Deserialize;

/// The lock that migrating sessions must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationLock {
    /// Key of the advisory lock; any advisory lock counts when absent.
    pub advisory_key: Option<i64>,
    /// Lock table, schema-qualified, whose lock counts too.
    pub table: Option<String>,
}

/// The trial of two runners on a clone of the mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoubleRun {
    /// Step of the first runner at whose start the second one is started; both start at once when absent.
    pub at_step: Option<String>,
    /// Seconds within which both must have ended.
    pub limit_s: u64,
}

impl Default for DoubleRun {
    fn default() -> Self {
        Self { at_step: None, limit_s: 300 }
    }
}

/// Faults inside the upgrade, each on a clone of the mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Most faults that are tried; of more, a sample by the seed. None with 0.
    pub cells_max: usize,
    /// Clones that run at the same time.
    pub parallel: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self { cells_max: 200, parallel: 2 }
    }
}
