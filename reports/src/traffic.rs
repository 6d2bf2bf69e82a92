//! What the traffic measured: intervals, route summaries, acknowledged writes, and the driver itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

mod error_kind;

pub use error_kind::{ErrorKind, Sqlstate};

/// Traffic model of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// Open model: requests start on a schedule that does not depend on responses.
    Arrivals,
    /// Closed model: virtual users wait for responses; its figures are never gated on alone.
    Users,
}

/// Which clock a histogram was recorded on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LatencyClock {
    /// Intended start to last byte.
    Response,
    /// Actual start to last byte.
    Service,
}

impl LatencyClock {
    /// The name in tags and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Service => "service",
        }
    }
}

/// Quantiles of one histogram, in microseconds. A quantile is absent when fewer than ten samples lie beyond it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_us: Option<u64>,
    /// 90th percentile.
    pub p90_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
    /// 99.9th percentile.
    pub p999_us: Option<u64>,
    /// Largest value.
    pub max_us: u64,
}

/// One route in one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteSummary {
    /// Phase of the intended start.
    pub phase: Phase,
    /// Route label from the workload, such as `GET /products`.
    pub route: String,
    /// Traffic model.
    pub model: Model,
    /// Requests that the schedule asked for.
    pub planned: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Errors by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// Requests slower than the latency objective of this phase, errors excluded.
    pub slow: u64,
    /// Intended start to last byte.
    pub response: Quantiles,
    /// Actual start to last byte.
    pub service: Quantiles,
}

impl RouteSummary {
    /// All errors.
    #[must_use]
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Errors that a client would have felt: all but those of a workload that had nothing left to send.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors_total() - self.errors.get(&ErrorKind::FeederDry).copied().unwrap_or(0)
    }
}

/// One point of the latency chart: all open-model requests whose intended start lies in the interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SeriesPoint {
    /// Start, microseconds since the rehearsal's epoch.
    pub start_us: u64,
    /// Length, microseconds.
    pub length_us: u64,
    /// Requests.
    pub count: u64,
    /// Errors.
    pub errors: u64,
    /// Median response time; absent without a sample.
    pub p50_us: Option<u64>,
    /// 99th percentile of what was seen in this interval, whatever its count.
    pub p99_us: Option<u64>,
    /// Largest response time.
    pub max_us: Option<u64>,
}

/// The driver's account of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriverTrust {
    /// Open-model requests that the schedule asked for.
    pub planned: u64,
    /// Of these, sent.
    pub sent: u64,
    /// Of these, dropped because the backlog was full.
    pub dropped: u64,
    /// Of these, not sent because a feeder of the workload had no row left.
    #[serde(default)]
    pub dry: u64,
    /// Actual minus intended start of requests that did not wait for a connection.
    pub send_lag: Quantiles,
    /// CPU time of the driver's process, microseconds.
    pub cpu_us: u64,
    /// Wall time of the traffic, microseconds.
    pub wall_us: u64,
    /// Samples above the histogram's range, counted apart.
    pub overflows: u64,
    /// Set when the users' worker ended before it was told to.
    pub worker_lost: Option<String>,
}

/// Everything about the traffic that the report needs; the histograms themselves stand in `latency.hlog`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficEvidence {
    /// Per phase and route.
    pub routes: Vec<RouteSummary>,
    /// Per phase over all open-model routes; `route` is `all`.
    pub phases: Vec<RouteSummary>,
    /// The latency chart.
    pub series: Vec<SeriesPoint>,
    /// The driver's account of itself.
    pub driver: DriverTrust,
}

/// A request that took long, or one of the warmup, on the rehearsal's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// Route label from the workload.
    pub route: String,
    /// When it was sent, microseconds since the rehearsal's epoch.
    pub started_us: u64,
    /// When it had ended, well or not, microseconds since the rehearsal's epoch.
    pub ended_us: u64,
}

impl SlowRequest {
    /// How long it took, microseconds.
    #[must_use]
    pub const fn length_us(&self) -> u64 {
        self.ended_us.saturating_sub(self.started_us)
    }
}

/// Live figures for the terminal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficTick {
    /// Requests finished per second over the last tick.
    pub rate_per_s: f64,
    /// 99th percentile of the response time over the last tick, microseconds.
    pub p99_us: Option<u64>,
    /// Errors since the start.
    pub errors: u64,
    /// Requests in flight.
    pub in_flight: u64,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WriteAnswer {
    /// The system said that it was done.
    Acknowledged,
    /// The answer never came: it may or may not have happened.
    Indeterminate,
}

/// One line of `ledger.jsonl`: a write that the system acknowledged, or whose answer never came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerEntry {
    /// The client's idempotency key.
    pub key: String,
    /// Route that wrote it.
    pub route: String,
    /// Phase of the intended start.
    pub phase: Phase,
    /// When the answer came, microseconds since the rehearsal's epoch.
    pub answered_us: u64,
    /// Acknowledged or indeterminate.
    pub answer: WriteAnswer,
    /// The projection that both versions can give; `null` for an indeterminate write.
    pub value: serde_json::Value,
    /// Path that reads it back; for a write by SQL the query, with the key as `$1`.
    pub read_back: String,
    /// Name of the database that is asked; absent for a write over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}
