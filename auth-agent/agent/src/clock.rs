//! The clocks, read here and nowhere else in the agent.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, suspended time included (CLOCK_BOOTTIME).
#[must_use]
pub fn boot_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return u64::MAX };
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The boot clock's reading at a Unix time: what is over already is now.
#[must_use]
pub fn boot_at_unix(unix_seconds: u64) -> u64 {
    boot_ns().saturating_add(unix_seconds.saturating_sub(unix()).saturating_mul(1_000_000_000))
}

/// The Unix time at a reading of the boot clock, no earlier: what is over already is now.
#[must_use]
pub fn unix_at_boot(boot: u64) -> u64 {
    unix().saturating_add(boot.saturating_sub(boot_ns()).div_ceil(1_000_000_000))
}

/// Nanoseconds since the Unix epoch, for records.
#[must_use]
pub fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
