//! iproute2 in batches: many commands, one process.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Commands for `ip -batch`, run in order; the first that fails ends the batch.
#[derive(Debug, Default)]
pub struct Batch {
    lines: Vec<String>,
}

impl Batch {
    /// Adds one command, without the leading `ip`.
    pub fn add(&mut self, line: impl Into<String>) -> &mut Self {
        self.lines.push(line.into());
        self
    }

    /// Runs all of them in the network namespace of that name.
    ///
    /// # Errors
    /// The command that failed and what `ip` said about it.
    pub fn run_in(&self, netns: &str) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut child = Command::new("ip")
            .args(["-netns", netns, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run `ip` (package iproute2)")?;
        let mut input = child.stdin.take().context("a pipe to ip")?;
        // A batch is smaller than a pipe, and an ip that ended early says why below.
        let _ = input.write_all((self.lines.join("\n") + "\n").as_bytes());
        drop(input);
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("in {netns}: {}: {}", self.failed(&said), said.trim().replace('\n', "; "))
    }

    /// `Command failed -:3` names a line by its number.
    fn failed(&self, said: &str) -> &str {
        let number = said.rsplit("Command failed -:").next().and_then(|n| n.trim().parse::<usize>().ok());
        number.and_then(|n| self.lines.get(n.checked_sub(1)?)).map_or("ip", String::as_str)
    }
}

/// Whether an interface of this name exists in the network namespace of that name.
#[must_use]
pub fn link_exists(netns: &str, interface: &str) -> bool {
    let shown = Command::new("ip")
        .args(["-netns", netns, "link", "show", "dev", interface])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    shown.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_failed_is_named() {
        let mut batch = Batch::default();
        batch.add("link add a type veth").add("link set b up");
        for (said, failed) in [
            ("Cannot find device \"b\"\nCommand failed -:2\n", "link set b up"),
            ("Error: argument\nCommand failed -:1", "link add a type veth"),
            ("Command failed -:9", "ip"),
            ("Cannot open network namespace", "ip"),
        ] {
            assert_eq!(batch.failed(said), failed, "{said}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_an_error() {
        let mut batch = Batch::default();
        assert!(batch.run_in("cs-labnone-none").is_ok(), "nothing to do");
        let error = batch.add("link show").run_in("cs-labnone-none").unwrap_err().to_string();
        assert!(error.contains("cs-labnone-none"), "{error}");
        assert!(!link_exists("cs-labnone-none", "lo"));
    }
}
