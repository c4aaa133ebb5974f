//! `wireguard`: the data plane beside others on one rig, in turns, in one run: two namespaces, a cable, iperf3.
//!
//! Both ends, the sender and the receiver share the machine's cores, so the figures are not those of two machines;
//! the ratios are what they are for.

mod aead;
mod packets;
pub mod rig;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use countersign_e2e::stats::{Samples, rounded};
use serde::Serialize;

use self::rig::{End, Program, Rig};
use crate::limits::{TUNNEL_ROUNDS, TUNNEL_SECONDS};
use crate::report;

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    streams: u32,
    ours_gbps: Option<f64>,
    wireguard_go_gbps: Option<f64>,
    boringtun_gbps: Option<f64>,
    gotatun_gbps: Option<f64>,
    ratio_to_wireguard_go: Option<f64>,
    aead_limit_gbps: f64,
    ours_cpu_s_per_gb: Option<f64>,
    wireguard_go_cpu_s_per_gb: Option<f64>,
}

#[derive(Serialize)]
struct Latency {
    kind: &'static str,
    ours_p50_us: f64,
    ours_p99_us: f64,
    wireguard_go_p50_us: f64,
    wireguard_go_p99_us: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    latency: Vec<Latency>,
    packets: Vec<packets::Cost>,
}

/// One stream of something through a tunnel.
#[derive(Clone, Copy)]
struct Load {
    kind: &'static str,
    streams: u32,
    /// What iperf3 is told besides.
    arguments: &'static [&'static str],
    inner: bool,
}

const LOADS: &[Load] = &[
    Load { kind: "tcp", streams: 1, arguments: &[], inner: false },
    Load { kind: "tcp", streams: 8, arguments: &[], inner: false },
    Load { kind: "udp", streams: 1, arguments: &["-u", "-b", "0", "-l", "1400"], inner: false },
    Load { kind: "vxlan", streams: 1, arguments: &[], inner: true },
];

/// What one implementation did in its turns.
#[derive(Clone, Copy, Default)]
struct Sum {
    gigabits: f64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Sum {
    fn gbps(self) -> f64 {
        rounded(self.gigabits / self.seconds)
    }

    fn cpu_per_gigabyte(self) -> f64 {
        rounded(self.cpu_seconds / (self.gigabits / 8.0))
    }
}

/// Brings all of them up, and measures them in turns.
pub fn run(json: bool) -> Result<()> {
    let programs = programs()?;
    let mut rigs = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        let rig = Rig::up(program, index)?;
        rig.vxlan()?;
        rigs.push(rig);
    }
    let mut rows = Vec::new();
    for load in LOADS {
        rows.push(row(*load, &programs, &rigs)?);
    }
    let latency = vec![latency("rr", None, &rigs)?, latency("rr under load", Some(LOADS[0]), &rigs)?];
    let packets = packets::costs()?;
    print(&rows, &latency);
    print_costs(&packets);
    report::json(json, &Report { rows, latency, packets })
}

/// Ours, beside this program; wireguard-go and, where they were built, the others out of the cache of peers.
pub fn programs() -> Result<Vec<Program>> {
    let ours = std::env::current_exe()?.with_file_name("countersign-wg");
    let peers = cache()?.join("peers");
    let go =
        newest(&peers, "wireguard-go-", "wireguard").context("no wireguard-go: run `cargo xtask peers`")?;
    let mut all = vec![
        Program { name: "countersign-wg", path: ours, arguments: &["--foreground"] },
        Program { name: "wireguard-go", path: go, arguments: &["-f"] },
    ];
    if let Some(path) = newest(&peers, "boringtun-", "boringtun-cli") {
        all.push(Program { name: "boringtun", path, arguments: &["-f", "--disable-drop-privileges"] });
    }
    if let Some(path) = newest(&peers, "gotatun-", "gotatun") {
        all.push(Program { name: "gotatun", path, arguments: &["-f", "--disable-drop-privileges"] });
    }
    Ok(all)
}

