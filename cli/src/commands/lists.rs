//! Commands that print a list.

use anyhow::Result;
use countersign_agent_api::{
    AuthEntry, AuthFlushed, EndpointEntry, IdentityEntry, IpcacheEntry, PolicyView, Request,
};
use serde::Serialize;

use super::{code, now};
use crate::args::Format;
use crate::ask::{self, Answers, OnNode};
use crate::exit::Code;
use crate::output::Output;
use crate::render;
use crate::target::Targets;

pub(super) async fn auth(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::list::<AuthEntry>(targets, &Request::AuthList).await;
    print(&answers, format, out, |rows, wide| render::auth::table(rows, targets.named, wide, out.paint))
}

pub(super) async fn flush(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::call::<AuthFlushed>(targets, &Request::AuthFlush).await;
    print(&answers, format, out, |rows, _| render::auth::flushed(rows))
}

pub(super) async fn identities(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::list::<IdentityEntry>(targets, &Request::IdentityList).await;
    print(&answers, format, out, |rows, _| {
        render::endpoint::identities(rows, targets.named, now(), out.paint)
    })
}

pub(super) async fn endpoints(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::list::<EndpointEntry>(targets, &Request::EndpointList).await;
    print(&answers, format, out, |rows, wide| {
        render::endpoint::endpoints(rows, targets.named, wide, now(), out.paint)
    })
}

pub(super) async fn ipcache(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::list::<IpcacheEntry>(targets, &Request::IpcacheList).await;
    print(&answers, format, out, |rows, _| render::endpoint::ipcache(rows, targets.named, out.paint))
}

pub(super) async fn policy(targets: &Targets, format: Format, out: &Output) -> Result<Code> {
    let answers = ask::call::<PolicyView>(targets, &Request::PolicyGet).await;
    if format == Format::Json && !targets.named {
        // One agent, one object.
        for answer in &answers.values {
            out.json(&answer.value)?;
        }
        return Ok(code(answers.complain(out)));
    }
    print(&answers, format, out, |rows, wide| render::policy::text(rows, targets.named, wide, out.paint))
}

/// Prints what came; where nothing came at all, only the complaints.
fn print<T: Serialize>(
    answers: &Answers<T>,
    format: Format,
    out: &Output,
    table: impl FnOnce(&[OnNode<T>], bool) -> String,
) -> Result<Code> {
    if !answers.values.is_empty() || answers.failures.is_empty() {
        match format {
            Format::Json => out.json(&answers.values)?,
            Format::Table | Format::Wide => out.text(&table(&answers.values, format == Format::Wide))?,
        }
    }
    Ok(code(answers.complain(out)))
}
