//! The two clocks: one for how long things last, also while the machine sleeps, and one for what others are told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the boot clock.
pub fn boot() -> u64 {
    // Every kernel that has TUN devices has this clock.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    now.as_nanos() as u64
}

/// Time since 1970.
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
