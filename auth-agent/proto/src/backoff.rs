//! How long a failed pair rests.

use crate::rng::SplitMix64;

/// The pause after `attempts` failures in a row: doubling from `min`, up to a quarter longer by chance, never
/// below `min` nor above `max`. Every pause is longer than the one before, until the longest is reached.
pub(crate) fn pause(attempts: u32, min: u64, max: u64, rng: &mut SplitMix64) -> u64 {
    let doublings = attempts.saturating_sub(1).min(32);
    // The top step leaves room for its jitter below `max`.
    let top = max / 5 * 4;
    let step = min.saturating_mul(1u64 << doublings).min(top).max(min);
    step.saturating_add(rng.up_to(step / 4)).min(max.max(min))
}
