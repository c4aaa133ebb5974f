//! The demo: a short story with real packets, and a table at the end.

mod story;
mod wiretap;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use comfy_table::{Table, presets};

use crate::config::LabOptions;
use crate::lab::Lab;
use crate::names::LabName;

use story::{Outcome, Row, Story};

/// `lab demo`
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Name of the lab it makes
    #[arg(long, short = 'N', default_value = "story")]
    pub name: LabName,
    /// Leave the lab up at the end, to look around in
    #[arg(long)]
    pub keep: bool,
}

/// Tells the story. The exit code says whether everything went as the story says.
///
/// # Errors
/// Where the lab does not come up.
pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    let begun = Instant::now();
    println!("Two nodes, each with its agent and its WireGuard; pods from deploy/demo.\n");
    let mut lab = Lab::up(&LabOptions { verbose: true, ..LabOptions::new(args.name.clone()) })?;
    let mut story = Story::new(&mut lab)?;
    story.tell()?;
    let as_told = story.finish()?;
    if args.keep {
        lab.keep();
        println!(
            "\nThe lab stays up: countersign lab ps --name {0}; countersign lab down --name {0}",
            args.name
        );
    } else {
        lab.down()?;
    }
    println!("\n{:.1} s in all.", begun.elapsed().as_secs_f64());
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "who",
        "tries",
        "what happened",
        "first connection",
        "with parking off",
        "as it should be",
    ]);
    for row in rows {
        let [first, without] =
            [&row.first, &row.without_parking].map(|o| o.as_ref().map_or("", |o| o.shown.as_str()));
        let fine = if row.is_as_expected() { "yes" } else { "NO" };
        table.add_row([row.who, row.tries, &row.happened(), first, without, fine]);
    }
    table
}

impl Row {
    fn happened(&self) -> String {
        self.first.as_ref().map_or_else(String::new, |outcome: &Outcome| outcome.happened.clone())
    }
}
