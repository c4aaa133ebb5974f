//! countersign-wg.

fn main() {}
