//! Building the eBPF programs: another target, another compiler, a workspace of their own.

use anyhow::Result;

use crate::ci::PROGRAMS;
use crate::sh;

/// Builds `ebpf/programs` with the toolchain `bpf` that `setup` linked.
pub fn run() -> Result<()> {
    let mut command = sh::cargo(["+bpf", "build", "--release", "--manifest-path", PROGRAMS]);
    command.args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf -C panic=abort");
    sh::run(&mut command)
}
