//! `policy lint`: what is likely to be a mistake in a directory of manifests, nobody asked.

use anyhow::Result;
use countersign_policy::lint::{Finding, Severity, lint};
use serde::Serialize;

use super::manifests::{self, Directory};
use crate::args::{Format, LintArgs};
use crate::exit::Code;
use crate::output::Output;
use crate::render;

/// A finding with the file it is about.
#[derive(Debug, Serialize)]
pub struct Located {
    /// `error`, `warning` or `note`.
    pub severity: Severity,
    /// Which check found it; `schema` where the document is refused.
    pub check: String,
    /// The file.
    pub file: String,
    /// The line; 0 where it is not known.
    pub line: u32,
    /// `kind namespace/name`.
    pub policy: String,
    /// The field.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub fix: String,
}

pub(super) fn run(args: &LintArgs, out: &Output) -> Result<Code> {
    let read = manifests::read(&args.manifests, &args.cluster)?;
    let found = findings(&read);
    match args.output {
        Format::Json => out.json(&found)?,
        Format::Table | Format::Wide => out.text(&render::lint::text(&found, out.paint))?,
    }
    let bad = found.iter().any(|finding| finding.severity != Severity::Note);
    Ok(if bad { Code::Degraded } else { Code::Ok })
}

fn findings(read: &Directory) -> Vec<Located> {
    let refused = read.refused.iter().map(|refused| Located {
        severity: Severity::Error,
        check: "schema".to_owned(),
        file: refused.file.display().to_string(),
        line: refused.line.unwrap_or(0),
        policy: refused.what.clone(),
        path: refused.path.clone(),
        message: refused.message.clone(),
        fix: refused.hint.clone(),
    });
    let mut found: Vec<Located> =
        refused.chain(lint(&read.manifests).into_iter().map(|f| located(read, f))).collect();
    found.sort_by(|one, other| {
        (&one.file, one.line, &one.check).cmp(&(&other.file, other.line, &other.check))
    });
    found
}

fn located(read: &Directory, finding: Finding) -> Located {
    let at = read.manifests.policies().iter().position(|policy| policy.id == finding.policy);
    let file = at.and_then(|at| read.files.get(at)).map(|file| file.display().to_string());
    Located {
        severity: finding.severity,
        check: finding.check.to_owned(),
        file: file.unwrap_or_default(),
        line: finding.line.unwrap_or(0),
        policy: finding.policy.to_string(),
        path: finding.path,
        message: finding.message,
        fix: finding.fix,
    }
}
