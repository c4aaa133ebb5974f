//! What must be on the machine before anything is built: asked for first, installed only if missing, with a
//! line per step. A warm run changes nothing and takes a fraction of a second.

pub mod packages;
mod toolchain;

use std::time::Instant;

use anyhow::{Context as _, Result};

/// One step: returns what it found, or did, in a few words.
type Step = (&'static str, fn() -> Result<String>);

const STEPS: &[Step] = &[
    ("packages", packages::ensure),
    ("rust", toolchain::ensure_components),
    ("ebpf rust", toolchain::ensure_ebpf_compiler),
    ("bpf-linker", toolchain::ensure_linker),
];

/// Runs every step in order and stops at the first that cannot be done.
pub fn run() -> Result<()> {
    for (number, (name, step)) in STEPS.iter().enumerate() {
        let start = Instant::now();
        let done = step().with_context(|| format!("setup: {name}"))?;
        let place = format!("{}/{}", number + 1, STEPS.len());
        println!("setup {place}  {name:<11} {done} ({:.1} s)", start.elapsed().as_secs_f64());
    }
    Ok(())
}
