//! What the pumps measured: raw samples while an interval is young, packed histograms afterwards.
//!
//! Pumps only append numbers here; histograms are built by [`Recorder::flush`], which `traffic` and the worker call
//! from another task, since a fresh histogram of this range costs more than many requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fulldress_reports::latency::{HIGHEST_US, standard_histogram};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{ErrorKind, LedgerEntry, Model, SlowRequest};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::file::Workload;
use crate::timeline::{Slot, Timeline};

/// Smallest latency told apart, microseconds: a histogram has no bucket for 0.
const LATENCY_US_MIN: u64 = 1;
/// How long after its end an interval takes late completions before it is packed, microseconds.
const YOUNG_US: u64 = 1_000_000;
/// Requests that take this long are kept one by one, microseconds: whoever waited for a lock is among them. Of the warmup
/// all are kept: what runs in them is learnt there.
const SLOW_US: u64 = 10_000;
/// Most of them between two flushes; beyond that a system is slow as a whole, and single requests tell nothing.
const SLOW_MAX: usize = 20_000;
/// Live figures look back this far, microseconds.
const RECENT_US: u64 = 1_000_000;

/// A histogram in HdrHistogram's V2-deflate form, as `latency.hlog` wants it; base64 in JSON.
///
/// A few hundred bytes where the histogram itself takes about 160 KiB: a nightly rehearsal has thousands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedHistogram(Vec<u8>);

/// A packed histogram that is none.
#[derive(Debug, thiserror::Error)]
#[error("read a packed histogram: {0}")]
pub struct UnpackError(String);

impl PackedHistogram {
    /// Packs a histogram.
    #[must_use]
    pub fn pack(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        // Writing to memory does not fail, and a histogram of this range fits the format's 32-bit length.
        #[expect(clippy::expect_used, reason = "the sink is memory")]
        V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("memory takes every byte");
        Self(bytes)
    }

    /// The histogram, in microseconds.
    ///
    /// # Errors
    /// The bytes came from elsewhere and are no histogram.
    pub fn unpack(&self) -> Result<Histogram<u64>, UnpackError> {
        Deserializer::new()
            .deserialize(&mut std::io::Cursor::new(&self.0))
            .map_err(|error| UnpackError(format!("{error:?}")))
    }

    /// The bytes in V2-deflate form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for PackedHistogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for PackedHistogram {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let packed = Self(STANDARD.decode(text).map_err(serde::de::Error::custom)?);
        packed.unpack().map_err(serde::de::Error::custom)?;
        Ok(packed)
    }
}

/// One route in one interval. Late completions make another record of the same interval: add them up.
///
/// Over all records, `planned` is the sum of the errors and of the samples in `response`: a request is counted once,
/// as an error by its kind or as a latency, never as both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntervalRecord {
    /// Phase of the intended start.
    pub phase: Phase,
    /// Route label from the workload.
    pub route: String,
    /// Traffic model.
    pub model: Model,
    /// Start of the interval, microseconds since the rehearsal's epoch.
    pub start_us: u64,
    /// Length, microseconds; shorter than usual where the phase ended inside it.
    pub length_us: u64,
    /// Requests that the schedule asked for.
    pub planned: u64,
    /// Requests that were begun: a connection was used or asked for.
    pub sent: u64,
    /// Errors by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// Intended start to last byte, of requests without an error; microseconds.
    pub response: PackedHistogram,
    /// Actual start to last byte, of the same requests; microseconds.
    pub service: PackedHistogram,
}

/// A route as the recorder numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteId(usize);

/// How a request went, for the recorder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) intended_us: u64,
    pub(crate) started_us: u64,
    pub(crate) ended_us: u64,
    pub(crate) error: Option<ErrorKind>,
}

/// The books of one pump; copies share them.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    timeline: Timeline,
    clock: Clock,
    routes: Arc<[(String, Model)]>,
    books: Arc<Mutex<Books>>,
}

#[derive(Debug, Default)]
struct Books {
    young: BTreeMap<(u64, Phase, RouteId), Cell>,
    ledger: Vec<LedgerEntry>,
    totals: Totals,
    send_lags_us: Vec<u64>,
    slow: Vec<(RouteId, u64, u64)>,
    /// End and response time of what finished lately.
    recent: VecDeque<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Cell {
    planned: u64,
    sent: u64,
    errors: BTreeMap<ErrorKind, u64>,
    /// Response and service time.
    samples_us: Vec<(u64, u64)>,
}

/// Sums since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) planned: u64,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
    /// Never begun since a feeder had no row left.
    pub(crate) dry: u64,
    pub(crate) errors: u64,
    pub(crate) overflows: u64,
    pub(crate) in_flight: u64,
}