fn newest(peers: &Path, prefix: &str, program: &str) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::fs::read_dir(peers).ok()?.flatten().map(|entry| entry.path()).collect();
    places.retain(|place| {
        place.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    });
    places.sort();
    places.into_iter().map(|place| place.join(program)).rfind(|program| program.is_file())
}

fn cache() -> Result<PathBuf> {
    let given = std::env::var_os("COUNTERSIGN_CACHE_DIR").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("countersign"));
    let home = || std::env::var_os("HOME").map(|dir| Path::new(&dir).join(".cache/countersign"));
    given.or_else(xdg).or_else(home).context("no HOME: set COUNTERSIGN_CACHE_DIR")
}

/// All implementations in turns, so that a slow minute is everybody's.
fn row(load: Load, programs: &[Program], rigs: &[Rig]) -> Result<Row> {
    let mut sums = vec![Sum::default(); rigs.len()];
    let mut limit = 0.0;
    for _ in 0..TUNNEL_ROUNDS {
        limit += aead::limit_gbps()? / f64::from(TUNNEL_ROUNDS);
        for ((rig, sum), program) in rigs.iter().zip(&mut sums).zip(programs) {
            let before = rig.cpu_seconds()?;
            let gbps = stream(rig, load).with_context(|| format!("{} over {}", load.kind, program.name))?;
            sum.gigabits += gbps * TUNNEL_SECONDS as f64;
            sum.seconds += TUNNEL_SECONDS as f64;
            sum.cpu_seconds += rig.cpu_seconds()? - before;
        }
    }
    let of = |name: &str| programs.iter().position(|program| program.name == name).map(|at| sums[at]);
    let (ours, go) = (of("countersign-wg"), of("wireguard-go"));
    Ok(Row {
        kind: load.kind,
        streams: load.streams,
        ours_gbps: ours.map(Sum::gbps),
        wireguard_go_gbps: go.map(Sum::gbps),
        boringtun_gbps: of("boringtun").map(Sum::gbps),
        gotatun_gbps: of("gotatun").map(Sum::gbps),
        ratio_to_wireguard_go: ours.zip(go).map(|(ours, go)| rounded(ours.gbps() / go.gbps())),
        aead_limit_gbps: rounded(limit),
        ours_cpu_s_per_gb: ours.map(Sum::cpu_per_gigabyte),
        wireguard_go_cpu_s_per_gb: go.map(Sum::cpu_per_gigabyte),
    })
}

/// Gbit/s that arrive.
fn stream(rig: &Rig, load: Load) -> Result<f64> {
    let streams = load.streams.to_string();
    let mut arguments = vec!["-P", &streams];
    arguments.extend(load.arguments);
    let [near, far] = &rig.ends;
    let to = if load.inner { far.inner() } else { far.tunnel() };
    iperf3(near, far, to, TUNNEL_SECONDS, &arguments)
}

/// Gbit/s of an iperf3 with these arguments besides, straight through the tunnel.
pub fn throughput(rig: &Rig, seconds: u64, arguments: &[&str]) -> Result<f64> {
    let [near, far] = &rig.ends;
    iperf3(near, far, far.tunnel(), seconds, arguments)
}

fn iperf3(near: &End, far: &End, to: IpAddr, seconds: u64, arguments: &[&str]) -> Result<f64> {
    let server = serve(far, to)?;
    let (seconds, to) = (seconds.to_string(), to.to_string());
    let mut command = vec!["iperf3", "-J", "-c", &to, "-t", &seconds];
    command.extend(arguments);
    let text = near.run(&command);
    drop(server);
    let said: serde_json::Value = serde_json::from_str(&text?).context("what iperf3 says")?;
    let field = |pointer: &str| said.pointer(pointer).and_then(serde_json::Value::as_f64);
    // For datagrams the sum says what was sent, and how much of that was lost.
    let lost = field("/end/sum/lost_percent").filter(|_| arguments.contains(&"-u"));
    let bits = match lost {
        Some(percent) => field("/end/sum/bits_per_second").map(|bits| bits * (1.0 - percent / 100.0)),
        None => field("/end/sum_received/bits_per_second"),
    };
    Ok(bits.context("iperf3 measured nothing")? / 1e9)
}

