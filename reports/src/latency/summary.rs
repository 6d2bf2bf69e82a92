//! Counters and histograms in, what the report says about the traffic out.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::evidence::Limits;
use crate::phase::Phase;
use crate::traffic::{ErrorKind, Model, RouteSummary, SeriesPoint};

use super::{
    IntervalHistogram, merge, objective_us, quantiles, slower_than, standard_histogram, with_digits,
};

/// Digits of the chart's histograms: 1 % is less than a pixel, and there is one for each point of the chart.
const SERIES_DIGITS: u8 = 2;
/// Name of the route that stands for all of them.
const ALL: &str = "all";

/// What a pump counts beside its histograms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that the schedule asked for.
    pub planned: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Errors by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
}

/// The parts of [`crate::traffic::TrafficEvidence`] that follow from intervals and counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficSummary {
    /// Per phase, route and model.
    pub routes: Vec<RouteSummary>,
    /// Per phase over all open-model routes.
    pub phases: Vec<RouteSummary>,
    /// The latency chart.
    pub series: Vec<SeriesPoint>,
}

/// Takes in intervals and counters as they come, in any order, and sums them up at the end. Its memory grows with
/// the number of routes and of chart points, not with the number of intervals.
#[derive(Debug)]
pub struct Summariser {
    limits: Limits,
    routes: BTreeMap<(Phase, String, Model), Total>,
    points: BTreeMap<(u64, u64), Point>,
}

#[derive(Debug)]
struct Total {
    counters: Counters,
    response: Histogram<u64>,
    service: Histogram<u64>,
}

#[derive(Debug)]
struct Point {
    response: Histogram<u64>,
    errors: u64,
}

impl Summariser {
    /// `limits` hold the latency objectives that tell slow requests.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), routes: BTreeMap::new(), points: BTreeMap::new() }
    }

    /// Takes in the samples of one interval; the same interval may come again with late completions.
    pub fn add_interval(&mut self, interval: &IntervalHistogram) {
        let total = self.total(interval.phase, &interval.route, interval.model);
        merge(&mut total.response, &interval.response);
        merge(&mut total.service, &interval.service);
        if interval.model == Model::Arrivals {
            let point = self.point(interval.start_us, interval.length_us);
            for value in interval.response.iter_recorded() {
                let (us, count) = (value.value_iterated_to(), value.count_since_last_iteration());
                point.response.saturating_record_n(us, count);
            }
        }
    }

    /// Takes in what was counted on a route in a phase; counts of several calls add up.
    pub fn add_counters(&mut self, phase: Phase, route: &str, model: Model, counters: &Counters) {
        let total = &mut self.total(phase, route, model).counters;
        total.planned += counters.planned;
        total.sent += counters.sent;
        for (kind, number) in &counters.errors {
            *total.errors.entry(*kind).or_default() += number;
        }
    }

    /// Takes in open-model errors for the chart, by the interval of their intended start, microseconds.
    pub fn add_errors(&mut self, start_us: u64, length_us: u64, errors: u64) {
        self.point(start_us, length_us).errors += errors;
    }

    /// Sums up.
    #[must_use]
    pub fn finish(self) -> TrafficSummary {
        let mut phases: BTreeMap<Phase, Total> = BTreeMap::new();
        let mut routes = Vec::with_capacity(self.routes.len());
        for ((phase, route, model), total) in self.routes {
            if model == Model::Arrivals {
                phases.entry(phase).or_insert_with(Total::empty).add(&total);
            }
            routes.push(total.summary(&self.limits, phase, route, model));
        }
        let phases = phases
            .into_iter()
            .map(|(phase, total)| total.summary(&self.limits, phase, ALL.to_owned(), Model::Arrivals))
            .collect();
        let series =
            self.points.into_iter().map(|((start_us, length_us), point)| point.at(start_us, length_us));
        TrafficSummary { routes, phases, series: series.collect() }
    }

    fn total(&mut self, phase: Phase, route: &str, model: Model) -> &mut Total {
        self.routes.entry((phase, route.to_owned(), model)).or_insert_with(Total::empty)
    }

    fn point(&mut self, start_us: u64, length_us: u64) -> &mut Point {
        let empty = || Point { response: with_digits(SERIES_DIGITS), errors: 0 };
        self.points.entry((start_us, length_us)).or_insert_with(empty)
    }
}

