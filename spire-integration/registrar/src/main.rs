//! Start order: settings, logs, cluster source, registrar.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use countersign_cluster::{DirConfig, DirSource, Kubernetes};
use countersign_registrar::config::Config;
use countersign_registrar::{Registrar, take_turns};
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
    config.check()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config))
}

/// One registrar of a cluster writes at a time. With a directory of manifests there is one; in Kubernetes several take
/// turns.
async fn serve(config: &Config) -> anyhow::Result<()> {
    let ended = ended()?;
    tracing::info!(cluster = config.cluster.cluster(), domain = %config.trust_domain, "registrar");
    if config.kubernetes {
        let cluster = match &config.kubeconfig {
            Some(file) => Kubernetes::kubeconfig(file).await?,
            None => Kubernetes::in_cluster().context("--kubernetes without --kubeconfig")?,
        };
        return take_turns(config, &cluster, ended).await;
    }
    let (Some(manifests), Some(status)) = (&config.manifests, &config.status_dir) else {
        bail!("--manifests and --status-dir, or --kubernetes");
    };
    let mut directories = DirConfig::new(manifests, status);
    directories.accepted = config.state_dir.as_ref().map(|state| state.join("accepted"));
    let (changes, _source) = DirSource::spawn(directories)?;
    let registrar = Registrar::new(config, changes, None)?;
    tokio::select! {
        ended = registrar.run() => ended,
        () = ended => Ok(()),
    }
}

/// Resolves when this process is asked to end.
fn ended() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
