//! What a guest consists of: a shell, the modules and programs it needs with their libraries, ours, and the
//! script.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Programs;
use super::cpio::Archive;
use super::fetch::Kernel;
use crate::setup::packages;
use crate::sh;

/// Of this machine.
const TOOLS: [&str; 8] = ["ip", "tc", "wg", "ping", "iperf3", "tcpdump", "nsenter", "unshare"];
/// What is used of the kernel, and may be a module of it.
const MODULES: [&str; 8] =
    ["wireguard", "veth", "tun", "vxlan", "sch_ingress", "cls_bpf", "af_packet", "sch_fq_codel"];
/// The guest's part.
const INIT: &str = "e2e/kernels/init";
const SCRIPT: &str = "e2e/kernels/guest.sh";

/// Writes the initramfs; returns where it is.
pub fn write(kernel: &Kernel, busybox: &Path, ours: &Programs, rekeys: u32) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.copy("bin/busybox", busybox)?;
    archive.copy("init", &sh::root().join(INIT))?;
    archive.copy("guest.sh", &sh::root().join(SCRIPT))?;
    archive.file("settings", format!("REKEYS={rekeys}\n").as_bytes());
    // tcpdump asks whose it is to be.
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n");
    archive.file("etc/group", b"root:x:0:\n");
    modules(&mut archive, kernel, busybox)?;
    let mut libraries = BTreeSet::new();
    // The shell's own would take its tools for the real ones.
    let shell = packages::find("sh").context("no sh on the path")?;
    add(&mut archive, "bin/sh", &shell, &mut libraries)?;
    for tool in TOOLS {
        let found = packages::find(tool).with_context(|| format!("no {tool} on the path"))?;
        add(&mut archive, &format!("usr/bin/{tool}"), &found, &mut libraries)?;
    }
    add(&mut archive, "usr/bin/countersign-wg", &ours.wg, &mut libraries)?;
    for (name, file) in &ours.tests {
        add(&mut archive, &format!("tests/{name}"), file, &mut libraries)?;
    }
    add(&mut archive, "managed/kernel", &ours.managed, &mut libraries)?;
    for library in &libraries {
        archive.copy(library.trim_start_matches('/'), Path::new(library))?;
    }
    let place = sh::target_dir().join("kernels");
    std::fs::create_dir_all(&place)?;
    let place = place.join(format!("{}.cpio", kernel.release));
    std::fs::write(&place, archive.finish()).with_context(|| place.display().to_string())?;
    Ok(place)
}

/// A program; the libraries it wants are noted.
fn add(archive: &mut Archive, place: &str, program: &Path, libraries: &mut BTreeSet<String>) -> Result<()> {
    archive.copy(place, program)?;
    let list = sh::output(sh::command("ldd", [program]).env("LC_ALL", "C"))?;
    libraries.extend(libraries_of(&list).map(str::to_owned));
    Ok(())
}

/// The files in the output of ldd.
fn libraries_of(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// The modules and what they depend on, numbered in the order they are loaded in.
fn modules(archive: &mut Archive, kernel: &Kernel, busybox: &Path) -> Result<()> {
    let dir = kernel.modules();
    let dependencies = std::fs::read_to_string(dir.join("modules.dep")).context("modules.dep")?;
    let builtin = std::fs::read_to_string(dir.join("modules.builtin")).context("modules.builtin")?;
    for (number, path) in load_order(&MODULES, &dependencies, &builtin)?.iter().enumerate() {
        let name = Path::new(path).file_name().context("a module is a file")?.to_string_lossy();
        let plain = name.trim_end_matches(".xz");
        let place = format!("modules/{number:02}-{plain}");
        let file = dir.join(path);
        if plain == name {
            archive.copy(&place, &file)?;
            continue;
        }
        let unpacked = std::process::Command::new(busybox).args(["xzcat"]).arg(&file).output()?;
        if !unpacked.status.success() {
            bail!("cannot unpack {}", file.display());
        }
        archive.file(&place, &unpacked.stdout);
    }
    Ok(())
}

/// The files of `modules`, each behind what it depends on. One that is part of the kernel needs none.
fn load_order(modules: &[&str], dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let named = |path: &str, module: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split(".ko").next().is_some_and(|name| name.replace('-', "_") == module)
    };
    let mut order: Vec<String> = Vec::new();
    for module in modules {
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| named(path, module));
        let Some((path, needs)) = line else {
            if builtin.lines().any(|path| named(path, module)) {
                continue;
            }
            bail!("the kernel has no module {module}");
        };
        // The nearest first; the farthest is to be loaded first.
        let chain = needs.split_whitespace().rev().chain([path]);
        for path in chain {
            if !order.iter().any(|there| there == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths() {
        let list = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(libraries_of(list).collect::<Vec<_>>(), ["/lib/libc.so.6", "/lib64/ld.so"]);
        assert_eq!(libraries_of("\tnot a dynamic executable\n").next(), None);
    }

    #[test]
    fn what_is_depended_on_comes_first() {
        let dep = "a/wire-guard.ko.xz: b/tunnel.ko.xz c/curve.ko\nb/tunnel.ko.xz: c/curve.ko\nc/curve.ko:\n";
        let order = load_order(&["wire_guard", "tunnel", "tun"], dep, "kernel/tun.ko\n").unwrap();
        assert_eq!(order, ["c/curve.ko", "b/tunnel.ko.xz", "a/wire-guard.ko.xz"]);
        assert!(load_order(&["veth"], dep, "").is_err());
    }
}
