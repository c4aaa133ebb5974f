//! `countersign lab …`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::config::{AgentMode, IdentitySource, LabOptions, Parking, all_labs};
use crate::lab::Lab;
use crate::names::LabName;
use crate::run::{RunOptions, run_pod};
use crate::serve::{ServeArgs, serve};
use crate::spire::{Part, PodsBy, Spire, Tuning};
use crate::{demo, down, logs, supervisor};

/// Which lab.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// Name of the lab; several can be up side by side
    #[arg(long, short = 'N', env = "COUNTERSIGN_LAB", default_value = "demo")]
    pub name: LabName,
}

/// Nodes and pods made of network namespaces, with the real agents on them
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LabCommand {
    /// Bring a lab up, or repair one that is up
    Up(UpArgs),
    /// Take a lab down and leave nothing behind
    Down {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// All labs of this machine
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show nodes, agents and pods
    Ps {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Run a command on a node, in a pod or on the wire; its exit code is passed on
    Exec {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// node1, namespace/pod, pod (of namespace default), or wire
        target: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Make a pod, run a command in it, and remove the pod
    Run(RunArgs),
    /// Print logs of pods, agents, WireGuard and the supervisor
    Logs {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// A pod, a node (its agent), `agent`, `wg` or `supervisor`; all by default
        of: Option<String>,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop or start the agent of a node
    Agent {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// What to do
        #[command(subcommand)]
        action: AgentCommand,
    },
    /// SPIRE of a lab that was brought up with --spire
    Spire {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// What to do
        #[command(subcommand)]
        action: SpireCommand,
    },
    /// Bring up a lab, tell a story with real packets, take it down
    Demo(demo::DemoArgs),
    /// What `up` starts: keeps agents and pods running
    #[command(hide = true)]
    Supervise {
        /// Which lab
        #[command(flatten)]
        which: Which,
        /// Stay in the foreground
        #[arg(long)]
        foreground: bool,
    },
    /// Tiny servers for pods to run
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// `lab up`
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    #[command(flatten)]
    which: Which,
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Directory of Kubernetes manifests to watch (Pods, Namespaces, policies) [default: one of the lab's own]
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// SVIDs from the embedded CA (the default)
    #[arg(long, conflicts_with_all = ["spire", "spire_socket"])]
    embedded: bool,
    /// SVIDs from real SPIRE: starts a server, an agent a node, and the registrar
    #[arg(long)]
    spire: bool,
    /// With --spire: `fast` hands new entries on within a quarter of a second, `default` is SPIRE's own pace
    #[arg(long, value_enum, default_value_t = Tuning::Fast, requires = "spire")]
    spire_tuning: Tuning,
    /// With --spire: the interface that pods' SVIDs come by; `broker` is the Broker API, experimental in SPIRE 1.15
    #[arg(long, value_enum, default_value_t = PodsBy::Delegated, requires = "spire")]
    spire_pods: PodsBy,
    /// SVIDs from your SPIRE: the Workload API socket of its agent. Every node uses it; entries are yours to make
    #[arg(long, value_name = "SOCKET", requires = "spire_admin_socket", conflicts_with = "spire")]
    spire_socket: Option<PathBuf>,
    /// With --spire-socket: the agent's admin socket, for its Delegated Identity API
    #[arg(long, value_name = "SOCKET", requires = "spire_socket")]
    spire_admin_socket: Option<PathBuf>,
    /// Whether first packets wait for the proof or are dropped
    #[arg(long, value_enum, default_value_t = Parking::On)]
    parking: Parking,
    /// Life of SVIDs, as in 30s, 10m, 1h
    #[arg(long, value_parser = duration, default_value = "1h")]
    svid_ttl: Duration,
    /// What enforces; `none` leaves plain routing
    #[arg(long, value_enum, default_value_t = AgentMode::Countersign)]
    agent: AgentMode,
    /// One more argument for every agent; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    agent_arg: Vec<String>,
    /// Return at once instead of when agents and pods are ready
    #[arg(long)]
    no_wait: bool,
    /// Wait until agents and pods are ready (the default)
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Say nothing
    #[arg(long, short)]
    quiet: bool,
}

/// `lab run`
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    which: Which,
    /// Name of the pod, or namespace/name
    pod: String,
    /// Its labels, as in a=b,c=d
    #[arg(long, short, value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Its node [default: node1]
    #[arg(long)]
    node: Option<String>,
    /// Give it no SVID
    #[arg(long)]
    without_svid: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// `lab agent`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AgentCommand {
    /// End the agent and keep it down
    Stop {
        /// Which node's
        node: String,
        /// With SIGKILL instead of SIGTERM
        #[arg(long)]
        kill: bool,
    },
    /// Let the agent run again
    Start {
        /// Which node's
        node: String,
    },
}

/// `lab spire`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SpireCommand {
    /// Run the command line of spire-server against the lab's server, as in `lab spire server -- entry show`
    Server {
        /// Its arguments
        #[arg(last = true, required = true)]
        arguments: Vec<String>,
    },
    /// End the server, the registrar, or the agent of a node, and keep it down
    Stop {
        /// `server`, `registrar`, or the node whose agent
        what: String,
    },
    /// Let it run again
    Start {
        /// `server`, `registrar`, or the node whose agent
        what: String,
    },
}

/// Formats of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables
    Text,
    /// One JSON object
    Json,
}

/// Does what a `lab` command says. Needs no runtime; inside one, call it where blocking is allowed.
///
/// # Errors
/// What to tell the user.
pub fn run(command: LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Up(args) => bring_up(args),
        LabCommand::Down { which, all } => take_down(&which, all),
        LabCommand::Ps { which, output } => show(&which, output),
        LabCommand::Exec { which, target, command } => {
            Ok(pass_on(Lab::attach(&which.name)?.exec_here(&target, &words(&command))?))
        }
        LabCommand::Run(args) => run_once(args),
        LabCommand::Logs { which, of, follow } => {
            done(logs::print(&Lab::attach(&which.name)?, of.as_deref(), follow))
        }
        LabCommand::Agent { which, action } => steer(&which, &action),
        LabCommand::Spire { which, action } => steer_spire(&which, &action),
        LabCommand::Demo(args) => demo::demo(&args),
        LabCommand::Supervise { which, foreground } => start_supervising(&which, foreground),
        LabCommand::Serve(args) => done(serve(&args)),
    }
}

fn bring_up(args: UpArgs) -> Result<ExitCode> {
    let identity_source = match (args.spire_socket, args.spire_admin_socket) {
        (Some(workload_socket), Some(admin_socket)) => {
            IdentitySource::External { workload_socket, admin_socket }
        }
        _ if args.spire => IdentitySource::Spire { tuning: args.spire_tuning, pods: args.spire_pods },
        _ => IdentitySource::Embedded,
    };
    let options = LabOptions {
        identity_source,
        nodes: args.nodes,
        manifests: args.manifests,
        parking: args.parking,
        svid_ttl: args.svid_ttl,
        agent: args.agent,
        agent_args: args.agent_arg,
        wait: args.wait || !args.no_wait,
        verbose: !args.quiet,
        ..LabOptions::new(args.which.name)
    };
    // Not the guarded one: what is half up can be looked at, and `up` again goes on.
    let config = crate::up::up(&options)?;
    if options.verbose {
        eprintln!("manifests: {}", config.paths().manifests().display());
    }
    Ok(ExitCode::SUCCESS)
}

fn take_down(which: &Which, all: bool) -> Result<ExitCode> {
    let labs = if all { all_labs() } else { vec![which.name.clone()] };
    for lab in &labs {
        if !down::down(lab)? {
            eprintln!("there is no lab {lab}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(which: &Which, output: Output) -> Result<ExitCode> {
    let view = Lab::attach(&which.name)?.view();
    let text = match output {
        Output::Text => view.to_text(),
        Output::Json => serde_json::to_string_pretty(&view)?,
    };
    // Whoever reads may stop early, as `head` does; that is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(ExitCode::SUCCESS)
}

fn run_once(args: RunArgs) -> Result<ExitCode> {
    let lab = Lab::attach(&args.which.name)?;
    let labels: BTreeMap<String, String> = args.labels.into_iter().collect();
    let options = RunOptions { pod: args.pod, labels, node: args.node, without_svid: args.without_svid };
    Ok(pass_on(run_pod(&lab, &options, &words(&args.command))?))
}

fn steer(which: &Which, action: &AgentCommand) -> Result<ExitCode> {
    let lab = Lab::attach(&which.name)?;
    match action {
        AgentCommand::Stop { node, kill } => {
            lab.node(node)?.stop_agent(if *kill { Signal::SIGKILL } else { Signal::SIGTERM })?;
        }
        AgentCommand::Start { node } => drop(lab.node(node)?.start_agent()?),
    }
    Ok(ExitCode::SUCCESS)
}

fn part<'a>(lab: &Lab, what: &'a str) -> Result<Part<'a>> {
    match what {
        "server" => Ok(Part::Server),
        "registrar" => Ok(Part::Registrar),
        node => lab.node(node).map(|_| Part::Agent(node)),
    }
}

fn steer_spire(which: &Which, action: &SpireCommand) -> Result<ExitCode> {
    let lab = Lab::attach(&which.name)?;
    let spire = Spire::of(lab.config())?;
    match action {
        SpireCommand::Server { arguments } => print!("{}", spire.server(&words(arguments))?),
        SpireCommand::Stop { what } => spire.stop(part(&lab, what)?)?,
        SpireCommand::Start { what } => spire.start(part(&lab, what)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Detached before there is a second thread: the child goes on, nobody waits for it.
fn start_supervising(which: &Which, foreground: bool) -> Result<ExitCode> {
    if !foreground {
        nix::unistd::daemon(true, true)?;
    }
    done(supervisor::supervise(&which.name))
}

fn done(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// The exit code of a command, as a shell gives it.
fn pass_on(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not like key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `30s`, `10m`, `1h`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not like 30s, 10m or 1h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for wrong in ["", "0s", "s", "1d", "-1s", "99999999999999999999h", "1h30m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
