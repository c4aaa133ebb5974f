//! countersign-cli.

fn main() {}
