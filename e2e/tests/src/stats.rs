//! Percentiles of samples.

use std::time::Duration;

/// Samples, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    sorted: Vec<f64>,
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }
}

impl Samples {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The `percent`th percentile by nearest rank, in milliseconds; NaN of nothing, which JSON shows as null.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// The median, in milliseconds.
    #[must_use]
    pub fn p50(&self) -> f64 {
        self.percentile(50)
    }

    /// The 99th percentile, in milliseconds.
    #[must_use]
    pub fn p99(&self) -> f64 {
        self.percentile(99)
    }
}

/// `value` with three decimals, as reports show it.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples: Samples = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!((samples.p50(), samples.p99(), samples.percentile(100)), (100.0, 198.0, 200.0));
        assert_eq!(samples.len(), 200);
    }

    #[test]
    fn nothing_has_no_percentile() {
        let none = Samples::default();
        assert!(none.is_empty() && none.p50().is_nan());
        assert_eq!(rounded(1.23456), 1.235);
    }
}