impl Total {
    fn empty() -> Self {
        let (response, service) = (standard_histogram(), standard_histogram());
        Self { counters: Counters::default(), response, service }
    }

    fn add(&mut self, other: &Self) {
        self.counters.planned += other.counters.planned;
        self.counters.sent += other.counters.sent;
        for (kind, number) in &other.counters.errors {
            *self.counters.errors.entry(*kind).or_default() += number;
        }
        merge(&mut self.response, &other.response);
        merge(&mut self.service, &other.service);
    }

    fn summary(self, limits: &Limits, phase: Phase, route: String, model: Model) -> RouteSummary {
        RouteSummary {
            phase,
            route,
            model,
            planned: self.counters.planned,
            sent: self.counters.sent,
            errors: self.counters.errors,
            slow: slower_than(&self.response, objective_us(limits, phase)),
            response: quantiles(&self.response),
            service: quantiles(&self.service),
        }
    }
}

impl Point {
    fn at(&self, start_us: u64, length_us: u64) -> SeriesPoint {
        let count = self.response.len();
        let seen = |quantile: f64| (count > 0).then(|| self.response.value_at_quantile(quantile));
        SeriesPoint {
            start_us,
            length_us,
            count: count + self.errors,
            errors: self.errors,
            p50_us: seen(0.5),
            p99_us: seen(0.99),
            max_us: (count > 0).then(|| self.response.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Counters, Summariser};
    use crate::evidence::Limits;
    use crate::latency::IntervalHistogram;
    use crate::phase::Phase;
    use crate::traffic::{ErrorKind, Model};

    fn interval(
        route: &str,
        model: Model,
        phase: Phase,
        start_us: u64,
        samples: &[u64],
    ) -> IntervalHistogram {
        let mut interval = IntervalHistogram::new(phase, route, model, start_us, 100_000);
        for us in samples {
            interval.record(*us, *us / 2);
        }
        interval
    }

    #[test]
    fn routes_phases_and_series_follow_from_the_same_samples() {
        let mut summariser = Summariser::new(&Limits::default());
        let counters = Counters { planned: 4, sent: 4, errors: BTreeMap::from([(ErrorKind::Timeout, 1)]) };
        summariser.add_interval(&interval("a", Model::Arrivals, Phase::Upgrade, 0, &[10_000, 1_100_000]));
        summariser.add_interval(&interval("a", Model::Arrivals, Phase::Upgrade, 0, &[2_000_000]));
        summariser.add_counters(Phase::Upgrade, "a", Model::Arrivals, &counters);
        summariser.add_errors(0, 100_000, 1);
        summariser.add_interval(&interval("b", Model::Arrivals, Phase::Baseline, 100_000, &[260_000]));
        summariser.add_interval(&interval("c", Model::Users, Phase::Upgrade, 0, &[5_000_000]));
        let summary = summariser.finish();

        let shape: Vec<_> = summary
            .routes
            .iter()
            .map(|route| (route.phase, route.route.as_str(), route.slow, route.response.count))
            .collect();
        // Slow above 250 ms in the baseline, above 1 s while steps run.
        assert_eq!(
            shape,
            [(Phase::Baseline, "b", 1, 1), (Phase::Upgrade, "a", 2, 3), (Phase::Upgrade, "c", 1, 1)]
        );
        let totals: Vec<_> =
            summary.phases.iter().map(|total| (total.phase, total.planned, total.errors_total())).collect();
        assert_eq!(totals, [(Phase::Baseline, 0, 0), (Phase::Upgrade, 4, 1)]);
        assert!(summary.phases.iter().all(|total| total.route == "all" && total.response.count < 4));
        let points: Vec<_> =
            summary.series.iter().map(|point| (point.start_us, point.count, point.errors)).collect();
        assert_eq!(points, [(0, 4, 1), (100_000, 1, 0)]);
        let worst = summary.series[0].max_us.unwrap();
        assert!((2_000_000..2_020_000).contains(&worst), "{worst}");
    }
}
