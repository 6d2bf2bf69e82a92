//! How long the phases of a derived rehearsal are: as long as its rarest route needs, and no longer than a person waits.
//!
//! `derived` asks once the traffic is known; `files` writes the lengths into the plan.

use std::fmt::Write as _;

/// Requests of the rarest route that a phase has on the mean: none at all, and a latency that says nothing, are then chance no more.
const REQUESTS: f64 = 30.0;
/// Most seconds of the baseline, against which the other phases are held, and of each of those. With 2 s of warmup that is 3 min 22 s, which
/// leaves a third of five minutes to what surrounds the traffic.
const BASELINE_MAX_S: u64 = 60;
const OTHERS_MAX_S: u64 = 35;

/// Lengths in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    warmup_s: u64,
    baseline_s: u64,
    upgrade_min_s: u64,
    soak_s: u64,
    rollback_min_s: u64,
    recovery_s: u64,
}

impl Phases {
    /// For a rarest route of so many requests a second.
    #[must_use]
    pub fn of(rarest_per_s: f64) -> Self {
        // A float beyond an integer becomes the largest one.
        let wanted_s = (REQUESTS / rarest_per_s).ceil() as u64;
        let long = |least_s: u64, most_s: u64| wanted_s.clamp(least_s, most_s);
        Self {
            warmup_s: 2,
            baseline_s: long(8, BASELINE_MAX_S),
            upgrade_min_s: long(6, OTHERS_MAX_S),
            soak_s: long(5, OTHERS_MAX_S),
            rollback_min_s: long(6, OTHERS_MAX_S),
            recovery_s: long(4, OTHERS_MAX_S),
        }
    }

    /// One sentence for a person: how long they are, and whether that is enough for the rarest route.
    #[must_use]
    pub fn decision(&self, rarest: &str, rarest_per_s: f64) -> String {
        let shortest_s = self.upgrade_min_s.min(self.soak_s).min(self.rollback_min_s).min(self.recovery_s);
        let mean = rarest_per_s * shortest_s as f64;
        let mut text = format!(
            "phases: {} s of baseline, {shortest_s} s or more of each other; the rarest route, {rarest}, has {mean:.0} requests in the shortest on the mean",
            self.baseline_s
        );
        if mean < REQUESTS {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                ", fewer than {REQUESTS:.0}: what is said of it rests on little; give a higher --rate, or rehearse fewer migrations at once"
            );
        }
        text
    }

    /// The table of a plan.
    #[must_use]
    pub fn toml(&self) -> String {
        let Self { warmup_s, baseline_s, upgrade_min_s, soak_s, rollback_min_s, recovery_s } = self;
        format!(
            "[phases]\nwarmup_s = {warmup_s}\nbaseline_s = {baseline_s}\nupgrade_min_s = {upgrade_min_s}\nsoak_s = {soak_s}\n\
             rollback_min_s = {rollback_min_s}\nrecovery_s = {recovery_s}\n"
        )
    }

    #[cfg(test)]
    const fn sum_s(&self) -> u64 {
        self.warmup_s
            + self.baseline_s
            + self.upgrade_min_s
            + self.soak_s
            + self.rollback_min_s
            + self.recovery_s
    }
}

#[cfg(test)]
mod tests {
    use super::Phases;

    #[test]
    fn phases_are_as_long_as_the_rarest_route_needs() {
        let few = Phases::of(20.0);
        assert_eq!((few.baseline_s, few.upgrade_min_s, few.soak_s, few.recovery_s), (8, 6, 5, 4));
        assert!(few.decision("a: read", 20.0).ends_with("has 80 requests in the shortest on the mean"));
        let more = Phases::of(2.0);
        assert_eq!((more.baseline_s, more.upgrade_min_s, more.soak_s, more.recovery_s), (15, 15, 15, 15));
    }

    #[test]
    fn what_is_not_enough_is_said_and_nobody_waits_longer_than_five_minutes() {
        for per_s in [0.1, 0.0] {
            let longest = Phases::of(per_s);
            assert_eq!((longest.baseline_s, longest.soak_s), (60, 35));
            assert!(longest.sum_s() <= 202);
            assert!(longest.decision("a: insert", per_s).contains("fewer than 30"), "{per_s}");
        }
    }
}
