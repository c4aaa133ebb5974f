//! Counting tests: what `cargo test` says on its `test result:` lines, added up.

use std::fmt;
use std::ops::AddAssign;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
}

impl Tally {
    /// One failure that is no test's: a check that did not pass, a test program that did not build.
    pub const ONE_FAILURE: Self = Self { passed: 0, failed: 1 };

    /// What one line of output says, if it is a `test result:` line.
    pub fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| -> Option<u64> {
            counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self { passed: count("passed")?, failed: count("failed")? })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_count() {
        let ok =
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(Tally::of_line(ok), Some(Tally { passed: 12, failed: 0 }));
        let bad =
            "test result: FAILED. 1 passed; 22 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9s";
        assert_eq!(Tally::of_line(bad), Some(Tally { passed: 1, failed: 22 }));
    }

    #[test]
    fn other_lines_do_not() {
        for line in ["", "test result: ", "test result: ok.", "test a ... ok", "running 3 tests", "12 passed"]
        {
            assert_eq!(Tally::of_line(line), None, "{line}");
        }
    }

    #[test]
    fn the_sum_is_printed_alone() {
        let mut sum = Tally { passed: 3, failed: 0 };
        sum += Tally::ONE_FAILURE;
        assert_eq!(sum.to_string(), "3 passed, 1 failed");
    }
}
