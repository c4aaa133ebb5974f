//! Running other programs: one place that says what was run, and what it answered.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The workspace's root directory.
pub fn root() -> PathBuf {
    // Where cargo runs the task from the source tree; a copied binary works from the current directory.
    let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    from_cargo.and_then(|dir| dir.parent().map(Path::to_path_buf)).unwrap_or_else(|| PathBuf::from("."))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The path of a release binary of this workspace.
pub fn binary(name: &str) -> PathBuf {
    target_dir().join("release").join(name)
}

/// `cargo` with `args`, run in the workspace's root.
pub fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Command {
    command("cargo", args)
}

/// `program` with `args`, run in the workspace's root.
pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(program: &str, args: I) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    // Cargo tells its children which cargo started them; a `cargo +other` below must not inherit that.
    command.env_remove("CARGO");
    command
}

/// Runs to the end with inherited output; an error names the command and its exit.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// What it prints on standard output; an error if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{}: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} does not print UTF-8", line(command)))
}

/// What it prints on standard output, or nothing if it cannot be run or fails. For questions, not for work.
pub fn ask(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}
