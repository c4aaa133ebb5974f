//! What every source of SVIDs has in common: what it is asked, what it answers, and what it says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use countersign_certs::{Bundle, SpiffeId, Svid, TrustDomain};
use tokio::sync::{mpsc, watch};

/// What a source has to say.
#[derive(Clone, Debug)]
pub enum Update {
    /// A fresh SVID; it replaces the one before.
    Svid(Subject, Arc<Svid>),
    /// Unwanted, or the source has said in so many words that it is issued no longer. The last SVID should be
    /// forgotten. A source that is away never says this.
    Removed(Subject),
    /// The source has said of every workload this is wanted for that there is none, and none was held: it was not
    /// issued yet, or is issued no longer.
    Absent(Subject),
    /// The authorities of a trust domain; they replace the ones before.
    Bundle(TrustDomain, Arc<Bundle>),
    /// The source has said that this trust domain is not federated with any more.
    BundleRemoved(TrustDomain),
    /// The source cannot be reached, and why. What it gave stays until it expires.
    Down(String),
    /// It can be reached again.
    Up,
}

/// Who an SVID is to speak for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The security identity, or 0 for the node. Identities whose SPIFFE IDs are equal, because these name no more
    /// than namespace and service account, are told apart: that pods of one may have an SVID does not mean that those
    /// of the other may.
    pub identity: u32,
    /// The SPIFFE ID.
    pub id: SpiffeId,
}

/// A workload that an SVID is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tells it from the others of this node: a pod's UID.
    pub key: String,
    /// How the source is to recognise it.
    pub reference: Reference,
}

/// How a source recognises a workload. The embedded CA recognises everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The process that asks: this agent.
    Caller,
    /// By selectors, pairs of a type and a value, as an attestor of SPIRE would find them: `("k8s",
    /// "pod-uid:…")`. SPIRE's agent believes its delegate in this; which entries it has at all is the server's
    /// affair.
    Selectors(Vec<(String, String)>),
    /// By a process of it, which SPIRE's agent attests itself.
    Pid(i32),
    /// By the oldest process in its network namespace, named by the inode, which SPIRE's agent attests itself: for the
    /// Broker API.
    Namespace(u64),
}

impl Workload {
    /// The agent itself.
    #[must_use]
    pub fn caller() -> Self {
        Self { key: String::new(), reference: Reference::Caller }
    }
}

/// The source has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source of SVIDs has ended")]
pub struct SourceGone;

/// Asks a source for SVIDs. When the last clone is dropped, the source ends.
#[derive(Clone, Debug)]
pub struct SvidSource {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<SourceStatus>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Want(Subject, Workload),
    Unwant(Subject, String),
}

impl SvidSource {
    /// From now on, until [`SvidSource::unwant`], there are to be SVIDs of this subject for this workload. Several
    /// workloads may share one. An ID of another trust domain, or one too many, is logged and gets none.
    pub async fn want(&self, subject: Subject, workload: Workload) -> Result<(), SourceGone> {
        self.commands.send(Command::Want(subject, workload)).await.map_err(|_| SourceGone)
    }

    /// The workload with this key needs no SVIDs of this subject any more.
    pub async fn unwant(&self, subject: Subject, workload: String) -> Result<(), SourceGone> {
        self.commands.send(Command::Unwant(subject, workload)).await.map_err(|_| SourceGone)
    }

    /// What the source says of itself.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.clone()
    }
}

/// What a source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// The connections it lives on; none where it needs none.
    pub connections: Vec<Connection>,
    /// Workloads whose SVIDs are wanted.
    pub workloads: usize,
    /// Workloads of which the source has said that it has no SVID with the expected ID, and what it has instead.
    pub missing: BTreeMap<String, String>,
}

impl SourceStatus {
    /// Since when it cannot be reached (Unix seconds), and why.
    #[must_use]
    pub fn down(&self) -> Option<(u64, &str)> {
        let downs = self.connections.iter().filter_map(Connection::down);
        downs.min_by_key(|(since, _)| *since)
    }
}

/// One connection of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What is spoken: `Workload API`, `Delegated Identity API`, `Broker API`.
    pub api: &'static str,
    /// Where.
    pub socket: String,
    /// Whether the last thing heard was an answer.
    pub is_up: bool,
    /// Since when it is so: Unix seconds.
    pub since: u64,
    /// The last error, also after it was mended.
    pub last_error: Option<String>,
}

impl Connection {
    fn down(&self) -> Option<(u64, &str)> {
        let why = self.last_error.as_deref().unwrap_or("not reached yet");
        (!self.is_up).then_some((self.since, why))
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {}", self.api, self.socket)
    }
}

/// What the reader has not taken yet, the newest of each kind: whether the source is there, then bundles, then
/// SVIDs, so that no SVID is seen before the bundle it leads to.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    unsent: BTreeMap<Slot, Update>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Reach,
    Bundle(TrustDomain),
    Svid(Subject),
}

impl Outbox {
    pub(crate) fn put(&mut self, update: Update) {
        let slot = match &update {
            Update::Down(_) | Update::Up => Slot::Reach,
            Update::Bundle(domain, _) | Update::BundleRemoved(domain) => Slot::Bundle(domain.clone()),
            Update::Svid(of, _) | Update::Removed(of) | Update::Absent(of) => Slot::Svid(of.clone()),
        };
        // That nothing is there says less than whatever has not been read yet.
        if matches!(update, Update::Absent(_)) && self.unsent.contains_key(&slot) {
            return;
        }
        self.unsent.insert(slot, update);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<Update> {
        self.unsent.pop_first().map(|(_, update)| update)
    }
}
