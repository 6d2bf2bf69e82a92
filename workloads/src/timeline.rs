//! Which phase an instant belongs to.
//!
//! `traffic` announces each boundary a little ahead; both pumps ask when they record. A request belongs to the
//! phase of its intended start, however late it ends.

use std::sync::{Arc, PoisonError, RwLock};

use fulldress_reports::phase::Phase;

/// The phases announced so far; copies share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeline {
    state: Arc<RwLock<Boundaries>>,
}

#[derive(Debug, Default)]
struct Boundaries {
    /// Phase and first instant, ascending.
    starts: Vec<(Phase, u64)>,
    end_us: Option<u64>,
}

/// The interval of latency that an instant belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) phase: Phase,
    pub(crate) start_us: u64,
}

impl Timeline {
    /// Announces that `phase` begins at `from_us`.
    pub(crate) fn enter(&self, phase: Phase, from_us: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Boundaries never go back; a phase entered twice at one instant keeps both, the later one wins.
        let from_us = state.starts.last().map_or(from_us, |(_, last_us)| from_us.max(*last_us));
        state.starts.push((phase, from_us));
    }

    /// Announces the first instant that belongs to no phase.
    pub(crate) fn end(&self, end_us: u64) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).end_us = Some(end_us);
    }

    /// First instant of the first phase.
    pub(crate) fn start_us(&self) -> Option<u64> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.starts.first().map(|(_, start_us)| *start_us)
    }

    /// The phase and interval of an instant; what lies before the first phase counts to it.
    pub(crate) fn slot(&self, at_us: u64) -> Slot {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let begun = state.starts.partition_point(|(_, start_us)| *start_us <= at_us);
        let (phase, start_us) =
            state.starts.get(begun.saturating_sub(1)).copied().unwrap_or((Phase::Warmup, at_us));
        let intervals = at_us.saturating_sub(start_us) / phase.interval_us();
        Slot { phase, start_us: start_us + intervals * phase.interval_us() }
    }

    /// Length of a slot, microseconds: shorter than usual where a phase ends inside it.
    pub(crate) fn length_us(&self, slot: Slot) -> u64 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let next =
            state.starts.iter().map(|(_, start_us)| *start_us).find(|start_us| *start_us > slot.start_us);
        let usual_us = slot.phase.interval_us();
        [next, state.end_us]
            .into_iter()
            .flatten()
            .map(|end_us| end_us.saturating_sub(slot.start_us).max(1))
            .fold(usual_us, u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::{Slot, Timeline};
    use fulldress_reports::phase::Phase;

    #[test]
    fn instants_fall_into_intervals_aligned_to_their_phase() {
        let timeline = Timeline::default();
        timeline.enter(Phase::Baseline, 500_000);
        timeline.enter(Phase::Upgrade, 3_050_000);
        timeline.end(3_390_000);
        for (at_us, phase, start_us, length_us) in [
            (0, Phase::Baseline, 500_000, 1_000_000),
            (1_499_999, Phase::Baseline, 500_000, 1_000_000),
            (1_500_000, Phase::Baseline, 1_500_000, 1_000_000),
            (3_049_999, Phase::Baseline, 2_500_000, 550_000),
            (3_050_000, Phase::Upgrade, 3_050_000, 100_000),
            (3_360_000, Phase::Upgrade, 3_350_000, 40_000),
        ] {
            let slot = timeline.slot(at_us);
            assert_eq!(slot, Slot { phase, start_us }, "at {at_us}");
            assert_eq!(timeline.length_us(slot), length_us, "at {at_us}");
        }
    }
}
