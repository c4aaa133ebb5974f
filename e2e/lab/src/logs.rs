//! `lab logs`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::{Lab, Target};

/// Prints logs: of a pod, of a node (its agent), of all agents (`agent`), of `supervisor`, of `wg`; of all of
/// them where nothing is said.
///
/// # Errors
/// Where there is no such log.
pub fn print(lab: &Lab, of: Option<&str>, follow: bool) -> Result<()> {
    let files = files(lab, of)?;
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1"]).args(follow.then_some("-F")).args(&files);
    let status = tail.status().context("run tail")?;
    if status.success() { Ok(()) } else { bail!("tail failed") }
}

fn files(lab: &Lab, of: Option<&str>) -> Result<Vec<PathBuf>> {
    let logs = lab.paths().logs();
    let beginning = match of {
        None => String::new(),
        Some(name @ ("agent" | "wg" | "supervisor")) => name.to_owned(),
        Some(text) => match lab.target(text)? {
            Target::Node(node) => format!("agent-{node}.log"),
            Target::Pod(key) => format!("{}.log", key.file_stem()),
            Target::Wire => bail!("the wire runs nothing"),
        },
    };
    let entries = std::fs::read_dir(&logs)?.filter_map(|entry| Some(entry.ok()?.path()));
    let name =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut files: Vec<PathBuf> = entries.filter(|path| name(path).starts_with(&beginning)).collect();
    files.sort();
    if files.is_empty() {
        bail!("no log in {} begins with {beginning:?}", logs.display());
    }
    Ok(files)
}
