//! countersign-wg: a WireGuard device in user space.
//!
//! What the program promises:
//! - The device and its configuration socket are there when the starting process returns (or `ready` is
//!   logged), and are gone when the process ends, however it ends.
//! - It speaks the cross-platform configuration protocol: `wg show`, `wg set`, `wg setconf` work.
//! - Changing a peer's prefixes, endpoint, keepalive or preshared key leaves its session alone.
//! - Packets that arrive before the first handshake is done wait for it (256 for each peer).
//! - Keys are in its memory only: no core dumps, nothing in logs.

mod args;
mod background;
mod limits;
mod plane;
mod server;
mod sources;
mod tun;
mod udp;
mod udp_recv;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use countersign_wg::{offload, tun_sys};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::Args;
use crate::background::Ready;
use crate::plane::Plane;
use crate::server::Server;
use crate::tun::Tun;

fn main() -> ExitCode {
    let args = Args::parse();
    background::harden();
    let done = if args.foreground { foreground(&args) } else { background::start(&args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign-wg: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn foreground(args: &Args) -> anyhow::Result<()> {
    background::detach();
    log(args.log_level);
    background::end_on_panic();
    let workers =
        std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, limits::WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(run(args));
    // Reading tasks may still hold the device; the process ends, and it with them.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let mut ready = Ready::new(args.ready_fd);
    let (tun, server) = match start(args).await {
        Ok(started) => {
            ready.tell(&Ok(()));
            started
        }
        Err(error) => {
            let error = Err(error);
            ready.tell(&error);
            return error;
        }
    };
    tracing::info!(interface = args.interface, mtu = args.mtu, "ready");
    let plane = Arc::new(Mutex::new(Plane::new(tun.clone())));
    let result = serve(tun, &plane, &server).await;
    plane.lock().await.stop().await;
    tracing::info!(interface = args.interface, "end");
    result
}

async fn start(args: &Args) -> anyhow::Result<(Tun, Server)> {
    let name = &args.interface;
    let tun = Tun::create(name, args.mtu).with_context(|| format!("creating the TUN device {name}"))?;
    let server = Server::bind(name).await.with_context(|| format!("listening on {name}.sock"))?;
    Ok((tun, server))
}

async fn serve(mut tun: Tun, plane: &Arc<Mutex<Plane>>, server: &Server) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        served = server.run(Arc::clone(plane)) => served.context("configuration socket"),
        () = tun.gone() => Err(anyhow::anyhow!("the device was deleted")),
        () = push(plane) => Ok(()),
    }
}

/// Gives silent peers a push from time to time. Never ends.
async fn push(plane: &Mutex<Plane>) {
    loop {
        tokio::time::sleep(limits::PUSH_EVERY).await;
        plane.lock().await.push().await;
    }
}

/// Ours as asked for. The core reports every reconfiguration as an error, so it is heard only by those who
/// look closely.
fn log(level: tracing::Level) {
    let core = if level > tracing::Level::INFO { LevelFilter::from_level(level) } else { LevelFilter::OFF };
    let filter = Targets::new().with_default(level).with_target("gotatun", core);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
