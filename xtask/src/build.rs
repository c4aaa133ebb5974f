//! Building the product: the eBPF programs first, since the loader carries their object, then the binaries.

use anyhow::Result;

use crate::{build_ebpf, sh};

/// Builds everything `make demo` and the benchmarks run.
pub fn run() -> Result<()> {
    build("--bins")
}

/// The same, and the tests. In one go: what only tests want of a dependency (`tokio/test-util`) makes another build of
/// it, and of all that uses it.
pub fn run_with_tests() -> Result<()> {
    build("--all-targets")
}

fn build(targets: &str) -> Result<()> {
    build_ebpf::run()?;
    sh::run(sh::cargo(["build", "--release", "--workspace"]).arg(targets))
}
