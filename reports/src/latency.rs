//! Latency as histograms: recorded by the pumps, kept in `latency.hlog`, summed up for the report.
//!
//! Histograms add up, percentiles do not: every figure of a phase or a route comes from merged intervals.
//! Called by `workloads` while it measures, and by whoever reads a bundle again.

mod hlog;
mod summary;

use hdrhistogram::Histogram;

use crate::evidence::Limits;
use crate::phase::Phase;
use crate::traffic::{Model, Quantiles};

pub use hlog::{HlogError, HlogWriter, read_hlog, write_hlog};
pub use summary::{Counters, Summariser, TrafficSummary};

/// Largest latency that a histogram holds, microseconds: ten minutes. Longer ones are counted apart.
pub const HIGHEST_US: u64 = 600_000_000;
/// Significant decimal digits of a histogram's values: an error of at most 0.1 %.
pub const SIGNIFICANT_DIGITS: u8 = 3;
/// Samples that must lie beyond a quantile for it to be printed.
const SAMPLES_BEYOND_MIN: f64 = 10.0;

/// The requests of one route whose intended start lies in one interval; those that ended in an error are not
/// in it: a connection that is refused at once would look fast, and they are counted by kind instead.
#[derive(Debug, Clone, PartialEq)]
pub struct IntervalHistogram {
    /// Phase of the intended start.
    pub phase: Phase,
    /// Route label from the workload.
    pub route: String,
    /// Traffic model.
    pub model: Model,
    /// Start, microseconds since the rehearsal's epoch; `latency.hlog` keeps whole milliseconds.
    pub start_us: u64,
    /// Length, microseconds; `latency.hlog` keeps whole milliseconds.
    pub length_us: u64,
    /// Intended start to last byte, microseconds.
    pub response: Histogram<u64>,
    /// Actual start to last byte, microseconds.
    pub service: Histogram<u64>,
}

impl IntervalHistogram {
    /// An interval without a sample.
    #[must_use]
    pub fn new(phase: Phase, route: impl Into<String>, model: Model, start_us: u64, length_us: u64) -> Self {
        let (response, service) = (standard_histogram(), standard_histogram());
        Self { phase, route: route.into(), model, start_us, length_us, response, service }
    }

    /// Records one request. Returns whether a value lay above the histogram's range: it was recorded at the top
    /// of the range, and the driver's account must count it in `overflows`.
    pub fn record(&mut self, response_us: u64, service_us: u64) -> bool {
        self.response.saturating_record(response_us);
        self.service.saturating_record(service_us);
        response_us.max(service_us) > HIGHEST_US
    }
}

/// An empty histogram with the bounds that every histogram of a bundle has: 1 µs to 10 min, 3 digits.
/// It takes about 170 KB, so keep only the intervals that are still open.
#[must_use]
pub fn standard_histogram() -> Histogram<u64> {
    with_digits(SIGNIFICANT_DIGITS)
}

fn with_digits(digits: u8) -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "1 ≤ 2·1 ≤ highest and 0 to 5 digits are the only conditions")]
    Histogram::new_with_bounds(1, HIGHEST_US, digits).expect("constant bounds are valid")
}

/// The latency objective of a phase, microseconds; a request is slow above it.
#[must_use]
pub fn objective_us(limits: &Limits, phase: Phase) -> u64 {
    let objective_ms = if phase.is_changing() { limits.latency_changing_ms } else { limits.latency_ms };
    objective_ms.saturating_mul(1_000)
}

/// Adds `source` to `target`; values above the target's range are kept at its top.
pub fn merge(target: &mut Histogram<u64>, source: &Histogram<u64>) {
    if target.add(source).is_err() {
        for value in source.iter_recorded() {
            target.saturating_record_n(value.value_iterated_to(), value.count_since_last_iteration());
        }
    }
}

/// Quantiles of a histogram; one is absent when fewer than ten samples lie beyond it.
#[must_use]
pub fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let carried = |quantile: f64| {
        // A hair of tolerance: (1 − 0.9) × 100 is 9.999… in binary.
        let beyond = (1.0 - quantile) * crate::figures::ratio_part(histogram.len()) + 1e-6;
        (beyond >= SAMPLES_BEYOND_MIN).then(|| histogram.value_at_quantile(quantile))
    };
    Quantiles {
        count: histogram.len(),
        p50_us: carried(0.5),
        p90_us: carried(0.9),
        p99_us: carried(0.99),
        p999_us: carried(0.999),
        max_us: histogram.max(),
    }
}

/// Requests above an objective, to the histogram's resolution of 0.1 %: those in the objective's own bucket
/// count as kept.
#[must_use]
pub fn slower_than(histogram: &Histogram<u64>, objective_us: u64) -> u64 {
    if objective_us >= HIGHEST_US {
        return 0;
    }
    histogram.len().saturating_sub(histogram.count_between(0, objective_us))
}

#[cfg(test)]
mod tests {
    use super::{HIGHEST_US, IntervalHistogram, quantiles, slower_than, standard_histogram};
    use crate::phase::Phase;
    use crate::traffic::Model;

    #[test]
    fn a_quantile_needs_ten_samples_beyond_it() {
        let known = |count: u64| {
            let mut histogram = standard_histogram();
            (1..=count).for_each(|us| histogram.record(us * 10).unwrap());
            let all = quantiles(&histogram);
            assert_eq!((all.count, all.max_us), (count, histogram.max()));
            [all.p50_us, all.p90_us, all.p99_us, all.p999_us].map(|quantile| quantile.is_some())
        };
        assert_eq!(known(19), [false; 4]);
        assert_eq!(known(20), [true, false, false, false]);
        assert_eq!(known(99), [true, false, false, false]);
        assert_eq!(known(100), [true, true, false, false]);
        assert_eq!(known(1_000), [true, true, true, false]);
        assert_eq!(known(10_000), [true; 4]);
    }

    #[test]
    fn slow_begins_above_the_objective() {
        let mut histogram = standard_histogram();
        for us in [1, 249_000, 250_000, 251_000, 9_000_000] {
            histogram.record(us).unwrap();
        }
        assert_eq!(slower_than(&histogram, 250_000), 2);
        assert_eq!(slower_than(&histogram, HIGHEST_US), 0);
        assert_eq!(slower_than(&standard_histogram(), 1), 0);
    }

    #[test]
    fn a_value_above_the_range_is_told() {
        let mut interval = IntervalHistogram::new(Phase::Soak, "GET /", Model::Arrivals, 0, 1_000_000);
        assert!(!interval.record(HIGHEST_US, 3));
        assert!(interval.record(HIGHEST_US + 1, 3));
        assert_eq!(interval.response.len(), 2);
    }
}
