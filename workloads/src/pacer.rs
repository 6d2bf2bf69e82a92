//! A timer that is late by tens of microseconds, where the runtime's own is late by more than a millisecond.

use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::clock::Clock;

/// A kernel timer on the rehearsal's clock.
#[derive(Debug)]
pub struct Pacer {
    clock: Clock,
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// A pacer; must be made inside the runtime that waits on it.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new(clock: Clock) -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "the successor is an unsafe fn, which this workspace forbids; what it asks of its caller, a \
                      descriptor that stays open and is never swapped, an OwnedFd held here and read only grants"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { clock, timer })
    }

    /// Waits until an instant; returns at once when it has passed. May be dropped and called again.
    ///
    /// # Errors
    /// The kernel refused the timer, which it does for no valid instant.
    pub async fn wait_until(&self, at_us: u64) -> std::io::Result<()> {
        if self.clock.now_us() >= at_us {
            return Ok(());
        }
        let at_ns = self.clock.monotonic_ns(at_us);
        let seconds = i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX);
        // Below 10^9, so it fits.
        let nanoseconds = i64::try_from(at_ns % 1_000_000_000).unwrap_or(0);
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        while self.clock.now_us() < at_us {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0_u8; 8];
            match rustix::io::read(self.timer.get_ref(), &mut expirations) {
                Ok(_) => {}
                // A readiness left over from a wait that was dropped.
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
