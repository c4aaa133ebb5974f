//! Rust's parts: rustfmt and clippy, a compiler that can build `core` for BPF, and the linker for its output.
//!
//! Building `core` needs its source and an unlocked compiler. The ordinary one is a nightly with `rust-src`;
//! where rustup cannot fetch that, Debian's `rustc-web` with `rust-web-src` does the same. Whichever it is, a
//! rustup toolchain called `bpf` is linked to it, and the build names only that.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::packages;
use crate::sh;

/// The rustup toolchain that builds the eBPF programs.
const TOOLCHAIN: &str = "bpf";
/// The linker's version that was tried.
const LINKER_VERSION: &str = "0.13.0";
/// LLVM majors that version can be built against.
const LINKER_LLVM: &[u32] = &[21, 22, 23];
/// Debian's compiler and its source.
const DEBIAN: &[&str] = &["rustc-web", "rust-web-src"];

/// rustfmt and clippy.
pub fn ensure_components() -> Result<String> {
    let missing: Vec<&str> = ["fmt", "clippy"]
        .into_iter()
        .filter(|tool| sh::ask(&mut sh::cargo([*tool, "--version"])).is_none())
        .map(|tool| if tool == "fmt" { "rustfmt" } else { tool })
        .collect();
    if missing.is_empty() {
        return Ok("rustfmt and clippy present".to_owned());
    }
    println!("setup      rustup component add {}", missing.join(" "));
    sh::run(&mut sh::command("rustup", ["component", "add"].iter().chain(&missing)))?;
    Ok(format!("added {}", missing.join(" ")))
}

/// The toolchain `bpf`: linked if it is not there, to a compiler installed if there is none.
pub fn ensure_ebpf_compiler() -> Result<String> {
    if has_core(TOOLCHAIN) {
        return Ok(format!("{} present", version()));
    }
    if let Some(nightly) = nightly_with_source() {
        return link(&sysroot(&nightly).unwrap_or_default());
    }
    let debian: Vec<String> = DEBIAN.iter().map(|&name| name.to_owned()).collect();
    if packages::not_installed(&debian).is_empty() {
        return link(Path::new("/usr"));
    }
    packages::refresh();
    if packages::available(&debian) {
        packages::install(&debian)?;
        return link(Path::new("/usr"));
    }
    install_nightly()
}

/// Fetches a nightly with its source.
fn install_nightly() -> Result<String> {
    println!("setup      rustup toolchain install nightly --component rust-src");
    let arguments = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
    if let Err(error) = sh::run(&mut sh::command("rustup", arguments)) {
        bail!(
            "{error}\nThe eBPF programs need a compiler with the source of `core`. Neither the packages {} (Debian 12 \
             with its security archive has them) nor a nightly with rust-src could be installed. Install either, \
             or link one yourself: rustup toolchain link {TOOLCHAIN} /path/to/its/sysroot",
            DEBIAN.join(" and ")
        );
    }
    link(&sysroot("nightly").unwrap_or_default())
}

fn link(sysroot: &Path) -> Result<String> {
    let path = sysroot.to_string_lossy().into_owned();
    sh::run(&mut sh::command("rustup", ["toolchain", "link", TOOLCHAIN, &path]))?;
    if !has_core(TOOLCHAIN) {
        bail!("the compiler in {path} has no source of `core` (lib/rustlib/src/rust/library/core)");
    }
    Ok(format!("{} linked from {path}", version()))
}

/// An installed nightly that has the source of `core`.
fn nightly_with_source() -> Option<String> {
    let list = sh::ask(&mut sh::command("rustup", ["toolchain", "list"]))?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with("nightly")).find(|name| has_core(name)).map(str::to_owned)
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    let plus = format!("+{toolchain}");
    sh::ask(&mut sh::command("rustc", [plus.as_str(), "--print", "sysroot"])).map(PathBuf::from)
}

fn has_core(toolchain: &str) -> bool {
    sysroot(toolchain).is_some_and(|root| root.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
}

fn version() -> String {
    sh::ask(&mut sh::command("rustc", ["+bpf", "--version"])).unwrap_or_else(|| "a rustc".to_owned())
}

/// `bpf-linker`, built against an LLVM that reads what the compiler writes.
pub fn ensure_linker() -> Result<String> {
    if let Some(version) = sh::ask(&mut sh::command("bpf-linker", ["--version"])) {
        return Ok(format!("{version} present"));
    }
    let verbose = sh::ask(&mut sh::command("rustc", ["+bpf", "-vV"])).unwrap_or_default();
    let Some(written) = llvm_major(&verbose) else { bail!("rustc +bpf -vV names no LLVM version") };
    packages::refresh();
    let Some(llvm) = readers(written).find(|&llvm| packages::available(&linker_packages(llvm))) else {
        bail!(
            "bpf-linker must be built against LLVM {written} or newer, and none of llvm-{{21,22,23}}-dev that is can be \
             installed here. Take a package source that has one (apt.llvm.org, or Debian's security archive), or \
             install a released bpf-linker: https://github.com/aya-rs/bpf-linker#installation"
        );
    };
    let missing = packages::not_installed(&linker_packages(llvm));
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    install_linker(llvm)?;
    Ok(format!("{LINKER_VERSION} built against LLVM {llvm}"))
}

fn install_linker(llvm: u32) -> Result<()> {
    println!("setup      cargo install bpf-linker {LINKER_VERSION} (about a minute)");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let feature = format!("llvm-{llvm}");
    let path = format!("{prefix}/bin:{}", std::env::var("PATH").unwrap_or_default());
    let mut command =
        sh::cargo(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet"]);
    command.args(["--no-default-features", "--features", &feature]);
    sh::run(command.env("LLVM_PREFIX", prefix).env("PATH", path))
}

/// What building the linker against this LLVM takes: LLVM itself, and the libraries LLVM was built with.
fn linker_packages(llvm: u32) -> Vec<String> {
    let of_llvm = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    of_llvm.into_iter().chain(["libzstd-dev", "zlib1g-dev", "g++"].map(str::to_owned)).collect()
}

/// LLVM versions that read the bitcode of version `written`, nearest first.
fn readers(written: u32) -> impl Iterator<Item = u32> {
    LINKER_LLVM.iter().copied().filter(move |&llvm| llvm >= written)
}

/// The LLVM major in the output of `rustc -vV`.
fn llvm_major(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_reads_what_the_compiler_writes() {
        let verbose = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(verbose), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
        assert_eq!(readers(22).collect::<Vec<_>>(), [22, 23]);
        assert_eq!(readers(19).next(), Some(21));
        assert_eq!(readers(24).next(), None);
    }
}
