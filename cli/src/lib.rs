//! The command line: asks agents over their control sockets and prints what they say.
//!
//! Promises: nothing that came from a pod, a manifest or a peer reaches the terminal unescaped
//! ([`render::escape`]); what programs read (`-o json`) has no colour and does not change with the terminal;
//! results go to stdout, everything else to stderr; an error says what to do; exit codes are those of [`exit`].
#![forbid(unsafe_code)]

pub mod args;
pub mod ask;
pub mod commands;
pub mod exit;
pub mod limits;
pub mod output;
pub mod render;
pub mod target;

use std::io;
use std::process::ExitCode;

use args::{AskCommand, Cli, Command, Global};
use output::Output;
use tracing_subscriber::EnvFilter;

/// Runs one command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let out = Output::new(cli.global.color);
    let result = match cli.command {
        // Makes processes and changes namespaces, which wants no other threads.
        Command::Lab(command) => lab(*command),
        Command::Ask(command) => ask(&cli.global, &command, &out),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => exit::Code::Ok.into(),
        Err(error) => {
            out.complain(&error);
            exit::Code::Error.into()
        }
    }
}

fn ask(global: &Global, command: &AskCommand, out: &Output) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(global, command, out)).map(ExitCode::from)
}

fn lab(command: countersign_lab::LabCommand) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    countersign_lab::run(command)
}

/// Whoever read our output has read enough (`countersign observe | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
