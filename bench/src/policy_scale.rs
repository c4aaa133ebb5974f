//! The policy engine at the size of a large cluster, on one core: everything compiled, one thing changed, and what
//! a packet pays for the size of the table, beside lists of rules in iptables and nftables.

mod lists;
mod packets;
mod world;

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::Cell;
use countersign_policy::{EndpointPolicy, Repository};
use serde::Serialize;

use crate::report;
use world::World;

/// Changes of each kind of which the slowest in a hundred counts.
const TRIALS: u32 = 1_000;
/// Entries of the small table.
const FEW: u32 = 10;
/// Entries of the large one, and rules of the lists beside it.
const MANY: u32 = 100_000;
/// Rules of the endpoint with the large table; each allows all peers one port.
const WIDE_RULES: u32 = 10;

/// How large a cluster.
#[derive(Args)]
pub struct Sizes {
    /// CiliumNetworkPolicies
    #[arg(long, default_value_t = 10_000)]
    policies: u32,
    /// Identities
    #[arg(long, default_value_t = 10_000)]
    identities: u32,
    /// Endpoints of this node
    #[arg(long, default_value_t = 200)]
    endpoints: u32,
    /// Leave out what needs root: packets, iptables, nftables
    #[arg(long)]
    pure: bool,
}

#[derive(Debug, Default, Serialize)]
struct Measured {
    rules: usize,
    identities: u32,
    endpoints: u32,
    entries: usize,
    parse_s: f64,
    full_s: f64,
    policy_ms: f64,
    policy_ms_p50: f64,
    identity_ms: f64,
    identity_ms_p50: f64,
    rule_change_ms: f64,
    rss_mib: f64,
    ns_10_entries: f64,
    ns_100k_entries: f64,
    iptables_ns: f64,
    nftables_ns: f64,
}

/// Measures; needs root for the packets.
pub fn run(json: bool, sizes: &Sizes) -> Result<()> {
    let mut measured =
        Measured { identities: sizes.identities, endpoints: sizes.endpoints, ..Measured::default() };
    compile(sizes, &mut measured)?;
    measured.rule_change_ms = change_in_large_table()?;
    measured.rss_mib = peak_memory_mib()?;
    if !sizes.pure {
        (measured.ns_10_entries, measured.ns_100k_entries) = packets::run(FEW, MANY)?;
        measured.iptables_ns = lists::iptables(MANY)?;
        measured.nftables_ns = lists::nftables(MANY)?;
    }
    print(&measured);
    report::json(json, &measured)
}

/// Everything at once, then one policy and one identity at a time.
fn compile(sizes: &Sizes, measured: &mut Measured) -> Result<()> {
    let world = World { policies: sizes.policies, identities: sizes.identities };
    let started = Instant::now();
    let policies = world.policies()?;
    measured.parse_s = started.elapsed().as_secs_f64();
    measured.rules = policies.iter().flat_map(|policy| &policy.rules).map(|rule| rule.clauses.len()).sum();

    let started = Instant::now();
    let mut repository = Repository::new();
    repository.watch((0..sizes.endpoints).map(|index| world.endpoint(index, sizes.endpoints)).collect());
    for (number, labels) in world.labels() {
        repository.upsert_identity(number, labels);
    }
    for policy in policies {
        repository.upsert_policy(policy);
    }
    world::number_ranges(&mut repository);
    let mut endpoints: Vec<(u32, EndpointPolicy)> = Vec::new();
    for (index, slot) in (0..sizes.endpoints).zip(1..) {
        let identity = world.endpoint(index, sizes.endpoints);
        let mut policy = EndpointPolicy { slot, ..EndpointPolicy::default() };
        let ops = repository.refresh_whole(identity, &mut policy).ops;
        // More than one where authentication is asked for: the strictest comes first.
        ensure!(ops.len() >= policy.entries.len() + policy.exact.len(), "operations are missing");
        endpoints.push((identity, policy));
    }
    measured.full_s = started.elapsed().as_secs_f64();
    measured.entries = endpoints.iter().map(|(_, policy)| policy.entries.len()).sum();

    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let policy = world.one_more(trial, sizes.endpoints)?;
        let started = Instant::now();
        let touched = repository.upsert_policy(policy);
        refresh(&repository, &mut endpoints, &touched);
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    (measured.policy_ms_p50, measured.policy_ms) = quantiles(times);
    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let (number, labels) = world.newcomer(trial);
        let started = Instant::now();
        let touched = repository.upsert_identity(number, labels);
        refresh(&repository, &mut endpoints, &touched);
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    (measured.identity_ms_p50, measured.identity_ms) = quantiles(times);
    // What came one at a time is what would have come at once.
    for (identity, policy) in &endpoints {
        ensure!(
            repository.resolve(*identity, policy.slot) == *policy,
            "identity {identity} is not up to date"
        );
    }
    Ok(())
}

