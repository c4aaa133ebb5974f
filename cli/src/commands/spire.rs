//! `spire status`, `svid list`, `svid show`.

use anyhow::{Result, bail};
use countersign_agent_api::{Request, SpireStatus};

use super::{code, now};
use crate::args::{Format, SvidShowArgs};
use crate::ask;
use crate::exit::Code;
use crate::output::Output;
use crate::render::spire;
use crate::target::Targets;

/// Exit code 3 where an agent answers and its SVIDs are not as they should be.
pub(super) async fn status(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::call::<SpireStatus>(targets, &Request::SpireStatus).await;
    let all: Vec<&SpireStatus> = answers.values.iter().map(|answer| &answer.value).collect();
    match (format, all.as_slice()) {
        (_, []) => {}
        (Format::Json, [only]) if !targets.named => out.json(only)?,
        (Format::Json, all) => out.json(&all)?,
        (Format::Table | Format::Wide, all) => {
            let texts: Vec<String> =
                all.iter().map(|status| spire::status(status, now(), out.paint)).collect();
            out.text(&texts.join("\n"))?;
        }
    }
    if !answers.complain(out) {
        return Ok(Code::Error);
    }
    Ok(if all.iter().all(|status| spire::is_well(status, now())) { Code::Ok } else { Code::Degraded })
}

pub(super) async fn list(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::call::<SpireStatus>(targets, &Request::SpireStatus).await;
    match format {
        Format::Json => {
            let nodes = answers.values.iter();
            let each =
                |status: &SpireStatus| serde_json::json!({ "node": status.node, "svids": status.svids });
            out.json(&nodes.map(|answer| each(&answer.value)).collect::<Vec<_>>())?;
        }
        Format::Table | Format::Wide => {
            out.text(&spire::list(&answers.values, targets.named, now(), out.paint))?;
        }
    }
    Ok(code(answers.complain(out)))
}

pub(super) async fn show(targets: &Targets, args: &SvidShowArgs, out: &Output) -> Result<Code> {
    let answers = ask::call::<SpireStatus>(targets, &Request::SpireStatus).await;
    let mut found = 0;
    for answer in &answers.values {
        for svid in answer.value.svids.iter().filter(|svid| spire::is_named(svid, &args.what)) {
            found += 1;
            match args.list.output {
                Format::Json => out.json(&serde_json::json!({ "node": answer.value.node, "svid": svid }))?,
                Format::Table | Format::Wide => {
                    out.text(&spire::show(&answer.value.node, svid, now(), out.paint))?;
                }
            }
        }
    }
    let all_answered = answers.complain(out);
    if found == 0 {
        bail!(
            "no SVID of {:?} is held: `countersign svid list` shows what is, `spire status` why not",
            args.what
        );
    }
    Ok(code(all_answered))
}
