//! `countersign`: the command line.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    countersign_cli::run(countersign_cli::args::Cli::parse())
}
