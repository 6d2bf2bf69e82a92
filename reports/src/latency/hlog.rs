//! HdrHistogram's interval log, version 1.3 with V2 + DEFLATE histograms: `latency.hlog`.
//!
//! Format: HdrHistogram (Java), `HistogramLogWriter`. Times are seconds with three decimals. Both headers are
//! written, so that no reader has to guess whether timestamps are relative to `BaseTime`. The lines are our own
//! and not the crate's writer's: ours carry the version and legend lines that other readers look for, and one
//! damaged line is named instead of ending the iteration.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};

use crate::phase::Phase;
use crate::traffic::{LatencyClock, Model};

use super::{IntervalHistogram, standard_histogram};

const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";
/// Microseconds in a millisecond, the log's resolution.
const MILLISECOND_US: u64 = 1_000;

/// Why a log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HlogError {
    /// A histogram could not be encoded.
    #[error("histogram of {route} in {phase} cannot be encoded: {reason}")]
    Encode {
        /// Route.
        route: String,
        /// Phase.
        phase: Phase,
        /// What the encoder says.
        reason: String,
    },
    /// A line could not be read.
    #[error("latency.hlog is damaged at line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Writes intervals one by one, so that a pump need not keep those that are closed.
pub struct HlogWriter {
    serializer: V2DeflateSerializer,
    text: String,
}

impl HlogWriter {
    /// A log whose timestamps are relative to `base_unix_us`, the rehearsal's epoch in microseconds since 1970.
    #[must_use]
    pub fn new(base_unix_us: u64) -> Self {
        let base = seconds(base_unix_us);
        let text = format!(
            "#[Histogram log format version 1.3]\n\
             #[StartTime: {base} (seconds since epoch)]\n\
             #[BaseTime: {base} (seconds since epoch)]\n{LEGEND}\n"
        );
        Self { serializer: V2DeflateSerializer::new(), text }
    }

    /// Appends an interval: one line a clock.
    ///
    /// # Errors
    /// When a histogram cannot be encoded.
    pub fn append(&mut self, interval: &IntervalHistogram) -> Result<(), HlogError> {
        for (clock, histogram) in
            [(LatencyClock::Response, &interval.response), (LatencyClock::Service, &interval.service)]
        {
            let mut bytes = Vec::new();
            self.serializer.serialize(histogram, &mut bytes).map_err(|error| HlogError::Encode {
                route: interval.route.clone(),
                phase: interval.phase,
                reason: error.to_string(),
            })?;
            let (start, length) = (seconds(interval.start_us), seconds(interval.length_us));
            let (max, encoded) = (seconds(histogram.max()), STANDARD.encode(bytes));
            // Writing to a String cannot fail.
            _ = writeln!(self.text, "Tag={},{start},{length},{max},{encoded}", tag(interval, clock));
        }
        Ok(())
    }

    /// What was written since the last call, in whole lines; the headers come with the first call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text).into_bytes()
    }
}

/// A whole log; `base_unix_us` is the rehearsal's epoch in microseconds since 1970.
///
/// # Errors
/// When a histogram cannot be encoded.
pub fn write_hlog(intervals: &[IntervalHistogram], base_unix_us: u64) -> Result<Vec<u8>, HlogError> {
    let mut writer = HlogWriter::new(base_unix_us);
    for interval in intervals {
        writer.append(interval)?;
    }
    Ok(writer.take())
}

/// Reads a log: the epoch, microseconds since 1970, and the intervals in the order of their first lines.
/// Lines without our tags are skipped, for the format allows them.
///
/// # Errors
/// Names the first line that cannot be read. A torn last line, as a killed writer leaves it, is no error.
pub fn read_hlog(bytes: &[u8]) -> Result<(u64, Vec<IntervalHistogram>), HlogError> {
    let text = String::from_utf8_lossy(bytes);
    let mut reader =
        Reader { intervals: Vec::new(), open: BTreeMap::new(), deserializer: Deserializer::new() };
    let mut base_us = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else { break };
        let damaged = |reason: String| HlogError::Line { line: index + 1, reason };
        if let Some(header) = line.strip_prefix("#[BaseTime: ") {
            let number = header.split(' ').next().unwrap_or_default();
            base_us =
                parse_seconds(number).ok_or_else(|| damaged("BaseTime is no number of seconds".into()))?;
        } else if let Some(entry) = line.strip_prefix("Tag=") {
            reader.entry(entry).map_err(damaged)?;
        }
    }
    Ok((base_us, reader.intervals))
}