/// An iperf3 that serves one client, and is ended when dropped.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(end: &End, address: IpAddr) -> Result<Server> {
    let mut server = Server(end.spawn(&["iperf3", "-s", "-1", "-B", &address.to_string()])?);
    let until = Instant::now() + Duration::from_secs(10);
    while !end.run(&["ss", "-Htln", "sport = 5201"])?.contains("5201") {
        if server.0.try_wait()?.is_some() || Instant::now() > until {
            bail!("iperf3 does not listen");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// Requests and answers of one byte, one after the other, ours and wireguard-go's in turns.
fn latency(kind: &'static str, load: Option<Load>, rigs: &[Rig]) -> Result<Latency> {
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..TUNNEL_ROUNDS {
        for (rig, samples) in rigs.iter().zip(&mut samples) {
            samples.extend(round_trips(rig, load)?);
        }
    }
    let [ours, go] = samples.map(|samples| samples.into_iter().collect::<Samples>());
    let us = |ms: f64| rounded(ms * 1e3);
    Ok(Latency {
        kind,
        ours_p50_us: us(ours.p50()),
        ours_p99_us: us(ours.p99()),
        wireguard_go_p50_us: us(go.p50()),
        wireguard_go_p99_us: us(go.p99()),
    })
}

fn round_trips(rig: &Rig, load: Option<Load>) -> Result<Vec<Duration>> {
    let [near, far] = &rig.ends;
    let (ready, is_ready) = mpsc::channel();
    let to = SocketAddr::new(far.tunnel(), 9_000);
    let server = far.inside(move || {
        let listener = TcpListener::bind(to)?;
        ready.send(())?;
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    is_ready.recv().context("the answering side does not listen")?;
    let client = near.inside(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        let end = Instant::now() + Duration::from_secs(TUNNEL_SECONDS);
        let mut samples = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            stream.write_all(&[1])?;
            stream.read_exact(&mut [0])?;
            samples.push(began.elapsed());
        }
        Ok(samples)
    });
    if let Some(load) = load {
        stream(rig, load)?;
    }
    let panicked = |_| anyhow!("a measuring thread panicked");
    let samples = client.join().map_err(panicked)??;
    server.join().map_err(panicked)??;
    Ok(samples)
}

fn print(rows: &[Row], latency: &[Latency]) {
    let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let mut table = report::table(&[
        "through the tunnel, Gbit/s",
        "countersign-wg",
        "wireguard-go",
        "boringtun",
        "gotatun",
        "ratio to wireguard-go",
        "cipher alone",
        "CPU s/GB",
        "wireguard-go's",
    ]);
    for row in rows {
        table.add_row([
            format!("{}, {} streams", row.kind, row.streams),
            shown(row.ours_gbps),
            shown(row.wireguard_go_gbps),
            shown(row.boringtun_gbps),
            shown(row.gotatun_gbps),
            shown(row.ratio_to_wireguard_go),
            shown(Some(row.aead_limit_gbps)),
            shown(row.ours_cpu_s_per_gb),
            shown(row.wireguard_go_cpu_s_per_gb),
        ]);
    }
    println!("{table}");
    let mut table = report::table(&["request and answer, us", "p50", "p99", "wireguard-go p50", "p99"]);
    for row in latency {
        let us = |value: f64| format!("{value:.0}");
        table.add_row([
            row.kind.to_owned(),
            us(row.ours_p50_us),
            us(row.ours_p99_us),
            us(row.wireguard_go_p50_us),
            us(row.wireguard_go_p99_us),
        ]);
    }
    println!("{table}");
}

fn print_costs(costs: &[packets::Cost]) {
    let mut table =
        report::table(&["ns for each packet of 1,400 bytes", "cut", "joined", "of that, its checksum"]);
    for cost in costs {
        let ns = |value: f64| format!("{value:.0}");
        table.add_row([cost.kind.to_owned(), ns(cost.cut_ns), ns(cost.joined_ns), ns(cost.checksum_ns)]);
    }
    println!("{table}");
}
