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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_within_its_bounds() {
        for seed in 0..1_000 {
            let mut rng = SplitMix64::new(seed);
            let mut before = 0;
            for attempts in 1..=9 {
                let pause = pause(attempts, 100, 30_000, &mut rng);
                let least = (100u64 << (attempts - 1)).min(24_000);
                assert!((least..=least / 4 * 5).contains(&pause), "{attempts}: {pause}");
                assert!(pause > before);
                before = pause;
            }
        }
    }

    #[test]
    fn strange_settings_do_no_harm() {
        let mut rng = SplitMix64::new(1);
        for (min, max) in [(0, 0), (100, 100), (100, 10), (0, u64::MAX), (u64::MAX, u64::MAX), (1, 2)] {
            for attempts in [0, 1, 2, 60, u32::MAX] {
                let pause = pause(attempts, min, max, &mut rng);
                assert!(pause >= min && pause <= max.max(min), "{attempts} {min} {max}: {pause}");
            }
        }
    }
}