/// What [`Recorder::flush`] hands over.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    pub(crate) intervals: Vec<IntervalRecord>,
    pub(crate) ledger: Vec<LedgerEntry>,
    pub(crate) send_lags_us: Vec<u64>,
    pub(crate) slow: Vec<SlowRequest>,
}

/// Live figures of one pump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Live {
    /// Requests finished over the last second.
    pub(crate) rate_per_s: f64,
    /// 99th percentile of their response time, microseconds.
    pub(crate) p99_us: Option<u64>,
    pub(crate) totals: Totals,
}

impl Recorder {
    /// Empty books for the scenarios of one model.
    pub(crate) fn new(workload: &Workload, model: Model, timeline: Timeline, clock: Clock) -> Self {
        let mut routes: Vec<(String, Model)> = Vec::new();
        for label in workload.of_model(model).flat_map(|scenario| scenario.routes()) {
            if !routes.iter().any(|(route, _)| route == label) {
                routes.push((label.to_owned(), model));
            }
        }
        Self { timeline, clock, routes: routes.into(), books: Arc::default() }
    }

    /// The number of a route; routes come from the same workload as the recorder.
    pub(crate) fn route(&self, label: &str) -> RouteId {
        RouteId(self.routes.iter().position(|(route, _)| route == label).unwrap_or(0))
    }

