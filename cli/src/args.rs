//! What can be typed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use countersign_lab::LabCommand;
use ipnet::IpNet;

/// Where an agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/countersign/agent.sock";

/// Proof before packets: see what the agents of this machine enforce, encrypt and authenticate.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, max_term_width = 110, after_help = EXAMPLES, after_long_help = MORE)]
pub struct Cli {
    /// Options that all commands have.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  countersign status --wait                      wait until this node's agent is well
  countersign --lab demo encrypt status          is every node's traffic encrypted?
  countersign auth list                          who has proved itself to whom, and until when
  countersign observe -f --verdict dropped       what is dropped, as it happens, and why
  countersign observe --pod shop/ -o json        flows of a namespace, one JSON object a line

Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 3 done, and not everything is well (`status`, \
`policy verdicts`, `policy lint`).";

const MORE: &str = "\
Examples:
  countersign status --wait                      wait until this node's agent is well
  countersign --lab demo encrypt status          is every node's traffic encrypted?
  countersign --lab demo --node n1 auth list     pairs as one node of a lab sees them
  countersign auth list -o wide                  with SPIFFE IDs and labels
  countersign observe -f --verdict dropped       what is dropped, as it happens, and why
  countersign observe --to-pod shop/web --port 80 --last 50
  countersign observe --pod shop/ -o json        flows of a namespace, one JSON object a line
  countersign policy get -o wide                 policies, and what the kernel was told
  countersign metrics | grep handshake           what a Prometheus server would scrape
  countersign lab up                             two nodes on this machine, to try it all

The agent listens on a Unix socket that only root may use. Without --socket or --lab the command talks to the \
agent of this machine. With --lab it asks the agents of all nodes of that lab, and --node picks some of them.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 3 done, and not everything is well (`status`, \
`policy verdicts`, `policy lint`).
Environment: COUNTERSIGN_SOCKET, COUNTERSIGN_LAB, NO_COLOR.";

/// Options that all commands have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Which agents")]
pub struct Global {
    /// Control socket of the agent to talk to
    #[arg(long, global = true, env = "COUNTERSIGN_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Talk to the agents of all nodes of this lab
    #[arg(long, global = true, env = "COUNTERSIGN_LAB", value_name = "NAME")]
    pub lab: Option<String>,
    /// With --lab: only this node (may be repeated)
    #[arg(long, global = true, value_name = "NODE")]
    pub node: Vec<String>,
    /// Colours: `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Where labs are; for tests
    #[arg(long, global = true, hide = true, default_value = "/run/countersign/lab")]
    pub lab_root: PathBuf,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Those that ask agents, or nobody.
    #[command(flatten)]
    Ask(AskCommand),
    /// Nodes and pods made of network namespaces on this machine, with the real agents on them
    #[command(
        subcommand,
        after_help = "\
Examples:
  countersign lab up --name demo --manifests deploy/demo
  countersign lab exec --name demo default/client -- curl -s http://10.0.2.5:8080/
  countersign --lab demo observe -f
  countersign lab down --name demo"
    )]
    Lab(Box<LabCommand>),
}

/// Commands that ask agents, or nobody.
#[derive(Debug, Subcommand)]
pub enum AskCommand {
    /// How the agent is: health, identity source, datapath, parking, authentication, encryption
    #[command(after_help = "\
Exit code 3 means that the agent answers and something is not well; the reasons are the first thing printed.

Examples:
  countersign status
  countersign --lab demo status --wait --timeout 30
  countersign status -o json | jq .authentication")]
    Status(StatusArgs),
    /// Encryption of the traffic between nodes
    #[command(subcommand, visible_alias = "encryption")]
    Encrypt(EncryptCommand),
    /// Pairs of identities that have proved (or failed to prove) who they are
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Where SVIDs come from: connections to SPIRE, trust bundles, pods without an SVID
    #[command(subcommand)]
    Spire(SpireCommand),
    /// SVIDs that the node holds; never their private keys
    #[command(subcommand)]
    Svid(SvidCommand),
    /// Security identities and the SVIDs held for them
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Endpoints (pods) of the node
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Addresses and the identities behind them
    #[command(subcommand)]
    Ipcache(IpcacheCommand),
    /// Policies in force, why a flow passes, what is likely to be a mistake, verdicts without a cluster
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Flows: who talked to whom, what was decided, and why
    Observe(Box<ObserveArgs>),
    /// The agent's metrics in the Prometheus text format
    Metrics,
    /// Completion script for a shell
    #[command(after_help = "\
Examples:
  countersign completion bash > /etc/bash_completion.d/countersign
  source <(countersign completion zsh)")]
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Versions of this command and of the agents
    Version(ListArgs),
}

/// `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Wait until all is well
    #[arg(long)]
    pub wait: bool,
    /// With --wait: give up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
    /// How to print it
    #[command(flatten)]
    pub list: ListArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "not a whole number of seconds".to_owned())
}

/// How to print a list.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ListArgs {
    /// How to print it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For people with wide terminals: more columns
    Wide,
    /// For programs
    Json,
}

