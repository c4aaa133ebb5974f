//! Finds the programs' object and hands it to the crate, which embeds it.

use std::path::PathBuf;

/// Where `cargo xtask build-ebpf` leaves the object, from the root of the workspace.
const OBJECT: &str = "target/bpf/countersign.bpf.o";

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=CS_BPF_OBJECT");
    let object = match std::env::var_os("CS_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => here()?.join("../..").join(OBJECT),
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

/// Asked for when this runs, not when it is compiled: a checkout may have been moved since.
fn here() -> Result<PathBuf, String> {
    std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).ok_or_else(|| "cargo is to run this".to_owned())
}
