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
mod clock;
mod device;
mod hand_over;
mod handshakes;
mod limits;
mod line;
mod plane;
mod receive;
mod server;
mod socket;
mod sources;
mod transmit;
mod tun;
mod udp_recv;
mod workers;

use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use countersign_wg::{offload, tun_sys};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::Args;
use crate::background::Ready;
use crate::device::Device;
use crate::hand_over::Inheritance;
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
    // Before anybody can know that we are here.
    let signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let mut ready = Ready::new(args.ready_fd);
    let started = if args.take_over { take_over(args).await } else { start(args).await };
    let (tun, plane, mut server, successors) = match started {
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
    tracing::info!(interface = args.interface, mtu = tun.mtu(), "ready");
    let result = serve(tun, Arc::new(Mutex::new(plane)), &server, &successors, signals).await;
    if matches!(result, Ok(End::HandedOver)) {
        server.leave();
    } else {
        hand_over::forget(&args.interface);
    }
    tracing::info!(interface = args.interface, "end");
    result.map(|_| ())
}

type Started = (Tun, Plane, Server, UnixListener);

/// A device of our own.
async fn start(args: &Args) -> anyhow::Result<Started> {
    let name = &args.interface;
    let tun = Tun::create(name, args.mtu).with_context(|| format!("creating the TUN device {name}"))?;
    let listening = || format!("listening on {name}.sock");
    Server::wait_for_predecessor(name).await.with_context(listening)?;
    let successors = UnixListener::from_std(hand_over::listen(name).context("listening for successors")?)?;
    let plane = Plane::new(Arc::new(Device::new(tun.clone())), args.threads())?;
    // Last: whoever can connect to it may rely on all the rest.
    let server = Server::bind(name).with_context(listening)?;
    Ok((tun, plane, server, successors))
}

/// The device of another process.
async fn take_over(args: &Args) -> anyhow::Result<Started> {
    let name = &args.interface;
    let asked = name.clone();
    let offer = tokio::task::spawn_blocking(move || hand_over::ask(&asked)).await??;
    // All that can fail without it being ours is done before.
    let observed = Plane::understand(offer.state())?;
    let inheritance = tokio::task::spawn_blocking(|| offer.take()).await??;
    let Inheritance { state, tun, listener, successors, socket } = inheritance;
    let tun = Tun::inherited(tun, state.features)?;
    let server = Server::inherited(name, listener)?;
    let device = Arc::new(Device::new(tun.clone()));
    let plane = Plane::inherited(device, args.threads(), observed, state, socket)?;
    let successors = UnixListener::from_std(successors.into())?;
    Ok((tun, plane, server, successors))
}

/// What asks the process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Why a process ends in order.
enum End {
    Asked,
    HandedOver,
}

async fn serve(
    tun: Tun,
    plane: Arc<Mutex<Plane>>,
    server: &Server,
    successors: &UnixListener,
    mut signals: Signals,
) -> anyhow::Result<End> {
    tokio::select! {
        _ = signals.terminate.recv() => Ok(End::Asked),
        _ = signals.interrupt.recv() => Ok(End::Asked),
        served = server.run(Arc::clone(&plane)) => served.map(|()| End::Asked).context("configuration socket"),
        () = tun.gone() => Err(anyhow::anyhow!("the device was deleted")),
        () = give(&plane, server, successors) => Ok(End::HandedOver),
    }
}

/// Waits for a successor, and gives it everything.
async fn give(plane: &Mutex<Plane>, server: &Server, successors: &UnixListener) {
    let listeners = [server.as_raw_fd(), successors.as_raw_fd()];
    loop {
        let successor = match successors.accept().await {
            Ok((stream, _)) => stream.into_std(),
            Err(error) => Err(error),
        };
        // Nobody configures anything meanwhile.
        let mut plane = plane.lock().await;
        let given = tokio::task::block_in_place(|| plane.give(successor?, listeners));
        match given {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(%error, "the device could not be handed over; it is carried on here")
            }
        }
    }
}

fn log(level: tracing::Level) {
    let filter = Targets::new().with_default(level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
