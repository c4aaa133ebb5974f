//! `spire`: how long a new pod waits for its first authenticated byte with real SPIRE, set up to be quick, with entries
//! that were there before the pods, and as it is by default; and what a node can get out of a cluster of 5,000
//! identities, beside the layout that gives every node every key.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::spire::{cilium_layout, create, obtainable};
use countersign_e2e::stats::{Samples, rounded};
use countersign_e2e::tcp::{self, Acceptor};
use countersign_e2e::world::{World, WorldOptions, eventually};
use countersign_lab::IdentitySource;
use countersign_lab::process::Record;
use countersign_lab::spire::{Part, PodsBy, TRUST_DOMAIN, Tuning, parent_id};
use serde::Serialize;

use crate::report::{self, ms};

/// Pods made one after the other where SPIRE is quick, and at once where it is not.
const PODS: usize = 100;
const SLOW_PODS: usize = 30;
/// A cluster's identities, and those on one of its nodes.
const IDENTITIES: usize = 5_000;
const LOCAL: usize = 30;
const PORT: u16 = 8001;
/// The longest that anything of SPIRE may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Report {
    pod_to_first_byte_p50_ms: f64,
    p99_ms: f64,
    static_p50_ms: f64,
    static_p99_ms: f64,
    default_p50_ms: f64,
    default_p99_ms: f64,
    keys_held: usize,
    keys_held_all_identities: usize,
    spire_agent_rss_mib: f64,
    spire_agent_rss_all_identities_mib: f64,
    sign_seconds: f64,
    sign_seconds_all_identities: f64,
}

/// What to measure.
#[derive(Args)]
pub struct Parts {
    /// Nothing but the first row: a pod's first byte with the registrar and SPIRE set up to be quick
    #[arg(long)]
    quick_only: bool,
    /// How many pods are made one after the other
    #[arg(long, default_value_t = PODS)]
    pods: usize,
}

