//! Debian's packages, unpacked into the cache by version; none is installed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::setup::packages;
use crate::{cache, sh};

/// A kernel with its modules.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    dir: PathBuf,
}

impl Kernel {
    /// What is booted.
    pub fn image(&self) -> PathBuf {
        self.dir.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Where its modules are, with `modules.dep`.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }
}

/// The kernel that the package `newest` depends on.
pub fn kernel(newest: &str) -> Result<Kernel> {
    let depends = ask(&["depends", newest])?;
    let package = image_of(&depends).with_context(|| format!("{newest} names no kernel"))?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let busybox = busybox()?;
    let dir = ensure(package, |dir| {
        // The package leaves that to its installation.
        let modules = dir.join("lib/modules");
        sh::run(sh::command("env", ["--"]).arg(&busybox).args(["depmod", "-b"]).arg(dir).arg(&release))
            .with_context(|| format!("the modules in {}", modules.display()))
    })?;
    Ok(Kernel { release, dir })
}

/// A shell and its tools in one file.
pub fn busybox() -> Result<PathBuf> {
    Ok(ensure("busybox-static", |_| Ok(()))?.join("bin/busybox"))
}

/// The package's files, from the cache or downloaded into it; `finish` completes them.
fn ensure(package: &str, finish: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let described = ask(&["show", "--no-all-versions", package])?;
    let version = described.lines().find_map(|line| line.strip_prefix("Version: "));
    let version = version.with_context(|| format!("{package} has no version"))?;
    let kernels = cache::dir()?.join("kernels");
    let place = kernels.join(format!("{package}_{version}"));
    if place.is_dir() {
        return Ok(place);
    }
    println!("kernels    apt-get download {package}={version}");
    // Beside it first: what was interrupted leaves nothing that looks complete.
    let unfinished = kernels.join(format!(".{package}-{}", std::process::id()));
    std::fs::create_dir_all(&unfinished)?;
    let exact = format!("{package}={version}");
    // A cache in a home directory is closed to apt's own user.
    let options = ["download", "-qq", "-o", "APT::Sandbox::User=root", &exact];
    sh::run(sh::command("apt-get", options).current_dir(&unfinished))?;
    let archive = only_file(&unfinished)?;
    sh::run(sh::command("dpkg-deb", ["-x"]).arg(&archive).arg(&unfinished))?;
    std::fs::remove_file(archive)?;
    finish(&unfinished)?;
    std::fs::rename(&unfinished, &place).with_context(|| format!("put it into {}", place.display()))?;
    Ok(place)
}

/// What apt-cache answers; asked again with new lists if it knows nothing.
fn ask(words: &[&str]) -> Result<String> {
    let once = || sh::ask(sh::command("apt-cache", words).env("LC_ALL", "C")).filter(|text| !text.is_empty());
    if let Some(answer) = once() {
        return Ok(answer);
    }
    packages::refresh();
    match once() {
        Some(answer) => Ok(answer),
        None => bail!("apt-cache {} answers nothing: it takes Debian 12 or later", words.join(" ")),
    }
}

/// The kernel's package among the dependencies of the one that follows it.
fn image_of(depends: &str) -> Option<&str> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with("linux-image-"))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut files = std::fs::read_dir(dir)?;
    files.next().context("nothing was downloaded")?.map(|entry| entry.path()).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_a_dependency() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(image_of(depends), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(image_of("linux-image-cloud-amd64\n  Suggests: linux-image-x\n"), None);
    }
}
