//! When the sampler did not look, while it was to look often.
//!
//! The sampler's state notes each look; `reconcile` tells the report how much of the time lies in gaps.

/// What is declared as a gap: longer than this between two looks, microseconds.
pub const GAP_US: u64 = 5_000;

/// Most gaps kept one by one; what comes after is one gap.
const GAPS_MAX: usize = 100_000;

/// A time without a look, on the rehearsal's clock, microseconds: from before the server read the locks for the look before it
/// to after it had read them for the look after it, by the server's own stamps. A lock that was held throughout none of them
/// was seen, where it was held for longer than [`GAP_US`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// Start.
    pub from_us: u64,
    /// End.
    pub to_us: u64,
}

impl Gap {
    /// Its length, microseconds.
    #[must_use]
    pub const fn length_us(self) -> u64 {
        self.to_us.saturating_sub(self.from_us)
    }
}

/// The gaps of one recording.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Those longer than [`GAP_US`].
    pub long: Vec<Gap>,
    /// Longest time without a look, microseconds, also where that is no gap.
    pub longest_us: u64,
    /// How long the sampler was to look often, microseconds.
    pub watched_us: u64,
    /// Before the locks were read for the last look, while the sampler is to look often.
    since_us: Option<u64>,
}

impl Gaps {
    /// The pace changes, or stays: at its fast end the time until now counts, at its start it begins to.
    pub(super) fn watching(&mut self, fast: bool, now_us: u64) {
        if !fast {
            self.looked(now_us, now_us);
            self.since_us = None;
        } else if self.since_us.is_none() {
            self.since_us = Some(now_us);
        }
    }

    /// The locks were read between two instants.
    pub(super) fn looked(&mut self, low_us: u64, high_us: u64) {
        let Some(from_us) = self.since_us else { return };
        self.since_us = Some(low_us);
        self.watched_us += low_us.saturating_sub(from_us);
        let gap = Gap { from_us, to_us: high_us };
        self.longest_us = self.longest_us.max(gap.length_us());
        if gap.length_us() <= GAP_US {
            return;
        }
        let full = self.long.len() >= GAPS_MAX;
        match self.long.last_mut().filter(|_| full) {
            Some(last) => last.to_us = high_us,
            None => self.long.push(gap),
        }
    }

    /// How many gaps are longer than a length, and how much of the time lies in any of them, microseconds.
    #[must_use]
    pub fn above(&self, length_us: u64) -> (u64, u64) {
        let (mut count, mut time_us, mut until_us) = (0, 0, 0);
        for gap in self.long.iter().filter(|gap| gap.length_us() > length_us) {
            // A look stands in two gaps: while it was read.
            time_us += gap.to_us.saturating_sub(gap.from_us.max(until_us));
            until_us = gap.to_us;
            count += 1;
        }
        (count, time_us)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gap, Gaps};

    #[test]
    fn only_the_fast_pace_has_gaps_and_its_end_closes_the_last_one() {
        let mut gaps = Gaps::default();
        gaps.looked(0, 90_000);
        gaps.watching(true, 100_000);
        gaps.watching(true, 101_000);
        gaps.looked(101_000, 102_000);
        gaps.looked(104_000, 105_000);
        gaps.looked(120_000, 121_000);
        gaps.watching(false, 140_000);
        gaps.looked(900_000, 900_100);
        let long = [(104_000, 121_000), (120_000, 140_000)].map(|(from_us, to_us)| Gap { from_us, to_us });
        assert_eq!(gaps.long, long);
        assert_eq!((gaps.watched_us, gaps.longest_us), (40_000, 20_000));
        assert_eq!((gaps.above(5_000), gaps.above(17_000)), ((2, 36_000), (1, 20_000)));
    }
}
