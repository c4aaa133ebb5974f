//! Start order: settings, logs, lock, control socket, node.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use countersign_agent::config::Config;
use countersign_agent::limits;
use countersign_agent::node::Node;
use countersign_agent_api::Listener;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

/// A handshake makes and drops some hundred small things, on other threads than it began on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`: how many milliseconds freed memory is kept from the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // An agent is one of many on its node: what a burst needed goes back when it is over.
    // SAFETY: it stores a number; nothing has been started yet that could store one too.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    // For the same reason no huge pages. Where they cannot be refused, it is a little larger.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let config = Config::parse();
    let quiet = ",netlink_packet_route=error";
    let filter = EnvFilter::try_new(config.log.clone() + quiet).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // Keys are in this process: no core dump, and no reading of its memory by others of the same user.
    nix::sys::prctl::set_dumpable(false).context("switching core dumps off")?;
    // A panic in any task ends the process: a dead task must never go unnoticed. The supervisor starts the
    // agent again, and traffic goes on as the pinned maps say meanwhile.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let run_dir = config.run_dir.clone();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run_dir)
        .with_context(|| format!("making {}", run_dir.display()))?;
    let _lock = lock(&run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(serve(config))
}

/// One agent per node: a second one would write the same maps.
fn lock(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = run_dir.join("agent.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow::anyhow!("{}: {error}: another agent runs on this node", path.display()))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let socket = config.run_dir.join("agent.sock");
    let mut listener =
        Listener::bind(&socket).with_context(|| format!("listening on {}", socket.display()))?;
    let (requests, inbox) = mpsc::channel(limits::REQUESTS);
    let (node, inputs) = Node::open(config, inbox).await?;
    tokio::spawn(async move {
        while let Some(connection) = listener.accept().await {
            if requests.send(connection).await.is_err() {
                return;
            }
        }
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = node.run(inputs) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
