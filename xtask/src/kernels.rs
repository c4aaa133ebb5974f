//! Other kernels than this machine's: Debian's, in virtual machines. In each, `e2e/kernels/guest.sh` holds
//! countersign-wg against the kernel's WireGuard, gives that into the manager's hands, and loads our eBPF programs.
//!
//! Whatever the guest needs is in its initramfs: no disk, no network, nothing of this machine is written.

mod cpio;
mod fetch;
mod guest;
mod image;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::setup::packages::{self, Need, need};
use crate::tally::Tally;
use crate::{build_ebpf, sh};

use fetch::Kernel;

/// The packages that name the newest kernel of each kind.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

const NEEDS: &[Need] = &[
    need("qemu-system-x86", "qemu-system-x86_64", "runs other kernels"),
    need("wireguard-tools", "wg", "configures both sides"),
    need("iproute2", "ip", "the guest's namespaces"),
    need("iputils-ping", "ping", "packets that are counted"),
    need("iperf3", "iperf3", "streams"),
    need("tcpdump", "tcpdump", "counts who begins handshakes"),
    need("util-linux", "nsenter", "enters namespaces"),
];

/// What a guest takes without waiting for rekeys, on a machine that does much besides; and for each rekey.
const LIMIT: Duration = Duration::from_secs(600);
const LIMIT_PER_REKEY: Duration = Duration::from_secs(180);

/// Boots every kernel, all at once, and says how it went; the last line counts.
pub fn run(rekeys: u32) -> Result<()> {
    let tally = test(rekeys)?;
    println!("{tally}");
    if tally.failed > 0 {
        // The lines above say it all; an error of anyhow's would come after the tally.
        std::process::exit(1);
    }
    Ok(())
}

fn test(rekeys: u32) -> Result<Tally> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernels' virtual machines are x86-64, as this machine has to be");
    }
    println!("kernels    packages {}", packages::ensure_all(NEEDS)?);
    let kernels: Vec<Kernel> = KERNELS.into_iter().map(fetch::kernel).collect::<Result<_>>()?;
    let busybox = fetch::busybox()?;
    let programs = programs()?;
    let limit = LIMIT + LIMIT_PER_REKEY * rekeys;
    let boot = |kernel: &Kernel| -> Result<Tally> {
        let image = image::write(kernel, &busybox, &programs, rekeys)?;
        let start = Instant::now();
        let tally = guest::run(kernel, &image, limit)?;
        println!("{:<28} {:>5.0} s  {tally}", kernel.release, start.elapsed().as_secs_f64());
        Ok(tally)
    };
    let mut sum = Tally::default();
    for result in at_once(&kernels, boot) {
        sum += result?;
    }
    Ok(sum)
}

/// Most of a guest's time is waiting for a rekey: they wait together.
fn at_once<T: Send>(kernels: &[Kernel], task: impl Fn(&Kernel) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = kernels.iter().map(|kernel| scope.spawn(|| task(kernel))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// Ours: built now.
struct Programs {
    wg: PathBuf,
    /// The loader's tests, by name.
    tests: Vec<(String, PathBuf)>,
    /// The manager's, with the kernel's WireGuard.
    managed: PathBuf,
}

fn programs() -> Result<Programs> {
    build_ebpf::run()?;
    sh::run(&mut sh::cargo(["build", "--release", "--package", "countersign-wg", "--bins"]))?;
    let tests = tests_of(&["--package", LOADER, "--tests"])?;
    let managed = tests_of(&["--package", "countersign-wg", "--test", "kernel"])?.remove(0).1;
    Ok(Programs { wg: sh::binary("countersign-wg"), tests, managed })
}

const LOADER: &str = "countersign-ebpf-loader";

/// Test programs, built now: at least one.
fn tests_of(which: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = sh::cargo(["test", "--release", "--no-run", "--message-format=json"]);
    let messages = sh::output(cargo.args(which))?;
    let tests: Vec<_> = messages.lines().filter_map(test_of_message).collect();
    if tests.is_empty() {
        bail!("cargo names no test program for {}", which.join(" "));
    }
    Ok(tests)
}

/// The test program that one of cargo's messages is about: its name and file. Unit tests need no kernel.
fn test_of_message(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    let kind = target.get("kind")?.as_array()?;
    let name = target.get("name")?.as_str()?;
    let file = message.get("executable")?.as_str()?;
    kind.iter().any(|kind| kind == "test").then(|| (name.to_owned(), file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_in_cargos_messages() {
        let of = |kind: &str, executable: &str| {
            format!(r#"{{"target":{{"kind":["{kind}"],"name":"load"}},"executable":{executable}}}"#)
        };
        let found = test_of_message(&of("test", r#""/t/load-1""#));
        assert_eq!(found, Some(("load".to_owned(), "/t/load-1".into())));
        assert_eq!(test_of_message(&of("lib", r#""/t/load-1""#)), None);
        assert_eq!(test_of_message(&of("test", "null")), None);
        assert_eq!(test_of_message("warning: not JSON"), None);
    }
}
