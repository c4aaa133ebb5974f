//! countersign-lab: the lab's commands alone. `countersign lab` is the same; this one is what supervises and what
//! pods run, so that neither depends on the rest of the command line.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Nodes and pods made of network namespaces
#[derive(Parser)]
#[command(name = "countersign-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: countersign_lab::LabCommand,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr).init();
    match countersign_lab::run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("countersign-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
