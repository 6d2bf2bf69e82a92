//! The arrival schedule: intended instants that follow from the first one alone, never from responses.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::file::ScheduleKind;

/// An endless ascending list of intended instants.
#[derive(Debug)]
pub(crate) struct Schedule {
    kind: ScheduleKind,
    rate_per_s: f64,
    start_us: u64,
    /// Arrivals taken so far.
    taken: u64,
    /// Offset of the next arrival from the start, microseconds.
    next_us: f64,
    dice: ChaCha8Rng,
}

impl Schedule {
    /// Arrivals from `start_us` on; a constant schedule has its first one there, a Poisson one a random gap later.
    pub(crate) fn new(kind: ScheduleKind, rate_per_s: f64, start_us: u64, seed: u64) -> Self {
        let mut schedule = Self {
            kind,
            rate_per_s,
            start_us,
            taken: 0,
            next_us: 0.0,
            dice: ChaCha8Rng::seed_from_u64(seed),
        };
        if kind == ScheduleKind::Poisson {
            schedule.next_us = schedule.gap_us();
        }
        schedule
    }

    /// The next intended instant, microseconds since the epoch.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an offset is positive and far below 2^63 microseconds"
    )]
    pub(crate) fn peek_us(&self) -> u64 {
        // Rounded up, so that `rate * duration` arrivals lie before the end of a duration.
        self.start_us + self.next_us.ceil() as u64
    }

    /// Takes it.
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 arrivals")]
    pub(crate) fn take_us(&mut self) -> u64 {
        let at_us = self.peek_us();
        self.taken += 1;
        self.next_us = match self.kind {
            // From the count and not from the last gap, so that no rounding adds up.
            ScheduleKind::Constant => self.taken as f64 * 1e6 / self.rate_per_s,
            ScheduleKind::Poisson => self.next_us + self.gap_us(),
        };
        at_us
    }

    /// An exponential gap by inversion.
    fn gap_us(&mut self) -> f64 {
        -(1.0 - self.dice.random::<f64>()).ln() * 1e6 / self.rate_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use crate::file::ScheduleKind;

    fn arrivals(kind: ScheduleKind, rate_per_s: f64, duration_us: u64) -> Vec<u64> {
        let mut schedule = Schedule::new(kind, rate_per_s, 1000, 42);
        std::iter::from_fn(|| Some(schedule.take_us()))
            .take_while(|at_us| *at_us < 1000 + duration_us)
            .collect()
    }

    #[test]
    fn a_constant_schedule_has_rate_times_duration_arrivals() {
        for rate_per_s in [1.0, 3.0, 7.0, 150.0, 333.0, 1000.0] {
            let count = arrivals(ScheduleKind::Constant, rate_per_s, 60_000_000).len();
            assert_eq!(count, (rate_per_s * 60.0) as usize, "at {rate_per_s}/s");
        }
    }

    #[test]
    fn a_poisson_schedule_has_the_rate_and_its_spread() {
        let arrivals = arrivals(ScheduleKind::Poisson, 1000.0, 20_000_000);
        assert!((19_300..20_700).contains(&arrivals.len()), "5 sigma around 20000, got {}", arrivals.len());
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!(
            (0.95..1.05).contains(&(deviation / mean)),
            "exponential gaps vary by their mean: {deviation}"
        );
    }
}
