//! The arrival schedule: intended instants that follow from the first one alone, never from responses.

use std::num::NonZeroU64;
use std::str::FromStr;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::file::{Rates, Spread};

/// A part of the whole traffic: of `of` parts the one with this index, counted from 0. Parts with one seed and one workload
/// share nothing, and together they are exactly the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    index: u64,
    of: NonZeroU64,
}

/// A text that names no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no part; write 2/3 for the second of three")]
pub struct UnknownPart(String);

impl Part {
    /// Everything.
    pub const WHOLE: Self = Self { index: 0, of: NonZeroU64::MIN };

    /// Whether number `number` of the whole, counted from 0, belongs to this part.
    #[must_use]
    pub const fn has(self, number: u64) -> bool {
        number % self.of.get() == self.index
    }

    /// How many of the first `count` numbers belong to this part.
    #[must_use]
    pub const fn share_of(self, count: u64) -> u64 {
        let of = self.of.get();
        count / of + if count % of > self.index { 1 } else { 0 }
    }

    /// The place in the whole of number `number` of this part, both counted from 0.
    #[must_use]
    pub const fn place_of(self, number: u64) -> u64 {
        number * self.of.get() + self.index
    }
}

impl FromStr for Part {
    type Err = UnknownPart;

    /// Reads `I/N`, with I counted from 1.
    fn from_str(text: &str) -> Result<Self, UnknownPart> {
        let read = || {
            let (number, of) = text.split_once('/')?;
            let (number, of): (u64, NonZeroU64) = (number.parse().ok()?, of.parse().ok()?);
            (1..=of.get()).contains(&number).then(|| Self { index: number - 1, of })
        };
        read().ok_or_else(|| UnknownPart(text.to_owned()))
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.index + 1, self.of)
    }
}

/// One request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Its number in the whole schedule, counted from 0.
    pub(crate) number: u64,
    /// Its intended instant, microseconds since the epoch.
    pub(crate) at_us: u64,
}

/// The intended instants of one part in ascending order; it ends only where the rate stays at 0.
#[derive(Debug)]
pub(crate) struct Schedule {
    rates: Rates,
    spread: Spread,
    start_us: u64,
    part: Part,
    /// Number of the next arrival of the whole.
    number: u64,
    /// Its place on the axis that the rates turn into time: how many were due before it.
    due: f64,
    next: Option<Arrival>,
    dice: ChaCha8Rng,
}

impl Schedule {
    /// Arrivals from `start_us` on. With equal gaps the first one is there; with random gaps each is at a distance from the
    /// one before whose mean is 1 on the axis of the rates' integral, which makes a Poisson process of that intensity.
    pub(crate) fn new(rates: Rates, spread: Spread, start_us: u64, seed: u64, part: Part) -> Self {
        let dice = ChaCha8Rng::seed_from_u64(seed);
        let mut schedule = Self { rates, spread, start_us, part, number: 0, due: 0.0, next: None, dice };
        if spread == Spread::Poisson {
            schedule.due = schedule.gap();
        }
        schedule.settle();
        schedule
    }

    /// The next arrival.
    pub(crate) const fn peek(&self) -> Option<Arrival> {
        self.next
    }

    /// Takes it.
    pub(crate) fn take(&mut self) -> Option<Arrival> {
        let taken = self.next?;
        self.step();
        self.settle();
        Some(taken)
    }