/// Everything that tells intervals apart: a line of each clock with equal keys makes one interval.
type Key = (Phase, String, Model, u64, u64);

struct Reader {
    intervals: Vec<IntervalHistogram>,
    /// Intervals of which one clock's line was read: index and the clock still missing.
    open: BTreeMap<Key, (usize, LatencyClock)>,
    deserializer: Deserializer,
}

impl Reader {
    fn entry(&mut self, entry: &str) -> Result<(), String> {
        let fields: Vec<&str> = entry.split(',').collect();
        let [tag, start, length, _max, encoded] = fields[..] else {
            return Err(format!("{} fields instead of 5", fields.len()));
        };
        let Some((phase, route, clock, model)) = parse_tag(tag)? else { return Ok(()) };
        let number =
            |text: &str| parse_seconds(text).ok_or_else(|| format!("`{text}` is no number of seconds"));
        let (start_us, length_us) = (number(start)?, number(length)?);
        let compressed = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
        let histogram = self
            .deserializer
            .deserialize::<u64, _>(&mut compressed.as_slice())
            .map_err(|error| error.to_string())?;
        let key = (phase, route.clone(), model, start_us, length_us);
        let other = match clock {
            LatencyClock::Response => LatencyClock::Service,
            LatencyClock::Service => LatencyClock::Response,
        };
        // Late completions repeat an interval: only the line of the other clock may join an open one.
        let index = match self.open.get(&key) {
            Some((index, missing)) if *missing == clock => {
                let index = *index;
                self.open.remove(&key);
                index
            }
            _ => {
                self.intervals.push(IntervalHistogram::new(phase, route, model, start_us, length_us));
                self.open.insert(key, (self.intervals.len() - 1, other));
                self.intervals.len() - 1
            }
        };
        *side(&mut self.intervals[index], clock) = widened(histogram);
        Ok(())
    }
}

/// The same samples in the standard bounds: a log written elsewhere may have others.
fn widened(histogram: Histogram<u64>) -> Histogram<u64> {
    let mut standard = standard_histogram();
    if histogram.high() == standard.high() && histogram.sigfig() == standard.sigfig() {
        return histogram;
    }
    super::merge(&mut standard, &histogram);
    standard
}

fn side(interval: &mut IntervalHistogram, clock: LatencyClock) -> &mut Histogram<u64> {
    match clock {
        LatencyClock::Response => &mut interval.response,
        LatencyClock::Service => &mut interval.service,
    }
}

fn tag(interval: &IntervalHistogram, clock: LatencyClock) -> String {
    let model = model_name(interval.model);
    format!("phase={};route={};clock={};model={model}", interval.phase, escape(&interval.route), clock.name())
}

/// The parts of one of our tags; `None` for a tag of somebody else.
fn parse_tag(tag: &str) -> Result<Option<(Phase, String, LatencyClock, Model)>, String> {
    let parts: BTreeMap<&str, &str> = tag.split(';').filter_map(|part| part.split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied();
    let (Some(phase), Some(route), Some(clock)) = (part("phase"), part("route"), part("clock")) else {
        return Ok(None);
    };
    let phase = Phase::UNDER_TRAFFIC
        .into_iter()
        .chain([Phase::Reapply, Phase::OtherWay])
        .find(|known| known.name() == phase)
        .ok_or_else(|| format!("`{phase}` is no phase"))?;
    let clock = [LatencyClock::Response, LatencyClock::Service]
        .into_iter()
        .find(|known| known.name() == clock)
        .ok_or_else(|| format!("`{clock}` is no clock"))?;
    let model = part("model").unwrap_or(model_name(Model::Arrivals));
    let model = [Model::Arrivals, Model::Users]
        .into_iter()
        .find(|known| model_name(*known) == model)
        .ok_or_else(|| format!("`{model}` is no traffic model"))?;
    let route = unescape(route).ok_or_else(|| format!("route `{route}` is not well escaped"))?;
    Ok(Some((phase, route, clock, model)))
}

const fn model_name(model: Model) -> &'static str {
    match model {
        Model::Arrivals => "arrivals",
        Model::Users => "users",
    }
}

