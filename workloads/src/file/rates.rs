//! How many requests a second are due as time goes on: one rate, stretches that hold or ramp, a replay, or a profile's day.
//!
//! `file` reads them; [`Schedule`](crate::schedule::Schedule) turns them into instants.

use std::path::Path;

use super::raw::{RawRates, RawStretch};
use crate::feeder::table::{from_csv, read};

/// Highest rate that one scenario may ask for, requests a second.
pub(super) const RATE_MAX_PER_S: f64 = 100_000.0;
/// Stretches of one scenario at most.
const STRETCHES_MAX: usize = 100_000;
/// Longest stretch, seconds: a week.
const STRETCH_MAX_S: f64 = 604_800.0;

/// A time in which the rate stands, or goes up or down in a straight line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stretch {
    pub(crate) length_s: f64,
    /// At its beginning.
    pub(crate) rate_per_s: f64,
    /// At its end.
    pub(crate) to_per_s: f64,
}

/// Rates over time. After the last stretch its final rate stays.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    /// Never empty; the last one is endless.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    stretch: Stretch,
    /// Its first instant, seconds from the start.
    from_s: f64,
    /// How many requests were due before it.
    before: f64,
}

impl Rates {
    /// One rate for ever.
    pub(crate) fn constant(rate_per_s: f64) -> Self {
        Self::new(&[Stretch { length_s: f64::INFINITY, rate_per_s, to_per_s: rate_per_s }])
    }

    /// Stretches, one after the other.
    pub(crate) fn new(stretches: &[Stretch]) -> Self {
        let (mut from_s, mut before) = (0.0, 0.0);
        let mut pieces = Vec::with_capacity(stretches.len() + 1);
        for stretch in stretches {
            pieces.push(Piece { stretch: *stretch, from_s, before });
            from_s += stretch.length_s;
            before += stretch.length_s * f64::midpoint(stretch.rate_per_s, stretch.to_per_s);
        }
        if from_s.is_finite() {
            let rate = stretches.last().map_or(0.0, |last| last.to_per_s);
            let stretch = Stretch { length_s: f64::INFINITY, rate_per_s: rate, to_per_s: rate };
            pieces.push(Piece { stretch, from_s, before });
        }
        Self { pieces }
    }

    /// When request number `count` is due, counted from 0, in microseconds from the start: the first instant at which the
    /// integral of the rate is above it. A broken number lies between two requests. Nothing once the rate stays at 0.
    pub(crate) fn due_us(&self, count: f64) -> Option<f64> {
        let begun = self.pieces.partition_point(|piece| piece.before <= count);
        let Piece { stretch, from_s, before } = *self.pieces.get(begun.saturating_sub(1))?;
        let left = count - before;
        let Stretch { length_s, rate_per_s, to_per_s } = stretch;
        #[expect(clippy::float_cmp, reason = "a stretch that holds has the very same number at both ends")]
        if rate_per_s == to_per_s {
            return (rate_per_s > 0.0).then(|| from_s * 1e6 + left * 1e6 / rate_per_s);
        }
        // The positive root of `rate * t + (to - rate) / (2 * length) * t * t = left`, in the form that loses no digits.
        let under = rate_per_s * rate_per_s + 2.0 * left * (to_per_s - rate_per_s) / length_s;
        let divisor = rate_per_s + under.max(0.0).sqrt();
        let after_s = if left > 0.0 { 2.0 * left / divisor } else { 0.0 };
        Some((from_s + after_s.min(length_s)) * 1e6)
    }

    /// The rate at the beginning, requests a second.
    pub(crate) fn first_per_s(&self) -> f64 {
        self.pieces.first().map_or(0.0, |piece| piece.stretch.rate_per_s)
    }

    /// The highest rate, requests a second.
    pub(crate) fn highest_per_s(&self) -> f64 {
        let both = self.pieces.iter().map(|piece| piece.stretch.rate_per_s.max(piece.stretch.to_per_s));
        both.fold(0.0, f64::max)
    }
}

/// Reads `rates`: the list of stretches, or the file that is replayed, which lies beside the workload.
pub(super) fn read_rates(raw: &RawRates, beside: &Path) -> Result<Rates, String> {
    let stretches = match raw {
        RawRates::Stretches(stretches) => stretches.iter().map(stretch).collect::<Result<Vec<_>, _>>()?,
        RawRates::Replay(replay) => {
            let text = read(&beside.join(&replay.file)).map_err(|what| format!("rates: {what}"))?;
            replayed(&text).map_err(|what| format!("rates: {}: {what}", replay.file.display()))?
        }
    };
    if stretches.len() > STRETCHES_MAX {
        return Err(format!("rates: {} stretches are more than {STRETCHES_MAX}", stretches.len()));
    }
    let rates = Rates::new(&stretches);
    if rates.highest_per_s() <= 0.0 {
        return Err("rates: nothing ever arrives; give one stretch a rate above 0".to_owned());
    }
    Ok(rates)
}

fn stretch(raw: &RawStretch) -> Result<Stretch, String> {
    let RawStretch { for_s, rate_per_s, to_per_s } = *raw;
    if !(for_s > 0.0 && for_s <= STRETCH_MAX_S) {
        return Err(format!("rates: for_s = {for_s} is outside 0 (excluded) to {STRETCH_MAX_S}"));
    }
    let to_per_s = to_per_s.unwrap_or(rate_per_s);
    for rate in [rate_per_s, to_per_s] {
        check_rate(rate).map_err(|what| format!("rates: {what}"))?;
    }
    Ok(Stretch { length_s: for_s, rate_per_s, to_per_s })
}

