//! Several registrars of one cluster: one leads, the others wait.

use countersign_cluster::{Candidate, KubeSource, Kubernetes, LeaseName};
use countersign_policy::Settings;
use countersign_spire_proto::Turn;

use crate::config::Config;
use crate::limits::RELEASE_DEADLINE;
use crate::registrar::Registrar;
use crate::status::{self, StatusFile, unix};

/// Waits for this registrar's turn, leads as long as it is, and so on until `ended`; then the Lease is given back.
///
/// # Errors
/// Where the settings are refused.
pub async fn take_turns(
    config: &Config,
    cluster: &Kubernetes,
    ended: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let namespace = config.election.namespace.clone();
    let name = config.election.name.clone();
    let lease = LeaseName { namespace: namespace.unwrap_or_else(|| cluster.namespace().to_owned()), name };
    let mut turns = Turns {
        config,
        cluster,
        candidate: Candidate::new(cluster, lease.clone(), identity()?, config.election.timing()?),
        lease,
    };
    tracing::info!(server = cluster.server(), lease = %turns.lease, "follows the API server");
    let result = tokio::select! {
        result = turns.run() => result,
        () = ended => Ok(()),
    };
    // Nothing of the leader's work is left by now.
    turns.candidate.release(RELEASE_DEADLINE).await;
    result
}

struct Turns<'a> {
    config: &'a Config,
    cluster: &'a Kubernetes,
    candidate: Candidate,
    lease: LeaseName,
}

impl Turns<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.wait().await?;
            let (changes, _source) = KubeSource::spawn(self.cluster, Settings::default());
            let registrar = Registrar::new(self.config, changes, Some(self.turn(true)))?;
            tracing::info!(lease = %self.lease, identity = self.candidate.identity(), "leads");
            tokio::select! {
                // First, so that whoever wakes up too late learns so before it does anything.
                biased;
                () = self.candidate.lead() => {}
                ended = registrar.run() => return ended,
            }
            let why = self.candidate.last_error().unwrap_or("another has it");
            tracing::warn!(lease = %self.lease, why, "leads no more; writes nothing");
        }
    }

    /// Until this registrar leads.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let mut file = StatusFile::new(self.config.status_file.clone());
        let mut known = None;
        let mut seen = unix();
        while !self.candidate.is_leader() {
            if self.candidate.last_error().is_none() {
                seen = unix();
            }
            let turn = Turn { seen, ..self.turn(false) };
            if known.as_ref() != Some(&turn.leader) {
                tracing::info!(lease = %self.lease, leader = turn.leader.as_deref().unwrap_or("nobody"), "waits");
                known = Some(turn.leader.clone());
            }
            let mut status = status::first(self.config, Some(turn))?;
            status.last_error = self.candidate.last_error().map(|error| format!("API server: {error}"));
            file.write(&status);
            self.candidate.step().await;
        }
        Ok(())
    }

    fn turn(&self, leads: bool) -> Turn {
        Turn {
            lease: self.lease.to_string(),
            identity: self.candidate.identity().to_owned(),
            leader: self.candidate.holder().map(str::to_owned),
            leads,
            seen: unix(),
        }
    }
}

/// A name that no other process has, nor one before it had: the pod's, and something random, as client-go does it.
fn identity() -> anyhow::Result<String> {
    let host = nix::unistd::gethostname()?;
    Ok(format!("{}_{:016x}", host.to_string_lossy(), rand::random::<u64>()))
}