/// `encrypt …`.
#[derive(Debug, Subcommand)]
pub enum EncryptCommand {
    /// Per node: mode, device, port, key, peers; and in sum how many nodes are encrypted
    #[command(after_help = "\
A node counts as encrypted when it and all who know it agree that traffic to and from it is.

Examples:
  countersign encrypt status
  countersign --lab demo encrypt status -o json | jq .encrypted_nodes")]
    Status(ListArgs),
    /// Change nodes' WireGuard keys without losing a packet, and follow that to the end
    #[command(after_help = "\
A next key is announced beside the one that is; each node moves to it when it has a session with it; the old one ends
when all have moved, or after the agents' --wireguard-key-overlap: nodes that have not moved by then are named (exit
code 3) and cut off until they do. With -o json each step is an object on a line of its own.

Examples:
  countersign encrypt rotate-key --all                   this machine's agent
  countersign --lab demo encrypt rotate-key --node node1
  countersign --lab demo encrypt rotate-key --all -o json | jq -c '[.node, .phase, .waiting_for]'")]
    RotateKey(RotateArgs),
}

/// `encrypt rotate-key`.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// Every agent that --socket or --lab means
    #[arg(long)]
    pub all: bool,
    /// Begin, and do not wait for the end
    #[arg(long)]
    pub no_wait: bool,
    /// Give up following after this many seconds; the change goes on
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds)]
    pub timeout: Duration,
    /// How to print it
    #[command(flatten)]
    pub list: ListArgs,
}

/// `auth …`.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Pairs, their state, and why the last attempt failed
    List(ListArgs),
    /// Forget all proofs, so that every pair proves itself again; flows wait for that meanwhile
    Flush(ListArgs),
}

/// `spire …`.
#[derive(Debug, Subcommand)]
pub enum SpireCommand {
    /// Sockets, trust domains, SVIDs held, what is missing and why, the registrar's entries
    #[command(after_help = "\
Exit code 3 means that the agent answers and something is not well: SPIRE's agent cannot be reached, a pod that
should have an SVID has none, SVIDs are past the time at which they should have been renewed, every authority of the
trust domain has expired, or the registrar (where its status file is to be seen) has entries that fail, no server, or
nothing to say.

Examples:
  countersign spire status
  countersign --lab demo spire status -o json | jq '.[].missing'")]
    Status(ListArgs),
}

/// `svid …`.
#[derive(Debug, Subcommand)]
pub enum SvidCommand {
    /// SVIDs held, the node's own first
    List(ListArgs),
    /// One SVID and its certificates
    #[command(after_help = "\
Examples:
  countersign svid show shop/web
  countersign svid show node | openssl x509 -noout -text
  countersign --lab demo svid show 5854775 -o json")]
    Show(SvidShowArgs),
}

/// `svid show`.
#[derive(Args, Clone, Debug)]
pub struct SvidShowArgs {
    /// A pod (`namespace/name`, or `name` in namespace default), the number of an identity, a SPIFFE ID, or `node`
    pub what: String,
    /// How to print it
    #[command(flatten)]
    pub list: ListArgs,
}

/// `identity …`.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Identities, their labels and SPIFFE IDs
    List(ListArgs),
}

/// `endpoint …`.
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Endpoints, what is enforced on them, and their addresses
    List(ListArgs),
}

/// `ipcache …`.
#[derive(Debug, Subcommand)]
pub enum IpcacheCommand {
    /// Addresses and prefixes known to the kernel
    List(ListArgs),
}

/// `policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Policy documents, and with `-o wide` the entries made of them
    Get(ListArgs),
    /// What the policies of a directory of manifests say of flows: no cluster, no agent
    #[command(after_help = "\
FILE has one flow a line, `-` is stdin; port and protocol (TCP) may be left out:
  {\"from\":\"default/client\",\"to\":\"shop/web\",\"protocol\":\"TCP\",\"port\":80}
Each comes out with \"egress\", \"ingress\" and \"verdict\" (allowed or denied), \"auth\" (none or required) and
\"rules\", or with \"error\". Documents that are refused are named on stderr; exit code 3 says that there were such
documents or flows.

Examples:
  countersign policy verdicts --manifests deploy/ --flows flows.jsonl
  echo '{\"from\":\"default/a\",\"to\":\"8.8.8.8\",\"protocol\":\"UDP\",\"port\":53}' |
    countersign policy verdicts --manifests deploy/ --flows - -o table")]
    Verdicts(VerdictArgs),
    /// Why a flow passes or not: the rule that decided, and why each of the others did not
    #[command(after_help = "\
FROM and TO are `namespace/pod` or addresses. With --manifests nobody is asked.

Examples:
  countersign policy explain shop/client shop/web TCP/80
  countersign policy explain shop/web 8.8.8.8 UDP/53 --manifests deploy/ -o wide")]
    Explain(ExplainArgs),
    /// What is likely to be a mistake in a directory of manifests, and what to do about it
    #[command(after_help = "\
Checks: schema, missing-part, peer-namespace, selects-no-pod, selects-no-peer, egress-without-dns, dns-without-tcp,
wildcard-depth, void, cuts-off-dns, cuts-off-api-server, cuts-off-spire, proof-needs-itself, remark.
Exit code 3 says that there are errors or warnings; notes are no reason for it.

Examples:
  countersign policy lint deploy/
  countersign policy lint deploy/ -o json | jq -r '.[] | select(.severity == \"error\") | .message'")]
    Lint(LintArgs),
}

