//! `status` and `encrypt status`.

use anyhow::Result;
use countersign_agent_api::{EncryptStatus, HealthState, Request, Status};
use tokio::time::{Instant, sleep};

use super::{code, now};
use crate::args::{Format, StatusArgs};
use crate::ask::{self, Answers};
use crate::exit::Code;
use crate::limits::WAIT_STEP;
use crate::output::Output;
use crate::render;
use crate::target::Targets;

pub(super) async fn run(targets: &Targets, args: &StatusArgs, out: &Output) -> Result<Code> {
    let deadline = Instant::now() + args.timeout;
    let answers = loop {
        let answers = ask::call::<Status>(targets, &Request::Status).await;
        if !args.wait || verdict(&answers) == Code::Ok || Instant::now() >= deadline {
            break answers;
        }
        sleep(WAIT_STEP).await;
    };
    print(&answers, targets, args.list.output, out)?;
    answers.complain(out);
    Ok(verdict(&answers))
}

/// Who does not answer is worse than who is not well.
fn verdict(answers: &Answers<Status>) -> Code {
    let well = |status: &Status| status.health.state == HealthState::Ok;
    if !answers.failures.is_empty() {
        Code::Error
    } else if answers.values.iter().all(|answer| well(&answer.value)) {
        Code::Ok
    } else {
        Code::Degraded
    }
}

fn print(answers: &Answers<Status>, targets: &Targets, format: Format, out: &Output) -> Result<()> {
    let all: Vec<_> = answers.values.iter().map(|answer| &answer.value).collect();
    match (format, all.as_slice()) {
        (_, []) => {}
        (Format::Json, [only]) if !targets.named => out.json(only)?,
        (Format::Json, all) => out.json(&all)?,
        (Format::Table | Format::Wide, all) => {
            let texts: Vec<_> =
                all.iter().map(|status| render::status::text(status, now(), out.paint)).collect();
            out.text(&texts.join("\n"))?;
        }
    }
    Ok(())
}

pub(super) async fn encrypt(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::call::<EncryptStatus>(targets, &Request::EncryptStatus).await;
    let unreachable: Vec<_> = answers.failures.iter().filter_map(|(target, _)| target.node.clone()).collect();
    let nodes: Vec<_> = answers.values.iter().map(|answer| answer.value.clone()).collect();
    if !nodes.is_empty() {
        let summary = render::encrypt::Summary::of(&nodes, &unreachable);
        match format {
            Format::Json => out.json(&summary)?,
            Format::Table | Format::Wide => out.text(&summary.text(now(), out.paint))?,
        }
    }
    Ok(code(answers.complain(out)))
}
