//! The real peers of the tests, built from their Go modules into a cache outside the tree, by version: once a
//! machine, not once a clone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::packages::{self, Need, need};
use crate::{cache, sh};

/// A Go module that holds the tools of one peer.
struct Peer {
    /// The directory of its go.mod.
    module: &'static str,
    /// What names its version: the module that the tools are of.
    of: &'static str,
    /// Its name in the cache.
    name: &'static str,
    /// The packages that are its programs.
    programs: &'static [&'static str],
    /// Files of the module `of` that are wanted as they are.
    files: &'static [&'static str],
    /// How long it takes.
    time: &'static str,
}

const PEERS: &[Peer] = &[
    Peer {
        module: "e2e/peers/spire",
        of: "github.com/spiffe/spire",
        name: "spire",
        programs: &["github.com/spiffe/spire/cmd/spire-server", "github.com/spiffe/spire/cmd/spire-agent"],
        files: &[],
        time: "about 7 minutes on two cores, once",
    },
    Peer {
        module: "e2e/peers/wireguard",
        of: "golang.zx2c4.com/wireguard",
        name: "wireguard-go",
        programs: &["golang.zx2c4.com/wireguard"],
        // What every implementation in user space can be held against.
        files: &["tests/netns.sh"],
        time: "some seconds, once",
    },
    Peer {
        module: "e2e/peers/kubernetes",
        of: "k8s.io/kubernetes",
        name: "kubernetes",
        programs: &["k8s.io/kubernetes/cmd/kube-apiserver"],
        files: &[],
        time: "about 5 minutes on two cores, once",
    },
];

/// What the peers need beside them.
const NEEDS: &[Need] = &[need("etcd-server", "etcd", "where kube-apiserver keeps its objects")];

/// A program of others in Rust, that benchmarks measure beside ours.
struct Crate {
    name: &'static str,
    version: &'static str,
    /// Its name in the cache, and that of its program.
    place: &'static str,
    program: &'static str,
}

const CRATES: &[Crate] = &[
    Crate { name: "boringtun-cli", version: "0.7.1", place: "boringtun", program: "boringtun-cli" },
    Crate { name: "gotatun-cli", version: "0.10.2", place: "gotatun", program: "gotatun" },
];

/// Builds what is missing.
pub fn run(benchmarks: bool) -> Result<()> {
    println!("peers      packages: {}", packages::ensure_all(NEEDS)?);
    for peer in PEERS {
        println!("{}", ensure(peer)?);
    }
    for one in CRATES.iter().filter(|_| benchmarks) {
        println!("{}", install(one)?);
    }
    Ok(())
}

/// Builds the program of a crate, as the registry has it.
fn install(one: &Crate) -> Result<String> {
    let Crate { name, version, place, program } = one;
    let peers = cache::dir()?.join("peers");
    let there = peers.join(format!("{place}-{version}"));
    if there.join(program).is_file() {
        return Ok(format!("peers      {place} {version} present"));
    }
    println!("peers      cargo install {name} (about 2 minutes on two cores, once)");
    let unfinished = peers.join(format!(".{place}-{}", std::process::id()));
    let mut cargo = sh::cargo(["install", "--quiet", "--locked", "--version", version, name, "--root"]);
    sh::run(cargo.arg(&unfinished))?;
    if there.exists() {
        std::fs::remove_dir_all(&there)?;
    }
    std::fs::rename(unfinished.join("bin"), &there)
        .with_context(|| format!("put it into {}", there.display()))?;
    std::fs::remove_dir_all(&unfinished)?;
    Ok(format!("peers      {place} {version} built into {}", there.display()))
}

