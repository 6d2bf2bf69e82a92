//! What the recorder costs the clients: pairs of pgbench runs, one with it and one without, of which the ratio counts.
//!
//! The two turns of a pair follow each other, so that a busy machine is busy for both, and take turns in being first.

use std::fmt;

use fulldress_workloads::clock::Clock;

use crate::package::Package;
use crate::server::{self, Server};

/// Length of a turn, seconds.
const TURN_S: u32 = 4;
/// Least throughput with the recorder, of that without: in quiet phases, and while the upgrade is active.
const QUIET_MIN: f64 = 0.98;
const ACTIVE_MIN: f64 = 0.93;
/// Least confidence of an interval that shows a claim.
const CONFIDENCE: f64 = 0.95;

pub(crate) const HEAD: &str = "pgbench      pace    median   interval                claim";

/// What pgbench does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    SelectOnly,
    TpcbLike,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::SelectOnly => "select-only",
            Self::TpcbLike => "tpcb-like",
        }
    }
}

/// One comparison, with its ratios so far, smallest first.
pub(crate) struct Comparison {
    kind: Kind,
    active: bool,
    ratios: Vec<f64>,
}

impl Comparison {
    pub(crate) const fn new(kind: Kind, active: bool) -> Self {
        Self { kind, active, ratios: Vec::new() }
    }

    /// Plays further pairs on two servers.
    pub(crate) async fn measure(&mut self, plain: &Server, recorded: &Server, pairs: usize) {
        let (kind, active, clock) = (self.kind, self.active, Clock::start());
        // Both caches are warm before the first pair.
        turn(plain, kind, active).await;
        turn(recorded, kind, active).await;
        for pair in 0..pairs {
            let (with, without) = if pair % 2 == 0 {
                let without = turn(plain, kind, active).await;
                (recorded_turn(recorded, kind, active, clock).await, without)
            } else {
                let with = recorded_turn(recorded, kind, active, clock).await;
                (with, turn(plain, kind, active).await)
            };
            let ratio = with / without;
            self.ratios.push(ratio);
            let (number, name, pace) = (self.ratios.len(), kind.name(), self.pace());
            println!("{name} {pace}, pair {number}: {with:.0} with, {without:.0} without, ratio {ratio:.3}");
        }
        self.ratios.sort_by(f64::total_cmp);
    }

    const fn pace(&self) -> &'static str {
        if self.active { "active" } else { "quiet" }
    }

    const fn claim(&self) -> f64 {
        if self.active { ACTIVE_MIN } else { QUIET_MIN }
    }

    fn median(&self) -> f64 {
        let (middle, even) = (self.ratios.len() / 2, self.ratios.len().is_multiple_of(2));
        if even { f64::midpoint(self.ratios[middle - 1], self.ratios[middle]) } else { self.ratios[middle] }
    }

    /// The median's interval between two of the ratios, as narrow as the confidence allows, and its confidence: each ratio
    /// lies above the median with probability one half, whatever the noise looks like.
    fn interval(&self) -> (f64, f64, f64) {
        let pairs = self.ratios.len();
        let cut = (0..pairs.div_ceil(2)).rev().find(|cut| confidence(pairs, *cut) >= CONFIDENCE).unwrap_or(0);
        (self.ratios[cut], self.ratios[pairs - 1 - cut], confidence(pairs, cut))
    }

    /// Whether the cost is above the claim for all that the noise leaves open.
    pub(crate) fn is_refuted(&self) -> bool {
        let (_, high, confidence) = self.interval();
        high < self.claim() && confidence >= CONFIDENCE
    }
}

/// Confidence of the interval from the `cut`-th smallest ratio to the `cut`-th largest, counted from zero.
fn confidence(pairs: usize, cut: usize) -> f64 {
    let mut term = 0.5_f64.powi(i32::try_from(pairs).unwrap());
    let mut outside = term;
    for below in 1..=cut {
        #[expect(clippy::cast_precision_loss, reason = "a few pairs")]
        let factor = (pairs - below + 1) as f64 / below as f64;
        term *= factor;
        outside += term;
    }
    1.0 - 2.0 * outside
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high, confidence) = self.interval();
        let claim = self.claim();
        let shown = if confidence < CONFIDENCE {
            "not shown: too few pairs"
        } else if low >= claim {
            "shown"
        } else if high < claim {
            "REFUTED"
        } else {
            "not shown: the noise is wider than the claim"
        };
        write!(
            formatter,
            "{:<12} {:<7} {:>6.3}   [{low:.3}, {high:.3}] {:>4.1} %   at least {claim}: {shown}",
            self.kind.name(),
            self.pace(),
            self.median(),
            100.0 * confidence,
        )
    }
}

/// Transactions per second of one turn.
async fn turn(server: &Server, kind: Kind, active: bool) -> f64 {
    let package = if active { Some(Package::start(server.package()).await) } else { None };
    let turn = TURN_S.to_string();
    let said = server
        .pgbench(&["--no-vacuum", "--client=2", "--jobs=1", "--time", &turn, "--builtin", kind.name()])
        .await;
    if let Some(package) = package {
        assert!(package.stop().await > 0, "the package came to nothing");
    }
    let line = said.lines().find(|line| line.starts_with("tps = ")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// A turn under a recorder, which must have seen the package at work.
async fn recorded_turn(server: &Server, kind: Kind, active: bool, clock: Clock) -> f64 {
    let (recorder, preexisting) = server.recorder(clock).await;
    recorder.fast(active);
    let throughput = turn(server, kind, active).await;
    let recording = server::finish(recorder, &preexisting, clock).await;
    let evidence = &recording.evidence;
    assert!(evidence.trust.samples_taken > 0 && evidence.trust.server_log, "{:?}", evidence.trust);
    assert_eq!(evidence.records.is_empty(), !active, "{} records", evidence.records.len());
    throughput
}
