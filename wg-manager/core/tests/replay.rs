//! The replay window against a set of everything that was seen.

use std::collections::BTreeSet;

use countersign_wg_core::Replay;
use countersign_wg_core::limits::{REJECT_AFTER_MESSAGES, REPLAY_WINDOW};
use proptest::prelude::*;

/// As the whitepaper says it, with a set.
#[derive(Default)]
struct Naive {
    seen: BTreeSet<u64>,
    highest: Option<u64>,
}

impl Naive {
    fn accept(&mut self, counter: u64) -> bool {
        let too_old = self.highest.is_some_and(|highest| counter.saturating_add(REPLAY_WINDOW) <= highest);
        if counter >= REJECT_AFTER_MESSAGES || too_old || !self.seen.insert(counter) {
            return false;
        }
        self.highest = self.highest.max(Some(counter));
        true
    }
}

/// Counters as they come: mostly the next ones, some late, some twice, some far ahead.
fn counters() -> impl Strategy<Value = Vec<u64>> {
    let step = prop_oneof![
        6 => (0_i64..4).boxed(),
        3 => (-200_i64..200).boxed(),
        2 => (-9_000_i64..9_000).boxed(),
        1 => (-40_000_i64..40_000).boxed(),
    ];
    let start = prop_oneof![3 => Just(0_u64), 1 => 0_u64..100_000, 1 => Just(REJECT_AFTER_MESSAGES - 20_000)];
    (start, prop::collection::vec(step, 1..600)).prop_map(|(start, steps)| {
        let mut at = start;
        let walk = steps.into_iter().map(|step| {
            at = at.saturating_add_signed(step);
            at
        });
        walk.collect()
    })
}

proptest! {
    #[test]
    fn it_accepts_what_a_set_would(counters in counters()) {
        let (mut replay, mut naive) = (Replay::default(), Naive::default());
        for counter in counters {
            prop_assert_eq!(replay.accept(counter), naive.accept(counter), "{}", counter);
        }
    }

    #[test]
    fn it_goes_on_where_it_was(before in counters(), after in counters()) {
        let mut replay = Replay::default();
        for counter in before {
            let _ = replay.accept(counter);
        }
        let (next, ring) = replay.snapshot();
        let mut restored = Replay::restored(next, ring).unwrap();
        for counter in after {
            prop_assert_eq!(replay.accept(counter), restored.accept(counter));
        }
    }
}

#[test]
fn nothing_is_restored_from_what_is_no_window() {
    assert!(Replay::restored(7, vec![0; 3]).is_none());
}