fn ensure(peer: &Peer) -> Result<String> {
    let module = sh::root().join(peer.module);
    let manifest = std::fs::read_to_string(module.join("go.mod")).context(peer.module)?;
    let version = version(&manifest, peer.of).with_context(|| format!("{}: no {}", peer.module, peer.of))?;
    let place = cache::dir()?.join("peers").join(format!("{}-{version}", peer.name));
    let programs: Vec<PathBuf> = peer
        .programs
        .iter()
        .filter_map(|path| path.rsplit('/').next())
        .chain(peer.files.iter().filter_map(|path| path.rsplit('/').next()))
        .map(|name| place.join(name))
        .collect();
    if programs.iter().all(|program| program.is_file()) {
        return Ok(format!("peers      {} {version} present", peer.name));
    }
    build(peer, &module, &place).with_context(|| format!("building {} {version}", peer.name))?;
    Ok(format!("peers      {} {version} built into {}", peer.name, place.display()))
}

/// Into a directory beside it first: a build that was interrupted leaves nothing that looks complete.
fn build(peer: &Peer, module: &Path, place: &Path) -> Result<()> {
    if sh::ask(&mut sh::command("go", ["version"])).is_none() {
        bail!("Go is needed, 1.26 or later: https://go.dev/doc/install");
    }
    println!("peers      go build {} ({})", peer.programs.join(" "), peer.time);
    let parent = place.parent().context("the cache has a directory")?;
    std::fs::create_dir_all(parent)?;
    let unfinished = parent.join(format!(".{}-{}", peer.name, std::process::id()));
    let mut go = Command::new("go");
    go.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(format!("{}/", unfinished.display()));
    go.args(peer.programs).current_dir(module).env("CGO_ENABLED", "1");
    sh::run(&mut go)?;
    for file in peer.files {
        copy(peer, module, file, &unfinished).with_context(|| format!("{file} of {}", peer.of))?;
    }
    if place.exists() {
        std::fs::remove_dir_all(place)?;
    }
    std::fs::rename(&unfinished, place).with_context(|| format!("put it into {}", place.display()))
}

/// A file of the module's source, which is in Go's cache by now.
fn copy(peer: &Peer, module: &Path, file: &str, into: &Path) -> Result<()> {
    let mut go = sh::command("go", ["list", "-m", "-f", "{{.Dir}}", peer.of]);
    let source = sh::ask(go.current_dir(module)).context("the module is not there")?;
    let name = Path::new(file).file_name().context("a directory")?;
    let text = std::fs::read(Path::new(source.trim()).join(file))?;
    // Go's cache is read-only; a copy need not be.
    Ok(std::fs::write(into.join(name), text)?)
}

/// The version of `module` in a go.mod, without its `v`.
fn version(manifest: &str, module: &str) -> Option<String> {
    let mut words =
        manifest.lines().map(|line| line.trim().trim_start_matches("require ").split_whitespace());
    words.find_map(|mut words| {
        (words.next() == Some(module)).then(|| words.next()).flatten()?.strip_prefix('v').map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_manifest() {
        let manifest = "module x\n\nrequire (\n\tgithub.com/spiffe/spire v1.15.3 // indirect\n)\n";
        assert_eq!(version(manifest, "github.com/spiffe/spire").as_deref(), Some("1.15.3"));
        assert_eq!(version("require a/b v2.0.0\n", "a/b").as_deref(), Some("2.0.0"));
        assert_eq!(version(manifest, "github.com/spiffe/spire-api-sdk"), None);
    }

    #[test]
    fn tests_look_for_the_versions_that_are_built() {
        let read = |path: &str| std::fs::read_to_string(sh::root().join(path)).unwrap();
        let built = |peer, of| version(&read(&format!("e2e/peers/{peer}/go.mod")), of).unwrap();
        let spire = built("spire", "github.com/spiffe/spire");
        assert!(read("e2e/lab/src/spire.rs").contains(&format!("VERSION: &str = \"{spire}\"")), "{spire}");
        let kubernetes = built("kubernetes", "k8s.io/kubernetes");
        let support = read("spire-integration/registrar/tests/support/kubernetes.rs");
        assert!(support.contains(&format!("VERSION: &str = \"{kubernetes}\"")), "{kubernetes}");
    }
}