    /// The phases that the recorder sorts by.
    pub(crate) const fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Counters are valid after every single statement, so a panic elsewhere spoils nothing here.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, route: RouteId, intended_us: u64) -> (u64, Phase, RouteId) {
        let slot = self.timeline.slot(intended_us);
        (slot.start_us, slot.phase, route)
    }

    /// The schedule asked for a request.
    pub(crate) fn planned(&self, route: RouteId, intended_us: u64) {
        let key = self.key(route, intended_us);
        let mut books = self.books();
        books.totals.planned += 1;
        books.young.entry(key).or_default().planned += 1;
    }

    /// A request is begun; `lag_us` is how late, where it did not wait for a connection.
    pub(crate) fn begun(&self, route: RouteId, intended_us: u64, lag_us: Option<u64>) {
        let key = self.key(route, intended_us);
        let mut books = self.books();
        books.totals.sent += 1;
        books.totals.in_flight += 1;
        books.send_lags_us.extend(lag_us);
        books.young.entry(key).or_default().sent += 1;
    }

    /// A request that was begun has ended.
    pub(crate) fn finished(&self, route: RouteId, finished: Finished) {
        let key = self.key(route, finished.intended_us);
        let response_us = finished.ended_us.saturating_sub(finished.intended_us).max(LATENCY_US_MIN);
        let service_us = finished.ended_us.saturating_sub(finished.started_us).max(LATENCY_US_MIN);
        let mut books = self.books();
        books.totals.in_flight -= 1;
        books.totals.errors += u64::from(finished.error.is_some());
        books.totals.overflows += u64::from(response_us > HIGHEST_US);
        books.recent.push_back((finished.ended_us, response_us));
        while books.recent.front().is_some_and(|(end_us, _)| end_us + RECENT_US < finished.ended_us) {
            books.recent.pop_front();
        }
        let kept = service_us >= SLOW_US || key.1 == Phase::Warmup;
        if kept && books.slow.len() < SLOW_MAX {
            books.slow.push((route, finished.started_us, finished.ended_us));
        }
        let cell = books.young.entry(key).or_default();
        match finished.error {
            Some(kind) => *cell.errors.entry(kind).or_default() += 1,
            None => cell.samples_us.push((response_us, service_us)),
        }
    }

    /// A planned request was never begun: the driver itself could not send it, or had nothing to send.
    pub(crate) fn unsent(&self, route: RouteId, intended_us: u64, kind: ErrorKind) {
        let key = self.key(route, intended_us);
        let mut books = self.books();
        let dry = u64::from(kind == ErrorKind::FeederDry);
        books.totals.dry += dry;
        books.totals.dropped += 1 - dry;
        books.totals.errors += 1;
        *books.young.entry(key).or_default().errors.entry(kind).or_default() += 1;
    }

    /// A write was acknowledged, or its answer never came.
    pub(crate) fn wrote(&self, entry: LedgerEntry) {
        self.books().ledger.push(entry);
    }

    /// Hands over the ledger and packs the intervals that are no longer young; all of them when `everything`.
    pub(crate) fn flush(&self, everything: bool) -> Flushed {
        let now_us = self.clock.now_us();
        let (old, ledger, send_lags_us, slow) = {
            let mut books = self.books();
            let young = std::mem::take(&mut books.young);
            let (old, young): (BTreeMap<_, _>, BTreeMap<_, _>) =
                young.into_iter().partition(|((start_us, phase, _), _)| {
                    everything || start_us + phase.interval_us() + YOUNG_US < now_us
                });
            books.young = young;
            let books = &mut *books;
            let taken = (std::mem::take(&mut books.ledger), std::mem::take(&mut books.send_lags_us));
            (old, taken.0, taken.1, std::mem::take(&mut books.slow))
        };
        let slow = slow.into_iter().filter_map(|(route, started_us, ended_us)| {
            let (route, _) = self.routes.get(route.0)?;
            Some(SlowRequest { route: route.clone(), started_us, ended_us })
        });
        let slow = slow.collect();
        let (mut response, mut service) = (standard_histogram(), standard_histogram());
        let mut intervals = Vec::with_capacity(old.len());
        for ((start_us, phase, route), cell) in old {
            response.reset();
            service.reset();
            for (response_us, service_us) in cell.samples_us {
                response.saturating_record(response_us);
                service.saturating_record(service_us);
            }
            let (label, model) =
                self.routes.get(route.0).cloned().unwrap_or((String::new(), Model::Arrivals));
            intervals.push(IntervalRecord {
                phase,
                route: label,
                model,
                start_us,
                length_us: self.timeline.length_us(Slot { phase, start_us }),
                planned: cell.planned,
                sent: cell.sent,
                errors: cell.errors,
                response: PackedHistogram::pack(&response),
                service: PackedHistogram::pack(&service),
            });
        }
        Flushed { intervals, ledger, send_lags_us, slow }
    }

    /// Sums since the start.
    pub(crate) fn totals(&self) -> Totals {
        self.books().totals
    }

    /// Figures for the terminal.
    #[expect(clippy::cast_precision_loss, reason = "a second has far fewer than 2^52 requests")]
    pub(crate) fn live(&self) -> Live {
        let from_us = self.clock.now_us().saturating_sub(RECENT_US);
        let (mut recent, totals) = {
            let books = self.books();
            let recent = books.recent.iter().filter(|(end_us, _)| *end_us >= from_us);
            (recent.map(|(_, response_us)| *response_us).collect::<Vec<_>>(), books.totals)
        };
        recent.sort_unstable();
        // The smallest value that at least 99 % of the samples do not exceed.
        let rank = (recent.len() * 99).div_ceil(100).saturating_sub(1);
        let rate_per_s = recent.len() as f64 * 1e6 / RECENT_US as f64;
        Live { rate_per_s, p99_us: recent.get(rank).copied(), totals }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{IntervalRecord, PackedHistogram, standard_histogram};
    use fulldress_reports::phase::Phase;
    use fulldress_reports::traffic::{ErrorKind, Model};
    use proptest::prelude::*;

    fn histogram(values: &[u64]) -> hdrhistogram::Histogram<u64> {
        let mut histogram = standard_histogram();
        for value in values {
            histogram.saturating_record(*value);
        }
        histogram
    }

    proptest! {
        #[test]
        fn an_interval_survives_its_json_line(
            route in "[A-Z]{3,6} /[a-z{}/]{0,20}\"?",
            start_us in 0_u64..1 << 50,
            counts in (0_u64..1000, 0_u64..1000, 1_u64..50),
            response in prop::collection::vec(1_u64..700_000_000, 0..200),
            changing in any::<bool>(),
        ) {
            let record = IntervalRecord {
                phase: if changing { Phase::Upgrade } else { Phase::Baseline },
                route,
                model: Model::Users,
                start_us,
                length_us: 100_000,
                planned: counts.0,
                sent: counts.1,
                errors: [(ErrorKind::Reset, counts.2)].into(),
                response: PackedHistogram::pack(&histogram(&response)),
                service: PackedHistogram::pack(&histogram(&[])),
            };
            let line = serde_json::to_string(&record).unwrap();
            prop_assert!(!line.contains('\n'));
            let back: IntervalRecord = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(back.response.unpack().unwrap(), histogram(&response));
            prop_assert_eq!(back, record);
        }
    }

    #[test]
    fn a_broken_histogram_is_refused() {
        assert!(serde_json::from_str::<PackedHistogram>("\"AAAA\"").is_err());
        assert!(serde_json::from_str::<PackedHistogram>("\"?\"").is_err());
    }
}
