//! The project's own tooling: `cargo xtask …`. The Makefile's targets each call one of these.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod build_ebpf;
mod cache;
mod ci;
mod deps;
mod fuzz;
mod kernels;
mod limits;
mod peers;
mod rooms;
mod setup;
mod sh;
mod size;
mod source;
mod tally;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's tooling.
#[derive(Parser)]
#[command(name = "xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the machine lacks; changes nothing when all is there
    Setup,
    /// Build the real peers of the tests (SPIRE, wireguard-go, kube-apiserver) from their Go modules, into the cache;
    /// nothing if they are there
    Peers {
        /// Also those that only benchmarks want (boringtun, gotatun)
        #[arg(long)]
        benchmarks: bool,
    },
    /// Build the eBPF programs
    BuildEbpf,
    /// Build the eBPF programs and every binary
    Build,
    /// Check formatting, lints, imports and sizes
    Lint,
    /// Lint, build, and run every test; the last line counts them
    #[command(alias = "test")]
    Ci,
    /// Boot kernels of Debian in virtual machines: countersign-wg against their WireGuard, that in the manager's hands,
    /// and our eBPF programs
    TestKernels {
        /// Rekeys that each side waits for; a rekey is every two minutes
        #[arg(long, env = "COUNTERSIGN_KERNEL_REKEYS", default_value_t = 1)]
        rekeys: u32,
    },
    /// Check who imports whom
    Deps,
    /// Print the budgets of functions, files, comments and tests against the tree
    Size,
    /// Feed documents that mean harm to what reads them, on one core and at the lowest priority
    Fuzz {
        /// What is fuzzed
        target: fuzz::Target,
        /// For how long
        #[arg(long, default_value_t = 30)]
        minutes: u32,
        /// Another seed, other documents
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Run one benchmark, or `all` into bench/RESULTS.md
    Bench {
        /// Its name, or `all`
        name: String,
        /// Print one JSON object as the last line
        #[arg(long)]
        json: bool,
        /// Put the result into bench/RESULTS.md, in place of what it says of this benchmark
        #[arg(long, conflicts_with = "json")]
        report: bool,
        /// Passed on to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What went wrong is the task's to say; where in this program it was noticed helps nobody.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Peers { benchmarks } => peers::run(benchmarks),
        Task::BuildEbpf => build_ebpf::run(),
        Task::Build => build::run(),
        Task::Lint => ci::lint(),
        Task::Ci => ci::ci(),
        Task::TestKernels { rekeys } => kernels::run(rekeys),
        Task::Deps => deps::run(),
        Task::Size => size::run(),
        Task::Fuzz { target, minutes, seed } => fuzz::run(target, minutes, seed),
        Task::Bench { name, .. } if name == "all" => bench::all(),
        Task::Bench { name, report: true, arguments, .. } => bench::report(&name, &arguments),
        Task::Bench { name, json, arguments, .. } => bench::one(&name, json, &arguments),
    }
}
