//! Which counters of a session were seen (RFC 6479): a ring of bits behind the highest one.

use crate::limits::{REJECT_AFTER_MESSAGES, REPLAY_WINDOW};

const BITS: u64 = 64;
/// One word more than the window: the one that is being entered.
const WORDS: usize = (REPLAY_WINDOW / BITS) as usize + 1;

/// The counters that were seen.
#[derive(Clone, Debug)]
pub struct Replay {
    /// One more than the highest counter seen.
    next: u64,
    ring: Box<[u64; WORDS]>,
}

impl Default for Replay {
    fn default() -> Self {
        Self { next: 0, ring: Box::new([0; WORDS]) }
    }
}

impl Replay {
    /// Whether the counter is seen for the first time, and is not too old to know. Only for messages that have
    /// authenticated.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES || counter.saturating_add(REPLAY_WINDOW) < self.next {
            return false;
        }
        let word = counter / BITS;
        if counter >= self.next {
            let top = self.next.saturating_sub(1) / BITS;
            // A jump past the whole ring leaves nothing of it.
            for passed in (top + 1..=word).take(WORDS) {
                self.ring[Self::at(passed)] = 0;
            }
            self.next = counter + 1;
        }
        let (slot, bit) = (&mut self.ring[Self::at(word)], 1 << (counter % BITS));
        let fresh = *slot & bit == 0;
        *slot |= bit;
        fresh
    }

    fn at(word: u64) -> usize {
        (word % WORDS as u64) as usize
    }

    /// To go on elsewhere.
    pub fn snapshot(&self) -> (u64, Vec<u64>) {
        (self.next, self.ring.to_vec())
    }

    /// From a [`snapshot`](Self::snapshot). Nothing, if it is none.
    pub fn restored(next: u64, ring: Vec<u64>) -> Option<Self> {
        Some(Self { next, ring: Box::new(ring.try_into().ok()?) })
    }
}