/// Percent-encodes every byte that a tag may not hold or that tells its parts apart.
fn escape(route: &str) -> String {
    let mut escaped = String::with_capacity(route.len());
    for byte in route.bytes() {
        if byte.is_ascii_alphanumeric() || b"/:._-{}*?&+".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Microseconds as seconds with three decimals.
fn seconds(us: u64) -> String {
    let ms = us / MILLISECOND_US;
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// Seconds with up to three decimals, without a float in between: they would not come back exactly.
fn parse_seconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits: String = part.chars().chain("000".chars()).take(3).collect();
    let ms = whole.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(digits.parse().ok()?)?;
    ms.checked_mul(MILLISECOND_US)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    use super::{HlogError, read_hlog, write_hlog};
    use crate::latency::{HIGHEST_US, IntervalHistogram};
    use crate::phase::Phase;
    use crate::traffic::Model;

    fn interval() -> impl Strategy<Value = IntervalHistogram> {
        let phase = prop::sample::select(Phase::UNDER_TRAFFIC.to_vec());
        let model = prop::sample::select(vec![Model::Arrivals, Model::Users]);
        let samples = prop::collection::vec((0..HIGHEST_US, 0..HIGHEST_US), 0..20);
        (phase, any::<String>(), model, 0..10_000_000_u64, 1..100_000_u64, samples).prop_map(
            |(phase, route, model, start_ms, length_ms, samples)| {
                let mut interval =
                    IntervalHistogram::new(phase, route, model, start_ms * 1_000, length_ms * 1_000);
                for (response_us, service_us) in samples {
                    interval.record(response_us, service_us);
                }
                interval
            },
        )
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
        #[test]
        fn a_log_comes_back(intervals in prop::collection::vec(interval(), 0..4), base_ms in 0..4_000_000_000_000_u64) {
            let mut intervals = intervals;
            // Late completions append the same interval once more.
            intervals.extend(intervals.first().cloned());
            let bytes = write_hlog(&intervals, base_ms * 1_000).unwrap();
            let (base_us, back) = read_hlog(&bytes).unwrap();
            prop_assert_eq!(base_us, base_ms * 1_000);
            prop_assert_eq!(back, intervals);
        }
    }

    fn small() -> Vec<u8> {
        let mut interval =
            IntervalHistogram::new(Phase::Upgrade, "GET /products/{id}", Model::Arrivals, 2_500_000, 100_000);
        interval.record(1_234, 1_200);
        write_hlog(&[interval], 1_795_400_000_123_000).unwrap()
    }

    #[test]
    fn other_readers_read_it() {
        let bytes = small();
        let entries: Vec<_> = IntervalLogIterator::new(&bytes).map(Result::unwrap).collect();
        let LogEntry::StartTime(start) = &entries[0] else { panic!("{entries:?}") };
        assert_eq!(start.as_millis(), 1_795_400_000_123);
        assert!(matches!(entries[1], LogEntry::BaseTime(_)));
        let tags: Vec<_> = entries[2..]
            .iter()
            .map(|entry| {
                let LogEntry::Interval(interval) = entry else { panic!("{entry:?}") };
                assert_eq!(interval.start_timestamp().as_millis(), 2_500);
                assert_eq!(interval.duration().as_millis(), 100);
                interval.tag().unwrap().as_str().to_owned()
            })
            .collect();
        assert_eq!(
            tags,
            [
                "phase=upgrade;route=GET%20/products/{id};clock=response;model=arrivals",
                "phase=upgrade;route=GET%20/products/{id};clock=service;model=arrivals",
            ]
        );
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_damaged_one_is_named() {
        let bytes = small();
        let (_, torn) = read_hlog(&bytes[..bytes.len() - 9]).unwrap();
        assert_eq!((torn.len(), torn[0].response.len(), torn[0].service.len()), (1, 1, 0));
        let text = String::from_utf8(bytes).unwrap().replacen("Tag=phase=upgrade", "Tag=phase=lunch", 1);
        let error = read_hlog(text.as_bytes()).unwrap_err();
        assert!(matches!(&error, HlogError::Line { line: 5, reason } if reason.contains("lunch")), "{error}");
    }
}