/// Brings the endpoints that are concerned up to date, as the agent does.
fn refresh(
    repository: &Repository,
    endpoints: &mut [(u32, EndpointPolicy)],
    touched: &countersign_policy::Touched,
) {
    for (identity, policy) in endpoints {
        if let Some(scope) = touched.scope(*identity) {
            repository.refresh(*identity, policy, scope);
        }
    }
}

/// One rule of an endpoint with a hundred thousand entries gets another port: milliseconds.
fn change_in_large_table() -> Result<f64> {
    let world = World { policies: 0, identities: MANY / WIDE_RULES };
    let mut repository = Repository::new();
    let endpoint = world.endpoint(0, 1);
    repository.watch([endpoint].into());
    for (number, labels) in world.labels() {
        repository.upsert_identity(number, labels);
    }
    for index in 0..WIDE_RULES {
        repository.upsert_policy(world::wide(index)?);
    }
    repository.upsert_policy(world::narrow(9000)?);
    let mut policy = EndpointPolicy { slot: 1, ..EndpointPolicy::default() };
    repository.refresh_whole(endpoint, &mut policy);
    ensure!(policy.entries.len() >= MANY as usize, "{} entries", policy.entries.len());
    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let changed = world::narrow(9001 + u16::try_from(trial)?)?;
        let started = Instant::now();
        let touched = repository.upsert_policy(changed);
        let scope = touched.scope(endpoint).context("nobody is concerned")?;
        let refresh = repository.refresh(endpoint, &mut policy, scope);
        times.push(started.elapsed().as_secs_f64() * 1e3);
        ensure!((1..10).contains(&refresh.ops.len()), "{} operations", refresh.ops.len());
    }
    Ok(quantiles(times).1)
}

/// The median and the slowest in a hundred.
fn quantiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99))
}

/// The most memory this process has had, MiB.
fn peak_memory_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

fn print(measured: &Measured) {
    let mut table = report::table(&["what", "measured", "bar"]);
    let mut row = |what: &str, value: String, bar: &str| {
        table.add_row([Cell::new(what), Cell::new(value), Cell::new(bar)]);
    };
    let m = measured;
    row("rules", m.rules.to_string(), "");
    row("identities", m.identities.to_string(), "");
    row("endpoints", m.endpoints.to_string(), "");
    row("entries of all endpoints", m.entries.to_string(), "");
    row("documents read, s", format!("{:.2}", m.parse_s), "");
    row("everything compiled, s", format!("{:.2}", m.full_s), "5");
    row("one policy added, ms (p50)", report::ms(m.policy_ms_p50), "");
    row("one policy added, ms (p99)", report::ms(m.policy_ms), "5");
    row("one identity added, ms (p50)", report::ms(m.identity_ms_p50), "");
    row("one identity added, ms (p99)", report::ms(m.identity_ms), "0.1");
    row("one rule changed, 100,000 entries, ms (p99)", report::ms(m.rule_change_ms), "1");
    row("most memory, MiB", format!("{:.0}", m.rss_mib), "512");
    row("first packet, 10 entries, ns", format!("{:.0}", m.ns_10_entries), "");
    row("first packet, 100,000 entries, ns", format!("{:.0}", m.ns_100k_entries), "1.5 times that");
    row("iptables, 100,000 rules, ns", format!("{:.0}", m.iptables_ns), "");
    row("nftables, 100,000 rules, ns", format!("{:.0}", m.nftables_ns), "");
    println!("{table}");
}
