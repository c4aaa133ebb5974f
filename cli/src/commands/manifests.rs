//! Manifests from a directory, as an agent would read them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use countersign_policy::Settings;
use countersign_policy::verdicts::Manifests;
use countersign_policy::yaml;

use crate::limits::{MANIFEST_BYTES, MANIFESTS};

/// What a directory holds.
pub(super) struct Directory {
    /// All documents that make sense.
    pub(super) manifests: Manifests,
    /// Those that do not.
    pub(super) refused: Vec<Refused>,
    /// Which file each policy was read from, in the order of [`Manifests::policies`].
    pub(super) files: Vec<PathBuf>,
}

/// A document, or a whole file, that makes no sense.
pub(super) struct Refused {
    pub(super) file: PathBuf,
    /// `Kind name`; empty for a whole file.
    pub(super) what: String,
    pub(super) path: String,
    pub(super) line: Option<u32>,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Refused {
    /// A line for people.
    pub(super) fn text(&self) -> String {
        let part =
            |text: &str, after: &str| if text.is_empty() { String::new() } else { format!("{text}{after}") };
        let line = self.line.map_or(String::new(), |line| format!("line {line}: "));
        let hint = if self.hint.is_empty() { String::new() } else { format!(" ({})", self.hint) };
        let (what, path) = (part(&self.what, " "), part(&self.path, ": "));
        format!("{}: {what}refused: {line}{path}{}{hint}", self.file.display(), self.message)
    }
}

/// Reads all documents of a directory, or of one file.
pub(super) fn read(of: &Path, cluster: &str) -> Result<Directory> {
    let manifests = Manifests::new(Settings { cluster: cluster.to_owned() });
    let mut found = Directory { manifests, refused: Vec::new(), files: Vec::new() };
    for path in paths(of)? {
        let text = read_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
        found.add(&path, &text);
    }
    Ok(found)
}

impl Directory {
    fn add(&mut self, file: &Path, text: &str) {
        let documents = match yaml::parse(text) {
            Ok(documents) => documents,
            Err(error) => {
                let (line, message) = (Some(error.line), error.message);
                let (what, path, hint) = (String::new(), String::new(), String::new());
                self.refused.push(Refused { file: file.to_owned(), what, path, line, message, hint });
                return;
            }
        };
        for document in documents {
            if let Err(error) = self.manifests.add(&document) {
                let what = format!("{} {}", document.kind(), document.name());
                let countersign_policy::DocumentError { path, line, message, hint } = error;
                self.refused.push(Refused { file: file.to_owned(), what, path, line, message, hint });
            }
            self.files.resize(self.manifests.policies().len(), file.to_owned());
        }
    }
}

/// What an agent would read of that directory, in the order of names; or the one file.
fn paths(of: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", of.display());
    if !fs::metadata(of).with_context(cannot)?.is_dir() {
        return Ok(vec![of.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(of).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && matches!(ending, "yaml" | "yml" | "json") && path.is_file() {
            paths.push(path);
        }
    }
    ensure!(paths.len() <= MANIFESTS, "{} has more than {MANIFESTS} manifests", of.display());
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MANIFEST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MANIFEST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MANIFEST_BYTES} bytes"),
        ));
    }
    Ok(text)
}
