//! `countersign-bench NAME [--json]`: one measurement each, on a real lab where one is needed (as root).

mod datapath;
mod first_connection;
mod first_datagram;
mod handshakes;
mod limits;
mod policy_latency;
mod policy_scale;
mod renewal;
mod report;
mod scene;
mod spire;
mod wireguard;
mod wireguard_flood;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Countersign.
#[derive(Parser)]
#[command(name = "countersign-bench", version, about)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Print one JSON object as the last line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Benchmark {
    /// What the eBPF programs cost per packet, and how long the verifier's work on them is
    Datapath,
    /// The first TCP connection of fresh pairs, with parking and without; later ones beside an open path
    FirstConnection,
    /// 1,000 fresh pairs, one datagram each; 100 pairs, 20 datagrams at once
    FirstDatagram,
    /// A steady flow under SVIDs that live for 30 seconds
    Renewal {
        /// How long
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        /// Kill the client's agent a third into it
        #[arg(long)]
        kill_agent: bool,
    },
    /// Real SPIRE: from a pod's creation to its first authenticated byte; keys a node can get out of 5,000 identities
    Spire(spire::Parts),
    /// 10,000 policies and identities, 200 endpoints: compiled, changed, and what a packet pays
    PolicyScale(policy_scale::Sizes),
    /// From a manifest written to the first packet decided by it, on a node with 200 endpoints
    PolicyLatency(policy_latency::Size),
    /// The data plane beside wireguard-go and others: throughput, latency, processor time
    Wireguard,
    /// A genuine flow beside 100,000 handshake messages a second, ours and wireguard-go's
    WireguardFlood,
    /// 100 identities against 100: all pairs from cold, and at 2,000 per second
    Handshakes,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { benchmark, json }: Arguments) -> anyhow::Result<()> {
    match benchmark {
        Benchmark::Datapath => datapath::run(json),
        Benchmark::FirstConnection => first_connection::run(json),
        Benchmark::FirstDatagram => first_datagram::run(json),
        Benchmark::Renewal { seconds, kill_agent } => renewal::run(json, seconds, kill_agent),
        Benchmark::Spire(parts) => spire::run(json, &parts),
        Benchmark::Handshakes => handshakes::run(json),
        Benchmark::PolicyLatency(size) => policy_latency::run(json, &size),
        Benchmark::Wireguard => wireguard::run(json),
        Benchmark::WireguardFlood => wireguard_flood::run(json),
        Benchmark::PolicyScale(sizes) => policy_scale::run(json, &sizes),
    }
}
