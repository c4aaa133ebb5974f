//! Builds the eBPF programs into the object that `ebpf/loader` embeds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::sh;

/// Where the object goes, from the root of the workspace.
const OBJECT: &str = "target/bpf/countersign.bpf.o";
/// What the object is made of.
const SOURCES: [&str; 3] = ["ebpf/programs", "ebpf/common", "xtask/src/build_ebpf.rs"];
/// Debug information becomes BTF, which the kernel's verifier and `bpftool` read. The third instruction set is
/// in every kernel since 5.12, and compares 32 bits without shifting. Copies in whatever order are loads and
/// stores; in order, they become calls of a loop over bytes.
const RUSTFLAGS: &str = "-C debuginfo=2 -C panic=abort -C target-cpu=v3 -C link-arg=--btf -C link-arg=-O3 \
                         -C link-arg=--disable-expand-memcpy-in-order";
const TARGET: &str = "bpfel-unknown-none";
/// What cargo and rustup tell their children, and the other compiler must not hear.
const INHERITED: [&str; 6] =
    ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"];

/// Builds the object if a source is newer than it. The object is touched only if its bytes change, so that
/// nothing that embeds it is built again for nothing.
pub fn run() -> Result<()> {
    let root = sh::root();
    let object = root.join(OBJECT);
    let stamp = object.with_extension("stamp");
    if object.exists() && modified(&stamp) >= newest(&root)? {
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    println!("building the eBPF programs with the toolchain `{}`", toolchain.name());
    toolchain.build(&root.join("ebpf/programs"))?;
    let built = root.join("ebpf/programs/target").join(TARGET).join("release/countersign");
    install(&built, &object)?;
    fs::write(&stamp, toolchain.name())?;
    Ok(())
}

fn install(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("reading {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let dir = object.parent().context("the object has no directory")?;
    fs::create_dir_all(dir)?;
    // Renamed into place: a build that runs at the same time reads the old one or the new one.
    let part = object.with_extension("part");
    fs::write(&part, bytes)?;
    fs::rename(&part, object)?;
    Ok(())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn newest(root: &Path) -> Result<Option<SystemTime>> {
    let mut newest = None;
    let mut pending: Vec<PathBuf> = SOURCES.iter().map(|source| root.join(source)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != "tests") {
                let entries = fs::read_dir(&path)?;
                pending.extend(entries.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.path()));
            }
        } else {
            newest = newest.max(modified(&path));
        }
    }
    Ok(newest)
}

/// A compiler with the sources of `core`, which the target has no ready-made build of.
enum Toolchain {
    /// The one that `setup` linked as `bpf`, and built bpf-linker for.
    Linked,
    /// A nightly that rustup has fetched, with its rust-src.
    Nightly,
}

impl Toolchain {
    fn find() -> Result<Self> {
        if has_sources("bpf") {
            return Ok(Self::Linked);
        }
        if has_sources("nightly") {
            return Ok(Self::Nightly);
        }
        bail!(
            "no compiler for eBPF: `make setup` finds or installs one; by hand, `rustup toolchain install nightly --component rust-src`, or install \
             rustc 1.96 or later with its sources from your distribution and `rustup toolchain link bpf /usr`"
        )
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Linked => "bpf",
        }
    }

    fn build(&self, programs: &Path) -> Result<()> {
        let mut command = Command::new("cargo");
        // Ours is a rustup proxy's child: its choices must not reach that build.
        for inherited in INHERITED {
            command.env_remove(inherited);
        }
        command
            .current_dir(programs)
            .arg(format!("+{}", self.name()))
            .args(["build", "--release", "-Z", "build-std=core", "--target", TARGET])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", RUSTFLAGS)
            .env("PATH", search_path());
        sh::run(&mut command).context("building the eBPF programs (is bpf-linker installed?)")
    }
}

fn has_sources(toolchain: &str) -> bool {
    let output = Command::new("rustc")
        .env_remove("RUSTUP_TOOLCHAIN")
        .args([&format!("+{toolchain}"), "--print", "sysroot"])
        .output();
    let Ok(output) = output else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").exists()
}

/// The linker loads LLVM's library; distributions keep it in a directory of its own.
fn search_path() -> OsString {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib").map_or_else(
        |_| Vec::new(),
        |entries| entries.flatten().map(|entry| entry.path()).filter(|path| is_llvm(path)).collect(),
    );
    versions.sort();
    paths.extend(versions.into_iter().rev().map(|path| path.join("bin")));
    let old = env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = env::split_paths(&old).chain(paths).collect();
    env::join_paths(all).unwrap_or(old)
}

fn is_llvm(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
}
