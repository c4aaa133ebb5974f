//! Start order: settings, logs, cluster source, registrar.

use std::process::ExitCode;

use clap::Parser;
use countersign_cluster::{DirConfig, DirSource};
use countersign_registrar::Registrar;
use countersign_registrar::config::Config;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let config = Config::parse();
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    // The key of an administrator of the SPIRE server may be in this process.
    nix::sys::prctl::set_dumpable(false)?;
    // A panic in any task ends the process: a dead task must never go unnoticed.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    config.layout()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config))
}

/// One registrar of a cluster writes at a time. With a directory of manifests there is one; where several wait for
/// their turn, this is what the one whose turn it is does, until it is over.
async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut directories = DirConfig::new(&config.manifests, &config.status_dir);
    directories.accepted = config.state_dir.as_ref().map(|state| state.join("accepted"));
    let (changes, _source) = DirSource::spawn(directories)?;
    let registrar = Registrar::new(config, changes)?;
    tracing::info!(cluster = config.cluster.cluster(), domain = %config.trust_domain, "registrar");
    tokio::select! {
        ended = registrar.run() => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
