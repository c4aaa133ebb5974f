//! Quantiles of the latest durations.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::LATENCY_SAMPLES;

/// The last [`LATENCY_SAMPLES`] durations.
#[derive(Clone, Debug, Default)]
pub struct LatencyWindow {
    samples: VecDeque<Duration>,
}

impl LatencyWindow {
    /// Adds one and forgets the oldest where there is no room.
    pub fn push(&mut self, sample: Duration) {
        if self.samples.len() == LATENCY_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The smallest sample that at least the fraction `q` of all (0 to 1) does not exceed; `None` without samples.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.samples.is_empty() {
            return None;
        }
        let mut sorted: Vec<_> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (q.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_latest() {
        let mut window = LatencyWindow::default();
        assert_eq!(window.quantile(0.5), None);
        window.push(Duration::from_millis(7));
        for q in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(window.quantile(q), Some(Duration::from_millis(7)));
        }
        let mut window = LatencyWindow::default();
        for ms in (1..=100).rev() {
            window.push(Duration::from_millis(ms));
        }
        assert_eq!(window.quantile(0.5), Some(Duration::from_millis(50)));
        assert_eq!(window.quantile(0.99), Some(Duration::from_millis(99)));
        for _ in 0..LATENCY_SAMPLES {
            window.push(Duration::from_millis(3));
        }
        assert_eq!(window.quantile(1.0), Some(Duration::from_millis(3)));
    }
}
