//! Pauses between attempts: growing, and never the same for two.

use std::time::Duration;

/// Doubles from `min` to `max`, a quarter more or less each time.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { next: min, min, max }
    }

    /// It went well.
    pub(crate) const fn reset(&mut self) {
        self.next = self.min;
    }

    /// How long to wait after a failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.75..=1.25));
        self.next = (self.next * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_differ() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(min, max);
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= min * 5 / 4);
        assert!(pauses.iter().all(|pause| *pause >= min * 3 / 4 && *pause <= max * 5 / 4));
        assert!(pauses[20..].iter().all(|pause| *pause >= max * 3 / 4));
        assert!(pauses[20..].windows(2).any(|two| two[0] != two[1]));
        backoff.reset();
        assert!(backoff.pause() <= min * 5 / 4);
    }
}
