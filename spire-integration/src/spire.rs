//! SPIRE's agent as the source: its Workload API for the agent's own SVID, and for those of the pods and the bundles
//! either its Delegated Identity API or its Broker API ([`PodsApi`]).
//!
//! One task owns what is held ([`holdings`]); each subscription is a task of its own that reports to it. Messages
//! of SPIRE's agent are whole sets: what is missing in one has been removed, and that is the only way in which
//! anything is. A stream that ends, fails or goes quiet changes nothing that is held.

mod backoff;
mod broker;
mod holdings;
mod message;
mod process;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::{Bundle, Svid, TrustDomain};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::embedded::unix_millis;
use crate::limits::{COMMAND_QUEUE, MAX_WANTED, REPORT_QUEUE, UPDATE_QUEUE};
use crate::source::{Command, Connection, Outbox, Reference, SourceStatus, SvidSource, Update};
use holdings::Holdings;
use message::Said;
use subscription::{Report, Subscription};

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod workload {
    tonic::include_proto!("_");
}

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod proto {
    pub(super) mod types {
        tonic::include_proto!("spire.api.types");
    }
    pub(super) mod agent {
        pub(in super::super) mod delegatedidentity {
            pub(in super::super::super) mod v1 {
                tonic::include_proto!("spire.api.agent.delegatedidentity.v1");
            }
        }
    }
}

// Its definitions know references that we do not make.
#[allow(clippy::all, clippy::pedantic, missing_docs, dead_code)]
mod broker_api {
    tonic::include_proto!("spiffe.broker");
}

use proto::agent::delegatedidentity::v1 as delegated;

const WORKLOAD_API: &str = "Workload API";
const DELEGATED_API: &str = "Delegated Identity API";
const BROKER_API: &str = "Broker API";

/// Where SPIRE's agent is.
#[derive(Clone, Debug)]
pub struct SpireConfig {
    /// Socket of its Workload API.
    pub workload_socket: PathBuf,
    /// Who gives the pods' SVIDs, and the bundles.
    pub pods: PodsApi,
    /// The trust domain.
    pub trust_domain: TrustDomain,
}

/// The interface of SPIRE's agent that the pods' SVIDs come by, and its socket.
#[derive(Clone, Debug)]
pub enum PodsApi {
    /// The Delegated Identity API at its admin socket, for those in its `authorized_delegates`. It believes what they
    /// say of a pod's selectors.
    Delegated(PathBuf),
    /// The SPIFFE Broker API (experimental in SPIRE 1.15), for those in its `brokers`, by their SVIDs. It is told of a
    /// process, and finds the selectors itself.
    Broker(PathBuf),
}

impl PodsApi {
    const fn name(&self) -> &'static str {
        match self {
            Self::Delegated(_) => DELEGATED_API,
            Self::Broker(_) => BROKER_API,
        }
    }

    const fn socket(&self) -> &PathBuf {
        match self {
            Self::Delegated(socket) | Self::Broker(socket) => socket,
        }
    }
}

/// The way to it.
enum Pods {
    Delegated(Channel),
    Broker { socket: PathBuf, channels: watch::Sender<Option<Channel>> },
}

/// Starts the source. It connects by itself, again and again. Must be called within a tokio runtime.
///
/// # Errors
/// Where a socket's path is no path that a URI can name.
pub fn spawn(config: &SpireConfig) -> Result<(SvidSource, mpsc::Receiver<Update>), tonic::transport::Error> {
    let (commands, commands_rx) = mpsc::channel(COMMAND_QUEUE);
    let (updates, updates_rx) = mpsc::channel(UPDATE_QUEUE);
    let (reports, reports_rx) = mpsc::channel(REPORT_QUEUE);
    let api = config.pods.name();
    let connections = [(WORKLOAD_API, &config.workload_socket), (api, config.pods.socket())];
    let now = unix_millis() / 1000;
    let connections = connections.map(|(api, socket)| Connection {
        api,
        socket: socket.display().to_string(),
        is_up: false,
        since: now,
        last_error: None,
    });
    let status =
        watch::Sender::new(SourceStatus { connections: connections.into(), ..SourceStatus::default() });
    let handle = SvidSource { commands, status: status.subscribe() };
    let (domain, reported) = (config.trust_domain.clone(), reports.clone());
    let (pods, bundles) = match &config.pods {
        PodsApi::Delegated(socket) => {
            let admin = channel(socket)?;
            (Pods::Delegated(admin.clone()), tokio::spawn(subscription::bundles(admin, domain, reported)))
        }
        PodsApi::Broker(socket) => {
            let channels = watch::Sender::new(None);
            let bundles = subscription::bundles_by_broker(channels.subscribe(), domain, reported);
            (Pods::Broker { socket: socket.clone(), channels }, tokio::spawn(bundles))
        }
    };
    let task = Task {
        domain: config.trust_domain.clone(),
        workload: channel(&config.workload_socket)?,
        api,
        pods,
        own_svid: None,
        own_bundle: None,
        reachable: watch::Sender::new(false),
        holdings: Holdings::default(),
        bundles: BTreeMap::new(),
        heard: BTreeMap::new(),
        subscriptions: BTreeMap::new(),
        _bundles: Running(bundles),
        reports,
        outbox: Outbox::default(),
        status,
        is_down: false,
    };
    tokio::spawn(task.run(commands_rx, reports_rx, updates));
    Ok((handle, updates_rx))
}

