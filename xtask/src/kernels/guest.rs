//! A virtual machine from boot to end: its console is what it has to say.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::fetch::Kernel;
use crate::sh;
use crate::tally::Tally;

/// A panic ends the machine; the console is for the checks. An emulated processor may stand still for a while,
/// which is nobody's fault: timers are not doubted, and nobody watches for it.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet loglevel=1 panic=-1 panic_on_oops=1 no_timer_check \
                                nowatchdog rcupdate.rcu_cpu_stall_suppress=1";
const MEMORY: &str = "1536M";

/// Boots it, passes on what it says, and counts. A guest that ends before its last line, or does not end within
/// `limit`, has failed.
pub fn run(kernel: &Kernel, image: &Path, limit: Duration) -> Result<Tally> {
    let mut command = qemu(kernel, image);
    let mut child = command.spawn().with_context(|| sh::line(&command))?;
    let lines = lines_of(&mut child)?;
    let mut report = Report::default();
    let end = Instant::now() + limit;
    let why = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{:<8} {line}", series(&kernel.release));
                report.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => break Some(format!("not done after {} s", limit.as_secs())),
        }
    };
    // What hangs is ended; what has ended is collected.
    let _ = child.kill();
    child.wait()?;
    let failure = why.or_else(|| report.complete().err());
    if let Some(why) = failure {
        println!("{:<8} FAIL guest {why}", series(&kernel.release));
        report.tally += Tally::ONE_FAILURE;
    }
    Ok(report.tally)
}

/// Emulated on every machine: a KVM that opens and then does not run (as nested ones may) would look like a
/// guest that hangs.
fn qemu(kernel: &Kernel, image: &Path) -> Command {
    let mut command = sh::command("qemu-system-x86_64", ["-accel", "tcg", "-cpu", "max"]);
    command.args(["-smp", "2", "-m", MEMORY, "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "stdio", "-append", KERNEL_ARGUMENTS, "-kernel"]);
    command.arg(kernel.image()).arg("-initrd").arg(image).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Its lines, as they come; a thread of its own waits for them.
fn lines_of(child: &mut Child) -> Result<Receiver<String>> {
    let stdout = child.stdout.take().context("the child has no standard output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

/// `6.1` of `6.1.0-56-cloud-amd64`.
fn series(release: &str) -> &str {
    let dots = release.match_indices('.').map(|(at, _)| at);
    release.get(..dots.into_iter().nth(1).unwrap_or(release.len())).unwrap_or(release)
}

/// What the guest has said so far.
#[derive(Default)]
struct Report {
    tally: Tally,
    checks: u64,
    /// How many it says there were.
    end: Option<u64>,
}

impl Report {
    fn line(&mut self, line: &str) {
        if line.starts_with("ok ") {
            self.checks += 1;
            self.tally += Tally { passed: 1, failed: 0 };
        } else if line.starts_with("FAIL ") {
            self.checks += 1;
            self.tally += Tally::ONE_FAILURE;
        } else if let Some(count) = line.strip_prefix("end ") {
            self.end = count.parse().ok();
        }
    }

    /// Whether it came to its end, and every check has said how it ended.
    fn complete(&self) -> Result<(), String> {
        match self.end {
            Some(0) => Err("it has checked nothing".to_owned()),
            Some(end) if end == self.checks => Ok(()),
            Some(end) => Err(format!("{end} checks, and {} results", self.checks)),
            None => Err("it ended before its checks did".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::default();
        lines.iter().for_each(|line| report.line(line));
        report
    }

    #[test]
    fn checks_are_counted_and_all_have_to_be_there() {
        let whole = report(&["kernel 6.1", "ok a 1 Mbit/s", "    ok", "FAIL b lost", "end 2"]);
        assert_eq!((whole.tally, whole.complete()), (Tally { passed: 1, failed: 1 }, Ok(())));
        assert!(report(&["ok a"]).complete().is_err());
        assert!(report(&["ok a", "end 2"]).complete().is_err());
        assert!(report(&["end 0"]).complete().is_err());
    }

    #[test]
    fn kernels_are_called_by_their_series() {
        assert_eq!(series("6.1.0-56-cloud-amd64"), "6.1");
        assert_eq!(series("6.12.117+deb12-cloud-amd64"), "6.12");
        assert_eq!(series("7"), "7");
    }
}