/// Runs all of it and prints it.
pub fn run(json: bool, parts: &Parts) -> Result<()> {
    let (quick, acceptor) = up("benchspire", Tuning::Fast, Vec::new())?;
    let one_by_one = (0..parts.pods).map(|n| fresh_pod(&quick, n)).collect::<Result<Samples>>()?;
    if parts.quick_only {
        println!("{} pods: p50 {} ms, p99 {} ms", parts.pods, ms(one_by_one.p50()), ms(one_by_one.p99()));
        return Ok(());
    }
    let keys = keys(&quick)?;
    drop((acceptor, quick));
    let prepared = with_static_entries(parts.pods)?;
    let (slow, _acceptor) = up("benchspdef", Tuning::Default, Vec::new())?;
    let at_once = std::thread::scope(|scope| {
        let pod = |n| (n, &slow);
        let threads: Vec<_> =
            (0..SLOW_PODS).map(pod).map(|(n, slow)| scope.spawn(move || fresh_pod(slow, n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a pod's thread panicked"))?)
            .collect::<Result<Samples>>()
    })?;
    let report = Report {
        pod_to_first_byte_p50_ms: rounded(one_by_one.p50()),
        p99_ms: rounded(one_by_one.p99()),
        static_p50_ms: rounded(prepared.p50()),
        static_p99_ms: rounded(prepared.p99()),
        default_p50_ms: rounded(at_once.p50()),
        default_p99_ms: rounded(at_once.p99()),
        keys_held: keys.ours.keys,
        keys_held_all_identities: keys.all.keys,
        spire_agent_rss_mib: keys.ours.rss_mib,
        spire_agent_rss_all_identities_mib: keys.all.rss_mib,
        sign_seconds: keys.ours.seconds,
        sign_seconds_all_identities: keys.all.seconds,
    };
    print(&report, parts.pods);
    report::json(json, &report)
}

/// A server on node 2 that wants to know who comes.
fn up(name: &str, tuning: Tuning, agent_args: Vec<String>) -> Result<(World, Acceptor)> {
    let identity_source = IdentitySource::Spire { tuning, pods: PodsBy::Delegated };
    let options = WorldOptions { identity_source, agent_args, ..WorldOptions::new(name)? };
    let world = World::up(options, &server())?;
    eventually("the server has its SVID", PATIENCE, || {
        Ok(world.agent("node2")?.spire_status()?.svids.iter().any(|svid| !svid.pods.is_empty()))
    })?;
    let acceptor = Acceptor::start(vec![tcp::listen(&world.place("server")?.space, PORT)?]);
    Ok((world, acceptor))
}

/// Entries that somebody wrote long before the pods, by their names: nothing has to reach anybody any more. No
/// registrar, and SPIRE's own intervals.
fn with_static_entries(pods: usize) -> Result<Samples> {
    let template = "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}";
    let selector = "bench:pod:{pod}";
    let args = ["--spiffe-id-template", template, "--workload-selector", selector].map(str::to_owned);
    let (world, _acceptor) = up_without_registrar("benchspsta", pods, args.to_vec())?;
    (0..pods).map(|n| fresh_pod(&world, n)).collect()
}

fn up_without_registrar(name: &str, pods: usize, agent_args: Vec<String>) -> Result<(World, Acceptor)> {
    let identity_source = IdentitySource::Spire { tuning: Tuning::Default, pods: PodsBy::Delegated };
    let options = WorldOptions { identity_source, agent_args, ..WorldOptions::new(name)? };
    let world = World::up(options, &server())?;
    let spire = world.spire()?;
    eventually("every agent has its own SVID", PATIENCE, || {
        let has = |node: &str| Ok::<_, anyhow::Error>(!world.agent(node)?.spire_status()?.svids.is_empty());
        Ok(has("node1")? && has("node2")?)
    })?;
    spire.stop(Part::Registrar)?;
    let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/default");
    let entry =
        |node: &str, pod: String| (id.clone(), parent_id(node), "bench".to_owned(), format!("pod:{pod}"));
    let clients = (0..pods).map(|n| entry("node1", format!("client-{n}")));
    create(&spire, clients.chain([entry("node2", "server".to_owned())]))?;
    eventually("the entries have reached the agents", PATIENCE, || {
        let last = ("bench".to_owned(), format!("pod:client-{}", pods.saturating_sub(1)));
        let reached = !obtainable(&spire.paths().admin_socket("node1"), vec![last])?.is_empty();
        Ok(reached && world.agent("node2")?.spire_status()?.svids.iter().any(|svid| !svid.pods.is_empty()))
    })?;
    let acceptor = Acceptor::start(vec![tcp::listen(&world.place("server")?.space, PORT)?]);
    Ok((world, acceptor))
}

fn server() -> [String; 2] {
    let rule = Rule { peer: "client", ports: &["TCP/8001"], required: true };
    [Pod::new("server", "node2", "server").yaml(), policy("servers", "server", &[rule], &[])]
}

/// From writing the manifest of a pod with an identity of its own to the end of its first `connect()`, which waits
/// for both identities to be proved. A pod's process cannot connect before it runs, and it is started as soon as its
/// network is open: what is sent into a link that is still closed is lost, and TCP sends it again a second later.
fn fresh_pod(world: &World, number: usize) -> Result<Duration> {
    let to = SocketAddr::new(world.place("server")?.address(false)?, PORT);
    let name = format!("client-{number}");
    let start = Instant::now();
    world.apply(&format!("{name}.yaml"), &[Pod::new(&name, "node1", "client").label("who", &name).yaml()])?;
    eventually("the pod runs", PATIENCE, || Ok(world.is_running(&name)))?;
    let socket = tcp::sockets(&world.place(&name)?.space, to, 1)?.pop().context("one socket")?;
    tcp::timed_connect(&socket, to, PATIENCE).with_context(|| format!("{name} reaches nobody"))?;
    Ok(start.elapsed())
}

/// What one layout of entries gives a node, and what it costs there.
struct Layout {
    keys: usize,
    rss_mib: f64,
    seconds: f64,
}

struct Keys {
    ours: Layout,
    all: Layout,
}

/// 5,000 identities, 30 of them on node 1: with root there, how many keys can be had?
fn keys(world: &World) -> Result<Keys> {
    let spire = world.spire()?;
    let socket = spire.paths().admin_socket("node1");
    let id = |layout: &str, n: usize| format!("spiffe://{TRUST_DOMAIN}/{layout}/{n}");
    let node = |n: usize| if n < LOCAL { "node1".to_owned() } else { format!("other{}", n / LOCAL) };
    let selector = |n: usize| ("bench".to_owned(), format!("pod:{n}"));
    let entries =
        (0..IDENTITIES).map(|n| (id("bench", n), parent_id(&node(n)), selector(n).0, selector(n).1));
    let begun = Instant::now();
    create(&spire, entries)?;
    let mut got = std::collections::BTreeSet::new();
    let every: Vec<(String, String)> = (0..IDENTITIES).map(selector).collect();
    eventually("node 1's entries have reached it", PATIENCE * 2, || {
        got = obtainable(&socket, every.clone())?;
        Ok(got.len() >= LOCAL)
    })?;
    let ours = Layout { keys: got.len(), rss_mib: rss_mib(world)?, seconds: begun.elapsed().as_secs_f64() };
    let ids: Vec<String> = (0..IDENTITIES).map(|n| id("all", n)).collect();
    let begun = Instant::now();
    let claimed = cilium_layout(&spire, &ids)?;
    eventually("all entries have reached it", PATIENCE * 5, || {
        got = obtainable(&socket, vec![claimed.clone()])?;
        Ok(got.len() >= IDENTITIES)
    })?;
    let all = Layout { keys: got.len(), rss_mib: rss_mib(world)?, seconds: begun.elapsed().as_secs_f64() };
    ensure!(ours.keys == LOCAL, "node 1 can get {} keys, {LOCAL} are its own", ours.keys);
    Ok(Keys { ours, all })
}

/// Resident memory of node 1's SPIRE agent.
fn rss_mib(world: &World) -> Result<f64> {
    let record = world.lab().paths().processes().join("spire-agent-node1.json");
    let pid = Record::load_alive(&record).context("node 1's SPIRE agent runs")?.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok((kib / 1024.0 * 10.0).round() / 10.0)
}

fn print(report: &Report, pods: usize) {
    println!("\nFrom a pod's creation to its first authenticated byte, real SPIRE");
    let mut table = report::table(&["SPIRE", "pods", "p50 ms", "p99 ms"]);
    let (p50, p99) = (ms(report.pod_to_first_byte_p50_ms), ms(report.p99_ms));
    table.add_row(["registrar, set up to be quick", &pods.to_string(), &p50, &p99]);
    let (p50, p99) = (ms(report.static_p50_ms), ms(report.static_p99_ms));
    table.add_row(["entries made before the pods, default intervals", &pods.to_string(), &p50, &p99]);
    let (p50, p99) = (ms(report.default_p50_ms), ms(report.default_p99_ms));
    table.add_row(["registrar, default intervals, all at once", &SLOW_PODS.to_string(), &p50, &p99]);
    println!("{table}\n\nWhat node 1 can get: {IDENTITIES} identities, {LOCAL} of them its own");
    let mut table =
        report::table(&["entries", "keys", "SPIRE agent's memory MiB", "until all were signed s"]);
    let row = |name: &str, keys: usize, rss: f64, seconds: f64| {
        [name.to_owned(), keys.to_string(), format!("{rss:.1}"), format!("{seconds:.1}")]
    };
    table.add_row(row(
        "a parent for each node",
        report.keys_held,
        report.spire_agent_rss_mib,
        report.sign_seconds,
    ));
    let all = (
        report.keys_held_all_identities,
        report.spire_agent_rss_all_identities_mib,
        report.sign_seconds_all_identities,
    );
    table.add_row(row("one for all, as Cilium has it", all.0, all.1, all.2));
    println!("{table}");
}
