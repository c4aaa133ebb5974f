//! `policy verdicts`: manifests and flows from files, verdicts out, nobody asked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use countersign_policy::verdicts::World;
use serde_json::Value;

use super::manifests;
use crate::args::{Format, VerdictArgs};
use crate::exit::Code;
use crate::limits::FLOW_BYTES;
use crate::output::Output;
use crate::render::escape::safe_json;
use crate::render::verdict;

pub(super) fn run(args: &VerdictArgs, out: &Output) -> Result<Code> {
    let read = manifests::read(&args.manifests, &args.cluster)?;
    read.refused.iter().for_each(|refused| out.note(&refused.text()));
    let refused = read.refused.len();
    let mut world = World::new(read.manifests);
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
