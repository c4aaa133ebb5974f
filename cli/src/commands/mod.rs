//! One command a file: ask, then print.

mod explain;
pub mod lint;
mod lists;
mod manifests;
mod observe;
mod rotate;
mod spire;
mod status;
mod verdicts;

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::CommandFactory;
use countersign_agent_api::{Metrics, Request, Status};

use crate::args::{
    AskCommand, AuthCommand, Cli, EncryptCommand, EndpointCommand, Format, Global, IdentityCommand,
    IpcacheCommand, ListArgs, PolicyCommand, SpireCommand, SvidCommand,
};
use crate::ask;
use crate::exit::Code;
use crate::output::Output;
use crate::target::Targets;

/// Runs a command that asks agents or nobody.
///
/// # Errors
/// It could not be done, and nothing has been said about that yet.
pub async fn run(global: &Global, command: &AskCommand, out: &Output) -> Result<Code> {
    let targets = || Targets::resolve(global);
    match command {
        AskCommand::Status(args) => status::run(&targets()?, args, out).await,
        AskCommand::Encrypt(EncryptCommand::Status(args)) => {
            status::encrypt(&targets()?, args.output, out).await
        }
        AskCommand::Encrypt(EncryptCommand::RotateKey(args)) => rotate::run(global, args, out).await,
        AskCommand::Spire(SpireCommand::Status(args)) => spire::status(&targets()?, args.output, out).await,
        AskCommand::Svid(SvidCommand::List(args)) => spire::list(&targets()?, args.output, out).await,
        AskCommand::Svid(SvidCommand::Show(args)) => spire::show(&targets()?, args, out).await,
        AskCommand::Auth(AuthCommand::List(args)) => lists::auth(&targets()?, args.output, out).await,
        AskCommand::Auth(AuthCommand::Flush(args)) => lists::flush(&targets()?, args.output, out).await,
        AskCommand::Identity(IdentityCommand::List(args)) => {
            lists::identities(&targets()?, args.output, out).await
        }
        AskCommand::Endpoint(EndpointCommand::List(args)) => {
            lists::endpoints(&targets()?, args.output, out).await
        }
        AskCommand::Ipcache(IpcacheCommand::List(args)) => {
            lists::ipcache(&targets()?, args.output, out).await
        }
        AskCommand::Policy(PolicyCommand::Get(args)) => lists::policy(&targets()?, args.output, out).await,
        AskCommand::Policy(PolicyCommand::Verdicts(args)) => verdicts::run(args, out),
        AskCommand::Policy(PolicyCommand::Lint(args)) => lint::run(args, out),
        AskCommand::Policy(PolicyCommand::Explain(args)) => explain::run(global, args, out).await,
        AskCommand::Observe(args) => observe::run(&targets()?, args, out).await,
        AskCommand::Metrics => metrics(&targets()?, out).await,
        AskCommand::Completion { shell } => {
            completion(*shell)?;
            Ok(Code::Ok)
        }
        AskCommand::Version(args) => version(global, *args, out).await,
    }
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `Error` where somebody did not answer.
fn code(all_answered: bool) -> Code {
    if all_answered { Code::Ok } else { Code::Error }
}

async fn metrics(targets: &Targets, out: &Output) -> Result<Code> {
    let answers = ask::call::<Metrics>(targets, &Request::Metrics).await;
    for answer in &answers.values {
        if let Some(node) = &answer.node {
            out.untrusted(&format!("# node {node}\n"))?;
        }
        out.untrusted(&answer.value.text)?;
    }
    Ok(code(answers.complain(out)))
}

fn completion(shell: clap_complete::Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "countersign", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)
}

/// The agents' versions are an extra: that none is running is no error here.
async fn version(global: &Global, args: ListArgs, out: &Output) -> Result<Code> {
    let agents = match Targets::resolve(global) {
        Ok(targets) => ask::call::<Status>(&targets, &Request::Status).await.values,
        Err(_) => Vec::new(),
    };
    let ours = env!("CARGO_PKG_VERSION");
    if args.output == Format::Json {
        let of_agents: Vec<_> = agents
            .iter()
            .map(|agent| serde_json::json!({ "node": agent.value.node, "version": agent.value.version }))
            .collect();
        out.json(&serde_json::json!({ "version": ours, "agents": of_agents }))?;
        return Ok(Code::Ok);
    }
    let agents =
        agents.iter().map(|agent| format!("agent on {}: {}\n", agent.value.node, agent.value.version));
    out.untrusted(&format!("countersign {ours}\n{}", agents.collect::<String>()))?;
    Ok(Code::Ok)
}
