//! Pauses before what ended is started again.

use std::time::{Duration, Instant};

use crate::limits::{BACKOFF_FIRST, BACKOFF_RESET};

/// Doubles from [`BACKOFF_FIRST`] to `last`; what ran long enough starts over.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    last: Duration,
    started: Instant,
}

impl Backoff {
    /// No pause longer than `last`.
    #[must_use]
    pub fn new(last: Duration) -> Self {
        Self { next: BACKOFF_FIRST, last, started: Instant::now() }
    }

    /// It was started.
    pub fn started(&mut self) {
        self.started = Instant::now();
    }

    /// It ended (or could not be started): when to start it again.
    pub fn ended(&mut self) -> Instant {
        if self.started.elapsed() >= BACKOFF_RESET {
            self.next = BACKOFF_FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.last);
        Instant::now() + pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last() {
        let mut backoff = Backoff::new(Duration::from_millis(300));
        let mut pause = || backoff.ended().saturating_duration_since(Instant::now()).as_millis();
        let pauses: Vec<u128> = (0..4).map(|_| pause()).collect();
        assert!(pauses[0] <= 100 && pauses[1] <= 200 && pauses[1] > 150, "{pauses:?}");
        assert!(pauses[2] <= 300 && pauses[3] <= 300 && pauses[3] > 250, "{pauses:?}");
    }
}