/// `policy explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// Sender: `namespace/pod`, or an address
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Receiver: `namespace/pod`, or an address
    #[arg(value_name = "TO")]
    pub to: String,
    /// Protocol and port, as `UDP/53`; `ICMP/8` is an ICMP type
    #[arg(value_name = "PROTOCOL/PORT", default_value = "TCP/80", value_parser = protocol_and_port)]
    pub at: At,
    /// Directory with the manifests, instead of asking agents
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// With --manifests: name of the cluster that policies may select by
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub cluster: String,
    /// How to print it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// A protocol and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Its name or number.
    pub protocol: String,
    /// The port, or ICMP type.
    pub port: u16,
}

fn protocol_and_port(text: &str) -> Result<At, String> {
    let wrong = || format!("{text:?} is not like TCP/80");
    let (protocol, port) = match text.split_once('/') {
        Some((protocol, port)) => (protocol, port.parse().map_err(|_| wrong())?),
        None => match text.parse() {
            Ok(port) => ("TCP", port),
            Err(_) => (text, 0),
        },
    };
    if protocol.is_empty() { Err(wrong()) } else { Ok(At { protocol: protocol.to_uppercase(), port }) }
}

/// `policy lint`.
#[derive(Args, Clone, Debug)]
pub struct LintArgs {
    /// Directory with the manifests (`.yaml`, `.yml`, `.json`) of policies, and of the pods and namespaces they mean
    #[arg(value_name = "DIR")]
    pub manifests: PathBuf,
    /// Name of the cluster that policies may select by
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub cluster: String,
    /// How to print findings
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// `policy verdicts`.
#[derive(Args, Clone, Debug)]
pub struct VerdictArgs {
    /// Directory with the manifests (`.yaml`, `.yml`, `.json`) of pods, namespaces, nodes and policies
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Flows to decide, one JSON object a line; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub flows: PathBuf,
    /// Name of the cluster that policies may select by
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub cluster: String,
    /// How to print verdicts; `json` is one object a line
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Json)]
    pub output: Format,
}

/// `observe`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Values of one option are alternatives, different options must all match.

Examples:
  countersign observe -f                                        everything, as it happens
  countersign observe --verdict dropped --drop-reason auth_required
  countersign observe --namespace shop --protocol udp --port 53
  countersign observe --policy shop/secure-access --last 100
  countersign --lab demo observe -f -o json | jq 'select(.flow.verdict == \"DROPPED\")'")]
pub struct ObserveArgs {
    /// Go on with new flows until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Past flows to begin with: the newest of those that match [default: 20, with -f 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(countersign_agent_api::limits::MAX_LAST)))]
    pub last: Option<u32>,
    /// Which flows
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How to print them; `json` is one object a line
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: FlowFormat,
}

/// How to print flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FlowFormat {
    /// A line for each
    #[default]
    Compact,
    /// A line for each with exact time, labels and node
    Wide,
    /// One JSON object a line
    Json,
}

/// Which flows.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Namespace of source or destination
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Vec<String>,
    /// Source or destination pod: `namespace/prefix`, or `prefix` in any namespace
    #[arg(long, value_name = "POD")]
    pub pod: Vec<String>,
    /// Source pod
    #[arg(long, value_name = "POD")]
    pub from_pod: Vec<String>,
    /// Destination pod
    #[arg(long, value_name = "POD")]
    pub to_pod: Vec<String>,
    /// Security identity of source or destination
    #[arg(long, value_name = "NUMBER")]
    pub identity: Vec<u32>,
    /// `forwarded`, `dropped`, `redirected` (parked)
    #[arg(long, value_name = "VERDICT")]
    pub verdict: Vec<String>,
    /// Number or name of a drop reason (`189`, `auth_required`)
    #[arg(long, value_name = "REASON")]
    pub drop_reason: Vec<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`, or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Vec<String>,
    /// Source or destination port
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,
    /// Source or destination address, or a prefix of it
    #[arg(long, value_name = "IP[/BITS]", value_parser = address_or_prefix)]
    pub ip: Vec<IpNet>,
    /// Policy that decided: `namespace/name`, or `name`
    #[arg(long, value_name = "POLICY")]
    pub policy: Vec<String>,
    /// Direction, seen from the endpoint that decided
    #[arg(long, value_name = "DIRECTION", value_parser = ["ingress", "egress"])]
    pub direction: Option<String>,
}

fn address_or_prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "not an address or prefix".to_owned())
}
