//! Traffic, how long each phase of it lasts, and the objectives that it is held against.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fulldress_reports::evidence::Limits;
use serde::Deserialize;

/// Traffic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Workload file.
    pub workload: PathBuf,
    /// Service that requests over HTTP are sent to; needed when the workload has some.
    pub target: Option<String>,
    /// Databases of the workload's SQL by the name that it gives, each with the role that connects.
    #[serde(default)]
    pub database: BTreeMap<String, String>,
}

/// Lengths of the phases in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phases {
    /// Never judged.
    pub warmup_s: u64,
    /// Production as it is.
    pub baseline_s: u64,
    /// Least length of the upgrade; it lasts as long as its steps.
    pub upgrade_min_s: u64,
    /// The new version under load.
    pub soak_s: u64,
    /// Least length of the rollback.
    pub rollback_min_s: u64,
    /// The old version again.
    pub recovery_s: u64,
    /// The whole rehearsal is stopped after this.
    pub rehearsal_max_s: u64,
}

impl Default for Phases {
    fn default() -> Self {
        Self {
            warmup_s: 3,
            baseline_s: 10,
            upgrade_min_s: 8,
            soak_s: 10,
            rollback_min_s: 8,
            recovery_s: 8,
            rehearsal_max_s: 3600,
        }
    }
}

/// Objectives of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// Latency of a good request, milliseconds.
    pub latency_ms: u64,
    /// Latency that is allowed while upgrade and rollback run, milliseconds.
    pub latency_changing_ms: u64,
    /// Share of requests that must be good over 30 days, per cent.
    pub availability_percent: f64,
    /// Production's requests per second.
    pub production_rate_per_s: f64,
    /// Production's rows, by schema-qualified relation.
    pub production_rows: BTreeMap<String, u64>,
    /// Smallest share of production's rows for which durations count, per cent.
    pub scale_percent: f64,
}

impl Default for Objectives {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            latency_ms: limits.latency_ms,
            latency_changing_ms: limits.latency_changing_ms,
            availability_percent: limits.availability_percent,
            production_rate_per_s: limits.production_rate_per_s,
            production_rows: limits.production_rows,
            scale_percent: limits.scale_percent,
        }
    }
}
