//! Pauses between attempts: SPIRE's agent is back within seconds as a rule, and is never called in a busy loop.

use std::time::Duration;

use crate::limits::{RECONNECT_MAX, RECONNECT_MIN};

/// Doubles from [`RECONNECT_MIN`] to [`RECONNECT_MAX`], a quarter more or less each time.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { next: RECONNECT_MIN }
    }

    /// It went well.
    pub(super) const fn reset(&mut self) {
        self.next = RECONNECT_MIN;
    }

    /// How long to wait after a failure.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.75..=1.25));
        self.next = (self.next * 2).min(RECONNECT_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_differ() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= RECONNECT_MIN * 5 / 4);
        assert!(
            pauses.iter().all(|pause| *pause >= RECONNECT_MIN * 3 / 4 && *pause <= RECONNECT_MAX * 5 / 4)
        );
        assert!(pauses[20..].windows(2).any(|two| two[0] != two[1]));
        assert!(pauses[20..].iter().all(|pause| *pause >= RECONNECT_MAX * 3 / 4));
        backoff.reset();
        assert!(backoff.pause() <= RECONNECT_MIN * 5 / 4);
    }
}
