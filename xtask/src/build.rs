//! Building the product: the eBPF programs first, since the loader carries their object, then the binaries.

use anyhow::Result;

use crate::{build_ebpf, sh};

/// Builds everything `make demo`, the tests and the benchmarks run.
pub fn run() -> Result<()> {
    build_ebpf::run()?;
    sh::run(&mut sh::cargo(["build", "--release", "--workspace", "--bins"]))
}