/// Checks a rate that may be 0.
pub(super) fn check_rate(rate_per_s: f64) -> Result<(), String> {
    if (0.0..=RATE_MAX_PER_S).contains(&rate_per_s) {
        Ok(())
    } else {
        Err(format!("{rate_per_s} requests a second are outside 0 to {RATE_MAX_PER_S}"))
    }
}

/// Reads measured rates: a line holds from its second until the next line's.
fn replayed(text: &str) -> Result<Vec<Stretch>, String> {
    let table = from_csv(text)?;
    if table.columns != ["second", "rate_per_s"] {
        return Err("its first line must be `second,rate_per_s`".to_owned());
    }
    let mut lines: Vec<(f64, f64)> = Vec::new();
    for (row, cells) in (1..).zip(&table.rows) {
        let number =
            |cell: usize| cells.get(cell).and_then(|cell| cell.as_deref()?.trim().parse::<f64>().ok());
        let (Some(second), Some(rate)) = (number(0), number(1)) else {
            return Err(format!("row {row} is not two numbers"));
        };
        check_rate(rate).map_err(|what| format!("row {row}: {what}"))?;
        match lines.last() {
            None if second != 0.0 => return Err("its first row must stand at second 0".to_owned()),
            Some((last, _)) if !(second > *last && second <= *last + STRETCH_MAX_S) => {
                return Err(format!("row {row}: second {second} does not follow {last}"));
            }
            _ => lines.push((second, rate)),
        }
    }
    let ends = lines.iter().skip(1).map(|(second, _)| *second);
    // The last line's rate stays, as after every last stretch.
    let ends = ends.chain(lines.last().map(|(second, _)| second + 1.0));
    let stretch = |((from_s, rate), end_s): (&(f64, f64), f64)| Stretch {
        length_s: end_s - from_s,
        rate_per_s: *rate,
        to_per_s: *rate,
    };
    Ok(lines.iter().zip(ends).map(stretch).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Rates, Stretch, replayed};

    fn stretch(length_s: f64, rate_per_s: f64, to_per_s: f64) -> Stretch {
        Stretch { length_s, rate_per_s, to_per_s }
    }

    /// Requests due before an instant.
    fn due_before(rates: &Rates, end_s: f64) -> usize {
        let all = (0..).map_while(|count| rates.due_us(f64::from(count)));
        all.take_while(|due_us| due_us.ceil() < end_s * 1e6).count()
    }

    #[test]
    fn steps_ramps_and_pauses_have_their_area() {
        let rates = Rates::new(&[
            stretch(2.0, 50.0, 50.0),
            stretch(3.0, 50.0, 250.0),
            stretch(1.0, 0.0, 0.0),
            stretch(2.0, 100.0, 0.0),
        ]);
        for (end_s, expected) in [(1.0, 50), (2.0, 100), (5.0, 550), (6.0, 550), (8.0, 650)] {
            assert_eq!(due_before(&rates, end_s), expected, "before {end_s} s");
        }
        // A third into the ramp the rate is 50 + 200 / 3; the area so far is 50 + 100 / 3.
        assert!((due_before(&rates, 3.0) as f64 - (100.0 + 50.0 + 100.0 / 3.0)).abs() <= 1.0);
        // What follows the pause begins with it.
        assert_eq!(rates.due_us(550.0), Some(6e6));
        assert_eq!(rates.due_us(650.0), None, "the last rate is 0 and stays");
        assert!((rates.highest_per_s() - 250.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_replay_holds_each_line_until_the_next() {
        let rates = Rates::new(&replayed("second,rate_per_s\n0,10\n2,0\n2.5,40\n").unwrap());
        for (end_s, expected) in [(2.0, 20), (2.5, 20), (3.5, 60), (10.0, 320)] {
            assert_eq!(due_before(&rates, end_s), expected, "before {end_s} s");
        }
        for (text, expected) in [
            ("rate\n1\n", "first line must be `second,rate_per_s`"),
            ("second,rate_per_s\n1,5\n", "must stand at second 0"),
            ("second,rate_per_s\n0,5\n0,6\n", "row 2: second 0 does not follow 0"),
            ("second,rate_per_s\n0,fast\n", "row 1 is not two numbers"),
            ("second,rate_per_s\n0,-1\n", "row 1: -1 requests a second"),
            ("second,rate_per_s\n0,NaN\n", "row 1: NaN requests a second"),
        ] {
            let error = replayed(text).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }

    proptest! {
        #[test]
        fn instants_never_go_back(
            stretches in prop::collection::vec((0.01_f64..5.0, 0.0_f64..400.0, 0.0_f64..400.0), 1..6)
        ) {
            let stretches: Vec<Stretch> =
                stretches.into_iter().map(|(length, from, to)| stretch(length, from, to)).collect();
            let area: f64 = stretches.iter().map(|piece| piece.length_s * (piece.rate_per_s + piece.to_per_s) / 2.0).sum();
            let length_s: f64 = stretches.iter().map(|piece| piece.length_s).sum();
            let rates = Rates::new(&stretches);
            let due: Vec<f64> = (0..area as u32).map_while(|count| rates.due_us(f64::from(count))).collect();
            prop_assert_eq!(due.len(), area as usize);
            prop_assert!(due.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(due.iter().all(|due_us| (0.0..=length_s * 1e6 + 1.0).contains(due_us)));
        }
    }
}
