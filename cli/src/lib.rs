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

use args::Cli;
use output::Output;

/// Runs one command to its end.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    let out = Output::new(cli.global.color);
    let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::run(cli, &out)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) if is_broken_pipe(&error) => exit::Code::Ok.into(),
        Err(error) => {
            out.complain(&error);
            exit::Code::Error.into()
        }
    }
}

/// Whoever read our output has read enough (`countersign observe | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
