//! The lines between the harness and the users' worker: one JSON object a line, both ways.

use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{LedgerEntry, SlowRequest};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::recording::{IntervalRecord, Live, Totals};

/// The first line to the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hello {
    /// Path of the workload, for errors.
    pub(crate) file: String,
    /// The workload's text.
    pub(crate) workload: String,
    /// Which part of the users to play, as `1/2`.
    pub(crate) part: String,
    /// Names of the scenarios to play; the worker takes those of the closed model.
    pub(crate) scenarios: Vec<String>,
    /// Where the requests go.
    pub(crate) base_url: String,
    /// The rehearsal's clock.
    pub(crate) clock: Clock,
    /// The run's seed.
    pub(crate) seed: u64,
}

/// Every later line to the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Control {
    /// A phase begins at an instant; the first one starts the users.
    Enter {
        /// Which phase.
        phase: Phase,
        /// Its first instant, microseconds since the epoch.
        from_us: u64,
    },
    /// Start no more journeys, end what is under way, report, and exit. The end of the input means the same.
    Stop {
        /// Always true.
        stop: bool,
    },
}

/// A line from the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// An interval that is no longer young.
    Interval(IntervalRecord),
    /// A write.
    Ledger(LedgerEntry),
    /// A request that took long.
    Slow(SlowRequest),
    /// Live figures.
    Live(Live),
    /// The worker cannot go on.
    Failed(String),
    /// The last line: everything was reported.
    Done {
        /// Sums over the worker's life.
        totals: Totals,
        /// CPU time of the worker's process, microseconds.
        cpu_us: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::Control;
    use fulldress_reports::phase::Phase;

    #[test]
    fn control_lines_read_as_documented() {
        for (line, control) in [
            (r#"{"phase":"upgrade","from_us":12}"#, Control::Enter { phase: Phase::Upgrade, from_us: 12 }),
            (r#"{"stop":true}"#, Control::Stop { stop: true }),
        ] {
            assert_eq!(serde_json::from_str::<Control>(line).unwrap(), control);
            assert_eq!(serde_json::to_string(&control).unwrap(), line);
        }
        assert!(serde_json::from_str::<Control>(r#"{"phase":"party","from_us":1}"#).is_err());
    }
}
