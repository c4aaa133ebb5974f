//! How long a failed pair rests.

use crate::limits::{PATIENT_ATTEMPTS, STEADY_ATTEMPTS};
use crate::reason::FailureKind;
use crate::rng::SplitMix64;

/// The step of the back-off after so many failures in a row: one each, but for [`STEADY_ATTEMPTS`] where the peer has
/// the pod and not its SVID yet.
pub(crate) fn step(attempts: u32, why: FailureKind) -> u32 {
    if why != FailureKind::NotLocal {
        return attempts;
    }
    attempts.min(2).max(attempts.saturating_add(2).saturating_sub(STEADY_ATTEMPTS))
}

/// After how many failures in a row packets no longer wait, where the cause may pass.
pub(crate) fn patience(why: FailureKind) -> u32 {
    if why == FailureKind::NotLocal { STEADY_ATTEMPTS } else { PATIENT_ATTEMPTS }
}

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
    fn who_waits_for_an_svid_is_asked_steadily_and_then_less_often() {
        let steps: Vec<u32> = (1..=22).map(|attempts| step(attempts, FailureKind::NotLocal)).collect();
        let steady = usize::try_from(STEADY_ATTEMPTS).expect("small");
        assert_eq!(steps[0], 1);
        assert!(steps[1..steady].iter().all(|step| *step == 2), "{steps:?}");
        assert_eq!(steps[steady..], [3, 4, 5, 6]);
        assert_eq!(step(u32::MAX, FailureKind::Untrusted), u32::MAX);
        assert!(step(u32::MAX - 2, FailureKind::NotLocal) > 32);
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