    /// Goes on to the next arrival of this part, if it stands at none.
    fn settle(&mut self) {
        while !self.part.has(self.number) {
            self.step();
        }
        self.next = self.rates.due_us(self.due).map(|after_us| self.at(after_us));
    }

    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 arrivals")]
    fn step(&mut self) {
        self.number += 1;
        self.due = match self.spread {
            // From the number and not from the last one, so that no rounding adds up.
            Spread::Constant => self.number as f64,
            Spread::Poisson => self.due + self.gap(),
        };
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an offset is positive and far below 2^63 microseconds"
    )]
    fn at(&self, after_us: f64) -> Arrival {
        // Rounded up, so that `rate * duration` arrivals lie before the end of a duration.
        Arrival { number: self.number, at_us: self.start_us + after_us.ceil() as u64 }
    }

    /// An exponential gap of mean 1, by inversion.
    fn gap(&mut self) -> f64 {
        -(1.0 - self.dice.random::<f64>()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, Part, Schedule};
    use crate::file::{Rates, Spread, Stretch};

    fn part_of(spread: Spread, rates: &Rates, duration_us: u64, part: Part) -> Vec<Arrival> {
        let mut schedule = Schedule::new(rates.clone(), spread, 1000, 42, part);
        std::iter::from_fn(|| schedule.take()).take_while(|next| next.at_us < 1000 + duration_us).collect()
    }

    fn arrivals(spread: Spread, rates: &Rates, duration_us: u64) -> Vec<u64> {
        let all = part_of(spread, rates, duration_us, Part::WHOLE);
        assert!((0..).zip(&all).all(|(number, arrival)| arrival.number == number));
        all.into_iter().map(|arrival| arrival.at_us).collect()
    }

    #[test]
    fn a_constant_schedule_has_rate_times_duration_arrivals() {
        for rate_per_s in [1.0, 3.0, 7.0, 150.0, 333.0, 1000.0] {
            let count = arrivals(Spread::Constant, &Rates::constant(rate_per_s), 60_000_000).len();
            assert_eq!(count, (rate_per_s * 60.0) as usize, "at {rate_per_s}/s");
        }
    }

    /// The largest distance between the samples' distribution and the true one, times the root of their number: above 1.63
    /// in one of a hundred runs of a right generator (Kolmogorov and Smirnov).
    fn distance(mut samples: Vec<f64>, truth: impl Fn(f64) -> f64) -> f64 {
        samples.sort_by(f64::total_cmp);
        let count = samples.len() as f64;
        let at = |(rank, sample): (usize, &f64)| {
            let true_share = truth(*sample);
            (true_share - rank as f64 / count).abs().max(((rank + 1) as f64 / count - true_share).abs())
        };
        samples.iter().enumerate().map(at).fold(0.0, f64::max) * count.sqrt()
    }

    #[test]
    fn a_poisson_schedule_has_exponential_gaps() {
        let arrivals = arrivals(Spread::Poisson, &Rates::constant(1000.0), 20_000_000);
        assert!((19_300..20_700).contains(&arrivals.len()), "5 sigma around 20000, got {}", arrivals.len());
        let gaps_s = arrivals.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
        let far = distance(gaps_s, |gap_s| 1.0 - (-1000.0 * gap_s).exp());
        assert!(far < 1.63, "{far}");
    }

    #[test]
    fn a_poisson_ramp_follows_its_rate() {
        let ramp = Stretch { length_s: 20.0, rate_per_s: 0.0, to_per_s: 1000.0 };
        let arrivals = arrivals(Spread::Poisson, &Rates::new(&[ramp]), 20_000_000);
        assert!((9_500..10_500).contains(&arrivals.len()), "5 sigma around 10000, got {}", arrivals.len());
        // Given their number, the instants are spread as the integral of the rate.
        let shares = arrivals.iter().map(|at_us| (at_us - 1000) as f64 / 20e6).collect();
        let far = distance(shares, |share| share * share);
        assert!(far < 1.63, "{far}");
    }

    #[test]
    fn the_parts_together_are_exactly_the_whole() {
        let rates = Rates::new(&[
            Stretch { length_s: 1.0, rate_per_s: 100.0, to_per_s: 300.0 },
            Stretch { length_s: 1.0, rate_per_s: 50.0, to_per_s: 50.0 },
        ]);
        for spread in [Spread::Constant, Spread::Poisson] {
            let whole = part_of(spread, &rates, 3_000_000, Part::WHOLE);
            let mut together: Vec<Arrival> = (1..=3)
                .flat_map(|number| part_of(spread, &rates, 3_000_000, format!("{number}/3").parse().unwrap()))
                .collect();
            together.sort_by_key(|arrival| arrival.number);
            assert_eq!(together, whole);
        }
    }

    #[test]
    fn a_part_is_written_as_it_is_read() {
        let part: Part = "2/3".parse().unwrap();
        assert_eq!(part.to_string(), "2/3");
        let mine: Vec<u64> = (0..8).filter(|number| part.has(*number)).collect();
        assert_eq!(mine, [1, 4, 7]);
        assert_eq!([0, 1, 2, 3, 8].map(|count| part.share_of(count)), [0, 0, 1, 1, 3]);
        assert_eq!([0, 1, 2].map(|number| part.place_of(number)), [1, 4, 7]);
        for wrong in ["", "0/3", "4/3", "1/0", "1", "a/b", "-1/2"] {
            let error = wrong.parse::<Part>().unwrap_err().to_string();
            assert!(error.contains("write 2/3"), "{error}");
        }
    }
}
