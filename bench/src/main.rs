//! countersign-bench.

fn main() {}
