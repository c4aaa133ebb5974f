//! `encrypt rotate-key`: begin, and follow to the end.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use countersign_agent_api::{EncryptStatus, Request, RotationBegun};
use tokio::time::{Instant, sleep};

use super::now;
use crate::args::{Format, Global, RotateArgs};
use crate::ask;
use crate::exit::Code;
use crate::limits::WAIT_STEP;
use crate::output::Output;
use crate::render::rotate::{Phase, Step};
use crate::target::Targets;

pub(super) async fn run(global: &Global, args: &RotateArgs, out: &Output) -> Result<Code> {
    if global.node.is_empty() && !args.all {
        bail!("say whose key is to change: --node NAME, or --all");
    }
    let targets = Targets::resolve(global)?;
    let started = Instant::now();
    let begun = ask::call::<RotationBegun>(&targets, &Request::RotateKey).await;
    let mut all_answered = begun.complain(out);
    let mut pending: BTreeMap<String, Following> = BTreeMap::new();
    for answer in begun.values {
        let RotationBegun { node, public_key, next_public_key, .. } = answer.value;
        let step =
            Step { node: node.clone(), phase: Phase::Begun, public_key: next_public_key, ..Step::default() };
        print(&step, args.list.output, out)?;
        pending.insert(node, Following { before: public_key, last: step, until: u64::MAX });
    }
    if args.no_wait {
        return Ok(if all_answered { Code::Ok } else { Code::Error });
    }
    let mut is_late = false;
    while !pending.is_empty() {
        if started.elapsed() > args.timeout {
            let nodes: Vec<String> = pending.into_keys().collect();
            bail!("not done within {} s, and goes on: {}", args.timeout.as_secs(), nodes.join(", "));
        }
        sleep(WAIT_STEP).await;
        let statuses = ask::call::<EncryptStatus>(&targets, &Request::EncryptStatus).await;
        // An agent that restarts goes on with it: who does not answer now may a moment later.
        all_answered = statuses.failures.is_empty();
        for answer in statuses.values {
            let status = answer.value;
            let Some(following) = pending.get_mut(&status.node) else { continue };
            let seconds = started.elapsed().as_secs_f64();
            let step = following.step(&status, seconds);
            if !step.is_same(&following.last) {
                print(&step, args.list.output, out)?;
            }
            is_late |= step.phase == Phase::Done && !step.cut_off.is_empty();
            following.last = step;
        }
        pending.retain(|_, following| following.last.phase != Phase::Done);
    }
    Ok(match (all_answered, is_late) {
        (false, _) => Code::Error,
        (true, true) => Code::Degraded,
        (true, false) => Code::Ok,
    })
}

/// One node's change, as far as it is known.
struct Following {
    before: String,
    last: Step,
    until: u64,
}

impl Following {
    fn step(&mut self, status: &EncryptStatus, seconds: f64) -> Step {
        let next = self.last.public_key.clone();
        let step = Step { node: status.node.clone(), public_key: next, seconds, ..Step::default() };
        match &status.rotation {
            Some(rotation) => {
                self.until = rotation.until;
                Step { phase: Phase::Waiting, waiting_for: rotation.waiting_for.clone(), ..step }
            }
            // It has not looked yet.
            None if status.public_key == self.before => Step { phase: Phase::Begun, ..step },
            None => {
                let late = now() >= self.until;
                let cut_off = if late { self.last.waiting_for.clone() } else { Vec::new() };
                Step { phase: Phase::Done, cut_off, ..step }
            }
        }
    }
}

fn print(step: &Step, format: Format, out: &Output) -> Result<()> {
    match format {
        Format::Json => out.json_line(step)?,
        Format::Table | Format::Wide => out.text(&step.text(out.paint))?,
    }
    Ok(())
}
