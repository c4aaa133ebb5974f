//! `policy verdicts`: manifests and flows from files, verdicts out, nobody asked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use countersign_policy::Settings;
use countersign_policy::verdicts::{Manifests, World};
use countersign_policy::yaml;
use serde_json::Value;

use crate::args::{Format, VerdictArgs};
use crate::exit::Code;
use crate::limits::{FLOW_BYTES, MANIFEST_BYTES, MANIFESTS};
use crate::output::Output;
use crate::render::escape::safe_json;
use crate::render::verdict;

pub(super) fn run(args: &VerdictArgs, out: &Output) -> Result<Code> {
    let (manifests, refused) = read_manifests(args, out)?;
    let mut world = World::new(manifests);
    let mut flows = open(&args.flows)?;
    let mut table = verdict::table(out.paint);
    let mut undecided = 0_usize;
    let mut lines = out.lines();
    while let Some(line) = next_line(&mut flows, &args.flows)? {
        if line.trim().is_empty() {
            continue;
        }
        let decided = world.annotate(&line);
        let value: Value = serde_json::from_str(&decided)?;
        undecided += usize::from(value.get("error").is_some());
        match args.output {
            Format::Json => writeln!(lines, "{}", safe_json(&decided))?,
            Format::Table | Format::Wide => table.row(verdict::row(&value)),
        }
    }
    if args.output != Format::Json {
        write!(lines, "{}", table.render("No flows."))?;
    }
    lines.flush()?;
    Ok(if refused + undecided > 0 { Code::Degraded } else { Code::Ok })
}

/// All documents that are not refused, and how many are.
fn read_manifests(args: &VerdictArgs, out: &Output) -> Result<(Manifests, usize)> {
    let mut manifests = Manifests::new(Settings { cluster: args.cluster.clone() });
    let mut refused = 0;
    for path in paths(&args.manifests)? {
        let text = read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let documents = match yaml::parse(&text) {
            Ok(documents) => documents,
            Err(error) => {
                out.note(&format!("{}: refused: {error}", path.display()));
                refused += 1;
                continue;
            }
        };
        for document in documents {
            if let Err(error) = manifests.add(&document) {
                let what = format!("{} {}", document.kind(), document.name());
                out.note(&format!("{}: {what} refused: {error}", path.display()));
                refused += 1;
            }
        }
    }
    Ok((manifests, refused))
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

fn read(path: &Path) -> io::Result<String> {
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

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn next_line(flows: &mut impl BufRead, path: &Path) -> Result<Option<String>> {
    let mut line = String::new();
    let read = flows.take(FLOW_BYTES).read_line(&mut line);
    let read = read.with_context(|| format!("cannot read {}", path.display()))? as u64;
    ensure!(read < FLOW_BYTES, "{} has a line longer than {FLOW_BYTES} bytes", path.display());
    Ok((read > 0).then_some(line))
}
