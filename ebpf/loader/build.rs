//! Finds the programs' object and hands it to the crate, which embeds it.

use std::path::{Path, PathBuf};

/// Where `cargo xtask build-ebpf` leaves the object, from the root of the workspace.
const OBJECT: &str = "target/bpf/countersign.bpf.o";

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=CS_BPF_OBJECT");
    let object = match std::env::var_os("CS_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(OBJECT),
    };
    println!("cargo:rerun-if-changed={}", object.display());
    let path = object.canonicalize().map_err(|error| {
        format!(
            "{}: {error}\nthe eBPF programs are not built yet: run `cargo xtask build-ebpf`",
            object.display()
        )
    })?;
    println!("cargo:rustc-env=CS_BPF_OBJECT_PATH={}", path.display());
    Ok(())
}
