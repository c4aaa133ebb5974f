//! What a process costs.

use std::fs;

use anyhow::{Context as _, Result};

/// Resident memory of a process, in MiB.
///
/// # Errors
/// Where it has ended.
pub fn rss_mib(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Processor time a process has used, user and system.
///
/// # Errors
/// Where it has ended.
pub fn cpu_seconds(pid: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name may hold spaces and parentheses; what follows its last parenthesis does not.
    let (_, fields) = stat.rsplit_once(')').context("odd /proc/stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || -> Result<f64> { Ok(fields.next().context("short /proc/stat")?.parse()?) };
    let ticks = next()? + next()?;
    // USER_HZ is 100 on every architecture Linux runs on today.
    Ok(ticks / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(rss_mib(pid).unwrap() > 0.1);
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(rss_mib(i32::MAX).is_err());
    }
}
