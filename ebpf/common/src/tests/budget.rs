//! Token buckets: never more than was filled in, and never closed for ever.

use proptest::prelude::*;

use super::scene::SECOND;
use crate::budget::Bucket;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn never_more_than_a_full_bucket_and_what_flowed_in(
        size in 1..100_000u32,
        steps in proptest::collection::vec((0..2 * SECOND, 0..5_000u32), 1..200),
    ) {
        let mut bucket = Bucket::default();
        let (mut now, mut granted) = (1, 0);
        for (wait, amount) in steps {
            now += wait;
            if bucket.take(now, amount, size) {
                granted += u64::from(amount);
            }
            let filled = u128::from(size) + u128::from(size) * u128::from(now) / u128::from(SECOND);
            prop_assert!(u128::from(granted) <= filled, "{granted} of {filled}");
        }
    }

    #[test]
    fn a_second_later_it_is_full_again(size in 1..100_000u32, amount in 1..200_000u32, start in 1..SECOND) {
        let mut bucket = Bucket::default();
        while bucket.take(start, 1, size) {}
        prop_assert_eq!(bucket.take(start + SECOND, amount, size), amount <= size);
    }

    /// Taking often, in steps too short for a whole token, must not starve the taker.
    #[test]
    fn impatience_does_not_starve(size in 10..5_000u32, step in 1_000..50_000_000u64) {
        let mut bucket = Bucket::default();
        let (mut now, mut granted) = (1, 0u64);
        while now < 4 * SECOND {
            granted += u64::from(bucket.take(now, 1, size));
            now += step;
        }
        let asked = 4 * SECOND / step;
        let fair = asked.min(u64::from(size) * 4);
        prop_assert!(granted * 3 >= fair, "{granted} of {fair}");
    }
}

#[test]
fn clocks_that_step_back_or_far_ahead_do_no_harm() {
    let mut bucket = Bucket::default();
    assert!(bucket.take(10 * SECOND, 5, 5));
    assert!(!bucket.take(9 * SECOND, 1, 5));
    assert!(bucket.take(u64::MAX, 5, 5));
    assert!(!bucket.take(u64::MAX, 1, 5));
}
