//! Packages of the distribution: the few that are needed, each with its reason.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Result, bail};

use crate::sh;

/// What is needed from outside, found by the program it brings.
pub struct Need {
    package: &'static str,
    /// A file that shows it is there: a program on the path, or an absolute path.
    shown_by: &'static str,
    reason: &'static str,
}

/// A need.
pub const fn need(package: &'static str, shown_by: &'static str, reason: &'static str) -> Need {
    Need { package, shown_by, reason }
}

const NEEDS: &[Need] = &[
    need("gcc", "cc", "links what cargo builds, and compiles aws-lc"),
    need("libc6-dev", "/usr/include/stdio.h", "the headers aws-lc includes"),
    need("iproute2", "ip", "the lab's links, addresses and routes"),
    need("iputils-ping", "ping", "ICMP in the lab"),
    need("curl", "curl", "the demo's story"),
    need("wireguard-tools", "wg", "shows that countersign-wg speaks what every tool speaks"),
    need("tcpdump", "tcpdump", "listens on the lab's wire while tests and benchmarks run"),
    need("iptables", "iptables-legacy-restore", "a list of rules to measure beside"),
    need("nftables", "nft", "another"),
    need("iperf3", "iperf3", "streams through the tunnel in tests and benchmarks"),
    need("ncat", "ncat", "WireGuard's own script sends datagrams with it"),
    need("util-linux", "nsenter", "enters the lab's namespaces"),
];

/// Installs what is missing of what every task needs.
pub fn ensure() -> Result<String> {
    ensure_all(NEEDS)
}

/// Installs what is missing.
pub fn ensure_all(needs: &[Need]) -> Result<String> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !present(need.shown_by)).collect();
    if missing.is_empty() {
        return Ok(format!("{} present", needs.len()));
    }
    for need in &missing {
        println!("setup      {} is missing: {}", need.package, need.reason);
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    install(&names)?;
    Ok(format!("installed {}", names.join(" ")))
}

/// Whether `what` is a program on the path, or a file.
fn present(what: &str) -> bool {
    if what.starts_with('/') {
        return Path::new(what).exists();
    }
    find(what).is_some()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's path often lacks the directories of the administrator's programs.
    let extra = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.exists())
}

/// Those of `packages` that dpkg does not have installed.
pub fn not_installed(packages: &[String]) -> Vec<String> {
    let mut query = sh::command("dpkg-query", ["-W", "-f", "${Package} ${db:Status-Status}\n"]);
    // dpkg-query fails when it does not know one of them, and prints the others all the same.
    let output = query.args(packages).stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    packages.iter().filter(|package| !installed.contains(package.as_str())).cloned().collect()
}

/// Whether apt could install every one of `packages`.
pub fn available(packages: &[String]) -> bool {
    packages.iter().all(|package| {
        let policy =
            sh::ask(sh::command("apt-cache", ["policy", package]).env("LC_ALL", "C")).unwrap_or_default();
        policy
            .lines()
            .any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
    })
}

/// Reads the package lists anew, once in a run. A list that cannot be read is no error yet: what is wanted may
/// be in the lists there are.
pub fn refresh() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        println!("setup      apt-get update");
        if let Err(error) = sh::run(&mut as_root("apt-get", &["update", "-qq"])) {
            println!("setup      {error}; going on with the lists there are");
        }
    });
}

/// Installs `packages` with apt, without questions.
pub fn install<S: AsRef<str>>(packages: &[S]) -> Result<()> {
    let names: Vec<&str> = packages.iter().map(AsRef::as_ref).collect();
    if !present("apt-get") {
        bail!("there is no apt-get here; install what these packages of Debian hold: {}", names.join(" "));
    }
    refresh();
    println!("setup      apt-get install {}", names.join(" "));
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&names);
    sh::run(as_root("apt-get", &arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn as_root(program: &str, arguments: &[&str]) -> Command {
    let root = sh::ask(&mut sh::command("id", ["-u"])).is_some_and(|id| id == "0");
    if root {
        return sh::command(program, arguments);
    }
    sh::command("sudo", ["--preserve-env=DEBIAN_FRONTEND", program].iter().chain(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_is_a_program_or_a_file() {
        assert!(present("sh") && present("/etc/passwd"));
        assert!(!present("no-such-program-here") && !present("/no/such/file"));
    }

    #[test]
    fn a_package_nobody_knows_is_not_installed() {
        let unknown = vec!["no-such-package-here".to_owned()];
        assert_eq!(not_installed(&unknown), unknown);
        assert!(!available(&unknown));
    }
}
