//! What the driver itself uses of the machine.

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process so far, all threads, microseconds.
#[must_use]
pub fn process_cpu_us() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    // CPU time counts up from zero, so neither field is negative.
    u64::try_from(used.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(used.tv_nsec).unwrap_or(0) / 1000
}
