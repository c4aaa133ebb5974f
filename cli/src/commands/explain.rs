//! `policy explain`: why a flow passes or not, from the agents or from a directory of manifests.

use anyhow::{Result, anyhow};
use countersign_agent_api::{ExplainRequest, PolicyExplanation, Request};
use countersign_policy::verdicts::{Flow, World};

use super::{code, manifests};
use crate::args::{ExplainArgs, Format, Global};
use crate::ask;
use crate::exit::Code;
use crate::output::Output;
use crate::render;
use crate::target::Targets;

pub(super) async fn run(global: &Global, args: &ExplainArgs, out: &Output) -> Result<Code> {
    match &args.manifests {
        Some(_) => offline(args, out),
        None => live(&Targets::resolve(global)?, args, out).await,
    }
}

fn offline(args: &ExplainArgs, out: &Output) -> Result<Code> {
    let Some(directory) = &args.manifests else { return Ok(Code::Error) };
    let read = manifests::read(directory, &args.cluster)?;
    read.refused.iter().for_each(|refused| out.note(&refused.text()));
    let flow = Flow {
        from: args.from.clone(),
        to: args.to.clone(),
        protocol: args.at.protocol.clone(),
        port: args.at.port,
    };
    let explained = World::new(read.manifests).explain(&flow).map_err(|error| anyhow!("{error}"))?;
    print(&serde_json::from_value(serde_json::to_value(explained)?)?, args, out)?;
    Ok(if read.refused.is_empty() { Code::Ok } else { Code::Degraded })
}

/// Every agent knows all policies and pods: the first that knows both sides answers for all.
async fn live(targets: &Targets, args: &ExplainArgs, out: &Output) -> Result<Code> {
    let request = Request::PolicyExplain(ExplainRequest {
        from: args.from.clone(),
        to: args.to.clone(),
        protocol: args.at.protocol.clone(),
        port: args.at.port,
    });
    let answers = ask::call::<PolicyExplanation>(targets, &request).await;
    match answers.values.first() {
        Some(answer) => {
            print(&answer.value, args, out)?;
            Ok(Code::Ok)
        }
        None => Ok(code(answers.complain(out))),
    }
}

fn print(explained: &PolicyExplanation, args: &ExplainArgs, out: &Output) -> Result<()> {
    match args.output {
        Format::Json => out.json(explained)?,
        wide => out.text(&render::explain::text(explained, wide == Format::Wide, out.paint))?,
    }
    Ok(())
}
