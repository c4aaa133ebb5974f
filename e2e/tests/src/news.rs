//! What a node hears of the cluster, and when.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::world::World;

/// A node whose agent hears nothing new of the cluster: it sees copies of what it says. Nothing else is cut.
#[derive(Debug)]
pub struct Frozen {
    pid: String,
    directories: Vec<std::path::PathBuf>,
    _copies: TempDir,
}

/// Cuts the agent of `node` off from the cluster's news.
///
/// # Errors
/// Where its mounts cannot be changed.
pub fn freeze(world: &World, node: &str) -> Result<Frozen> {
    let copies = tempfile::tempdir()?;
    let pid = world.agent_pid(node)?.to_string();
    let paths = world.lab().paths();
    let mut directories = Vec::new();
    for (name, directory) in [("manifests", paths.manifests()), ("status", paths.status())] {
        let (directory, copy) = (directory.canonicalize()?, copies.path().join(name));
        run(Command::new("cp").arg("-rL").arg(&directory).arg(&copy))?;
        run(Command::new("nsenter").args(["-m", "-t", &pid, "mount", "--bind"]).arg(&copy).arg(&directory))?;
        directories.push(directory);
    }
    Ok(Frozen { pid, directories, _copies: copies })
}

impl Frozen {
    /// Lets it see everything again; it looks at least once a second.
    ///
    /// # Errors
    /// Where its mounts cannot be changed.
    pub fn thaw(self) -> Result<()> {
        let enter = |directory| {
            let mut command = Command::new("nsenter");
            command.args(["-m", "-t", &self.pid, "umount", "-l"]).arg(directory);
            run(&mut command)
        };
        self.directories.iter().try_for_each(enter)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
