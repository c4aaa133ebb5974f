//! The budgets `size` holds the tree against, each with its reason.

/// Lines of a function that nine in ten stay within: what fits a screen beside its callers.
pub const FUNCTION_P90: usize = 30;
/// Lines no function may exceed.
pub const FUNCTION_WALL: usize = 70;
/// Lines of a typical file: one concept.
pub const FILE_TYPICAL: usize = 300;
/// Lines no file may exceed, its tests apart.
pub const FILE_WALL: usize = 600;
/// Places that may panic on purpose, per 1,000 lines of product code, where a crash is an answer at all.
pub const PANICS_PER_1000: f64 = 3.0;
/// Comment lines per line of code: less explains too little, more says it twice.
pub const COMMENTS: std::ops::RangeInclusive<f64> = 0.15..=0.30;
/// Lines of tests per line of product code in the pure crates.
pub const TESTS_PURE: f64 = 1.0;
/// Lines of tests per line of product code elsewhere.
pub const TESTS_ELSEWHERE: f64 = 0.3;
