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
mod clock;
mod device;
mod handshakes;
mod limits;
mod offload;
mod plane;
mod receive;
mod server;
mod socket;
mod sources;
mod transmit;
mod tun;
mod tun_sys;
mod udp_recv;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::Args;
use crate::background::Ready;
use crate::device::Device;
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
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(limits::WORKERS).enable_all().build()?;
    let result = runtime.block_on(run(args));
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
    let device = Arc::new(Device::new(tun.clone()));
    carry(&device)?;
    let result = serve(tun, Plane::new(device), &server).await;
    tracing::info!(interface = args.interface, "end");
    result
}

async fn start(args: &Args) -> anyhow::Result<(Tun, Server)> {
    let name = &args.interface;
    let tun = Tun::create(name, args.mtu).with_context(|| format!("creating the TUN device {name}"))?;
    let server = Server::bind(name).await.with_context(|| format!("listening on {name}.sock"))?;
    Ok((tun, server))
}

/// Starts the threads that live as long as the process: it ends, and they with it, when its device is gone.
fn carry(device: &Arc<Device>) -> anyhow::Result<()> {
    let [packets, messages, timers] = [0; 3].map(|_| Arc::clone(device));
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("transmit").spawn(move || {
        if let Err(error) = transmit::run(&packets) {
            tracing::debug!(%error, "reading the device");
        }
        packets.tun.lost();
    })?;
    thread("handshakes").spawn(move || handshakes::run(&messages))?;
    thread("timers").spawn(move || {
        loop {
            std::thread::sleep(limits::TICK);
            timers.tick();
        }
    })?;
    Ok(())
}

async fn serve(tun: Tun, plane: Plane, server: &Server) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        served = server.run(Arc::new(Mutex::new(plane))) => served.context("configuration socket"),
        () = tun.gone() => Err(anyhow::anyhow!("the device was deleted")),
    }
}

fn log(level: tracing::Level) {
    let filter = Targets::new().with_default(level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