/// The SPIFFE IDs whose keys SPIRE's agent gives to a delegate that claims these selectors (pairs of a type and a
/// value): what somebody with root on the node can get from it. For audits and tests.
///
/// # Errors
/// What SPIRE's agent answers instead, or that it does not answer within `patience`.
pub async fn obtainable(
    admin_socket: &std::path::Path,
    selectors: Vec<(String, String)>,
    patience: std::time::Duration,
) -> Result<BTreeSet<String>, String> {
    let channel = channel(admin_socket).map_err(|error| error.to_string())?;
    let reference = Reference::Selectors(selectors);
    let asked = subscription::ask_once(channel, &reference);
    tokio::time::timeout(patience, asked).await.map_err(|_| format!("no answer within {patience:?}"))?
}

/// Connects when it is used, and again when the socket was made anew.
fn channel(socket: &std::path::Path) -> Result<Channel, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect_lazy())
}

/// Ends with its owner.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Task {
    domain: TrustDomain,
    workload: Channel,
    /// Of the interface that the pods' SVIDs come by.
    api: &'static str,
    pods: Pods,
    /// With what the Broker API is asked.
    own_svid: Option<Arc<Svid>>,
    own_bundle: Option<Arc<Bundle>>,
    /// Whether that interface answers: subscriptions wait for it, so that an agent that is away is
    /// called by one and not by all.
    reachable: watch::Sender<bool>,
    holdings: Holdings,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// When each API answered last: Unix seconds.
    heard: BTreeMap<&'static str, u64>,
    subscriptions: BTreeMap<String, Running>,
    _bundles: Running,
    reports: mpsc::Sender<Report>,
    outbox: Outbox,
    status: watch::Sender<SourceStatus>,
    is_down: bool,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut reports: mpsc::Receiver<Report>,
        updates: mpsc::Sender<Update>,
    ) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                report = reports.recv() => match report {
                    Some(report) => self.heed(report),
                    None => return,
                },
                slot = updates.reserve(), if !self.outbox.is_empty() => match slot {
                    Ok(slot) => {
                        if let Some(update) = self.outbox.take() {
                            slot.send(update);
                        }
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want(subject, _) if !subject.id.is_member_of(&self.domain) => {
                tracing::warn!(id = %subject.id, "not of this trust domain");
            }
            Command::Want(subject, _) if self.holdings.len() >= MAX_WANTED => {
                tracing::warn!(id = %subject.id, "too many SVIDs wanted");
            }
            Command::Want(subject, workload) => {
                if self.holdings.want(&subject, &workload.key) {
                    self.subscribe(Subscription { id: subject.id, workload });
                }
            }
            Command::Unwant(subject, key) => {
                if self.holdings.subject_of(&key) == Some(&subject) {
                    self.subscriptions.remove(&key);
                }
                let update = self.holdings.unwant(&subject, &key);
                self.status.send_modify(|status| drop(status.missing.remove(&key)));
                self.say(update);
            }
        }
        let workloads = self.holdings.len();
        self.status
            .send_if_modified(|status| std::mem::replace(&mut status.workloads, workloads) != workloads);
    }

    fn subscribe(&mut self, subscription: Subscription) {
        let key = subscription.workload.key.clone();
        let reports = self.reports.clone();
        let task = match subscription.workload.reference {
            Reference::Caller => {
                tokio::spawn(subscription::caller(subscription, self.workload.clone(), reports))
            }
            Reference::Selectors(_) | Reference::Pid(_) | Reference::Namespace(_) => {
                let reachable = self.reachable.subscribe();
                match &self.pods {
                    Pods::Delegated(admin) => {
                        let admin = admin.clone();
                        tokio::spawn(subscription::workload(subscription, admin, reachable, reports))
                    }
                    Pods::Broker { channels, .. } => {
                        let channels = channels.subscribe();
                        tokio::spawn(subscription::by_broker(subscription, channels, reachable, reports))
                    }
                }
            }
        };
        self.subscriptions.insert(key, Running(task));
    }

    fn heed(&mut self, report: Report) {
        match report {
            Report::Workload { key, said } => self.heed_workload(&key, said),
            Report::OwnBundle(bundle) => {
                self.own_bundle = Some(bundle);
                self.introduce();
            }
            Report::Bundles { good, bad } => self.heed_bundles(good, &bad),
            Report::Answered(api) => {
                self.heard.insert(api, unix_millis() / 1000);
                self.set_link(api, None, unix_millis() / 1000);
            }
            Report::Failed(api, error) => self.set_link(api, Some(error), unix_millis() / 1000),
            Report::Silent(api, error) => {
                let since = self.heard.get(api).copied().unwrap_or(unix_millis() / 1000);
                self.set_link(api, Some(error), since);
            }
        }
    }

    fn heed_workload(&mut self, key: &str, said: Said) {
        let trouble = match &said {
            Said::Svid(_) => None,
            Said::None(ids) if ids.is_empty() => Some("no entry matches it".to_owned()),
            Said::None(ids) => Some(format!("it has {} instead", ids.join(", "))),
            Said::Useless(why) => Some(format!("its SVID is of no use: {why}")),
            Said::Unattested(why) => Some(why.clone()),
        };
        // The newest answer counts: this one may be of a subscription that has just ended.
        if !self.subscriptions.contains_key(key) {
            return;
        }
        self.status.send_modify(|status| match trouble {
            None => drop(status.missing.remove(key)),
            Some(trouble) => drop(status.missing.insert(key.to_owned(), trouble)),
        });
        let update = match said {
            Said::Svid(svid) => self.holdings.told(key, Some(*svid)),
            Said::None(_) => self.holdings.told(key, None),
            // Something is there, or nobody has said that nothing is: not a removal, and what was good before still is.
            Said::Useless(_) | Said::Unattested(_) => None,
        };
        if let (Some(Update::Svid(_, svid)), "") = (&update, key) {
            self.own_svid = Some(Arc::clone(svid));
            self.introduce();
        }
        self.say(update);
    }

    /// From now on the Broker API is asked with what we are now. Subscriptions that there are go on.
    fn introduce(&self) {
        let (Pods::Broker { socket, channels }, Some(svid), Some(bundle)) =
            (&self.pods, &self.own_svid, &self.own_bundle)
        else {
            return;
        };
        match broker::channel(socket, svid, Arc::clone(bundle)) {
            Ok(channel) => drop(channels.send_replace(Some(channel))),
            Err(error) => tracing::error!(%error, "our own SVID cannot be shown to the Broker API"),
        }
    }

    fn heed_bundles(&mut self, good: BTreeMap<TrustDomain, Arc<Bundle>>, bad: &BTreeMap<String, String>) {
        for (domain, why) in bad {
            tracing::warn!(%domain, %why, "a trust bundle is of no use; the last good one stays");
        }
        let kept: BTreeSet<&TrustDomain> = good.keys().chain([&self.domain]).collect();
        let gone: Vec<TrustDomain> = self
            .bundles
            .keys()
            .filter(|domain| !kept.contains(domain) && !bad.contains_key(domain.as_str()))
            .cloned()
            .collect();
        for domain in gone {
            self.bundles.remove(&domain);
            self.outbox.put(Update::BundleRemoved(domain));
        }
        for (domain, bundle) in good {
            let before = self.bundles.insert(domain.clone(), Arc::clone(&bundle));
            if before.is_none_or(|before| before.version() != bundle.version()) {
                self.outbox.put(Update::Bundle(domain, bundle));
            }
        }
    }

    /// How a connection is since then.
    fn set_link(&mut self, api: &str, error: Option<String>, since: u64) {
        let is_up = error.is_none();
        if api == self.api {
            self.reachable.send_if_modified(|reachable| std::mem::replace(reachable, is_up) != is_up);
        }
        let is_news = self.status.borrow().connections.iter().any(|connection| {
            connection.api == api
                && (connection.is_up != is_up || error.is_some() && connection.last_error != error)
        });
        if !is_news {
            return;
        }
        self.status.send_modify(|status| {
            for connection in status.connections.iter_mut().filter(|connection| connection.api == api) {
                if connection.is_up != is_up {
                    connection.is_up = is_up;
                    connection.since = since;
                }
                if error.is_some() {
                    connection.last_error.clone_from(&error);
                }
            }
        });
        let down = self.status.borrow().down().map(|(_, why)| why.to_owned());
        if down.is_some() != self.is_down {
            self.is_down = down.is_some();
            self.outbox.put(down.map_or(Update::Up, Update::Down));
        }
    }

    fn say(&mut self, update: Option<Update>) {
        if let Some(update) = update {
            self.outbox.put(update);
        }
    }
}
