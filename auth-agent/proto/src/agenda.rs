//! All timers: one enum-indexed table per pair, one ordered agenda for the machine.

use std::collections::BTreeSet;

use crate::pair::Pair;

/// What a pair may wait for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// The entry's end.
    Expire,
    /// A handshake without a result.
    Handshake,
    /// The end of a back-off that something waits for.
    Retry,
    /// The entry's renewal.
    Renew,
    /// Writing an entry again that the datapath misses.
    Repair,
    /// Forgetting a failed pair.
    Forget,
}

impl Timer {
    const COUNT: usize = 6;

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Expire => "expire",
            Self::Handshake => "handshake",
            Self::Retry => "retry",
            Self::Renew => "renew",
            Self::Repair => "repair",
            Self::Forget => "forget",
        }
    }
}

/// The timers of one pair; `None` is not running.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<u64>; Timer::COUNT]);

impl Timers {
    pub(crate) fn get(&self, timer: Timer) -> Option<u64> {
        self.0[timer as usize]
    }
}

/// The timers of all pairs, the next one first.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    due: BTreeSet<(u64, Timer, Pair)>,
}

impl Agenda {
    pub(crate) fn set(&mut self, timers: &mut Timers, key: Pair, timer: Timer, at: u64) {
        self.clear(timers, key, timer);
        timers.0[timer as usize] = Some(at);
        self.due.insert((at, timer, key));
    }

    pub(crate) fn clear(&mut self, timers: &mut Timers, key: Pair, timer: Timer) {
        if let Some(at) = timers.0[timer as usize].take() {
            self.due.remove(&(at, timer, key));
        }
    }

    /// Stops all timers of a pair that is dropped.
    pub(crate) fn forget(&mut self, timers: &Timers, key: Pair) {
        const ALL: [Timer; Timer::COUNT] =
            [Timer::Expire, Timer::Handshake, Timer::Retry, Timer::Renew, Timer::Repair, Timer::Forget];
        for timer in ALL {
            if let Some(at) = timers.get(timer) {
                self.due.remove(&(at, timer, key));
            }
        }
    }

    pub(crate) fn next(&self) -> Option<(u64, &'static str)> {
        self.due.first().map(|(at, timer, _)| (*at, timer.name()))
    }

    /// The first timer that is due; it still runs until it is cleared.
    pub(crate) fn due(&self, now: u64) -> Option<(Timer, Pair)> {
        self.due.first().filter(|(at, ..)| *at <= now).map(|(_, timer, key)| (*timer, *key))
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}
