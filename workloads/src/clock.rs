//! The one clock of a rehearsal.
//!
//! Every instant is a number of microseconds since the rehearsal's epoch on the kernel's monotonic clock,
//! which all processes of a machine share: a worker process and the harness mean the same instant.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A clock with a fixed epoch; copies of it agree, also across processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// `CLOCK_MONOTONIC` at the epoch, nanoseconds.
    epoch_monotonic_ns: u64,
    /// `CLOCK_REALTIME` at the epoch, nanoseconds since 1970.
    epoch_unix_ns: u64,
}

impl Clock {
    /// A clock whose epoch is now.
    #[must_use]
    pub fn start() -> Self {
        Self { epoch_monotonic_ns: read_ns(ClockId::Monotonic), epoch_unix_ns: read_ns(ClockId::Realtime) }
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub fn now_us(self) -> u64 {
        read_ns(ClockId::Monotonic).saturating_sub(self.epoch_monotonic_ns) / 1000
    }

    /// The epoch, microseconds since 1970 in UTC.
    #[must_use]
    pub const fn epoch_unix_us(self) -> u64 {
        self.epoch_unix_ns / 1000
    }

    /// The same instant on `CLOCK_MONOTONIC`, nanoseconds: what a kernel timer takes.
    #[must_use]
    pub const fn monotonic_ns(self, at_us: u64) -> u64 {
        self.epoch_monotonic_ns + at_us * 1000
    }

    /// Waits until an instant of this clock; returns at once when it has passed.
    pub async fn sleep_until(self, at_us: u64) {
        let now_us = self.now_us();
        if at_us > now_us {
            tokio::time::sleep(std::time::Duration::from_micros(at_us - now_us)).await;
        }
    }
}

fn read_ns(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    // Both clocks count up from a point in the past, so neither field is negative.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_copy_sent_elsewhere_means_the_same_instant() {
        let clock = Clock::start();
        let json = serde_json::to_string(&clock).unwrap();
        let copy: Clock = serde_json::from_str(&json).unwrap();
        let first = clock.now_us();
        let second = copy.now_us();
        assert!(first <= second && second - first < 1_000_000);
    }
}
