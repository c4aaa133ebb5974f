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
mod checksum;
mod limits;
mod offload;
mod plane;
mod server;
mod tun;
mod tun_sys;
mod udp;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

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
    tracing_subscriber::fmt().with_max_level(args.log_level).with_writer(std::io::stderr).init();
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
    let (plane, server) = match start(args).await {
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
    let result = serve(&plane, &server).await;
    plane.lock().await.stop().await;
    tracing::info!(interface = args.interface, "end");
    result
}

async fn start(args: &Args) -> anyhow::Result<(Arc<Mutex<Plane>>, Server)> {
    let name = &args.interface;
    let tun = Tun::create(name, args.mtu).with_context(|| format!("creating the TUN device {name}"))?;
    let server = Server::bind(name).await.with_context(|| format!("listening on {name}.sock"))?;
    Ok((Arc::new(Mutex::new(Plane::new(tun))), server))
}

async fn serve(plane: &Arc<Mutex<Plane>>, server: &Server) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        served = server.run(Arc::clone(plane)) => served.context("configuration socket"),
        failed = watch(plane) => failed,
    }
}

/// Pushes silent peers from time to time, and ends when the device has failed.
async fn watch(plane: &Mutex<Plane>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(limits::PUSH_EVERY).await;
        let mut plane = plane.lock().await;
        plane.push().await;
        if tokio::time::timeout(Duration::ZERO, plane.failed()).await.is_ok() {
            anyhow::bail!("the device is gone");
        }
    }
}
