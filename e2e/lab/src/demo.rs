//! The demo: a short story with real packets, and a table at the end.
use anyhow::Result;
use std::process::ExitCode;

/// `lab demo`
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave the lab up at the end
    #[arg(long)]
    pub keep: bool,
}

/// Tells the story.
///
/// # Errors
/// Where the lab does not come up.
pub fn demo(_args: &DemoArgs) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
