//! The SVIDs this node holds: what is wanted, what came, and who uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use countersign_auth_proto::Event;
use countersign_certs::{Bundle, IdSubject, IdTemplate, SpiffeId, Svid, TrustDomain};
use countersign_policy::identity::is_pod;
use countersign_policy::labels::{Labels, Source};
use countersign_spire::embedded::{self, EmbeddedConfig};
use countersign_spire::spire::{self, PodsApi, SpireConfig};
use countersign_spire::{Reference, SourceStatus, Subject, SvidSource, Update, Workload};
use countersign_spire_proto::{Concern, PodFacts, Selector, SelectorTemplate, render_all};
use tokio::sync::{mpsc, watch};

use super::Node;
use crate::clock;
use crate::config::{Config, KeyExchange};
use crate::endpoints::Endpoint;
use crate::handshake::{self, NODE, PeerNames, SharedSvidStore, SvidStore, Tls};
use crate::limits;

/// Wishes that the source has not taken yet: every endpoint of a node may change at once.
const WISHES: usize = 8192;

/// The SVIDs, and the way to their source.
pub(super) struct Svids {
    store: SvidStore,
    template: IdTemplate,
    selectors: Vec<SelectorTemplate>,
    domain: TrustDomain,
    wishes: mpsc::Sender<Wish>,
    /// Whom policies that ask for authentication speak of.
    pub(super) concern: Concern,
    /// By workload: who it is, and how SPIRE knows it.
    wanted: BTreeMap<String, (Subject, Workload)>,
    /// Workloads that cannot be asked for, and why.
    unaskable: BTreeMap<String, String>,
    held: BTreeMap<u32, Arc<Svid>>,
    node_svid: Option<Arc<Svid>>,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    since: u64,
    status: watch::Receiver<SourceStatus>,
    is_spire: bool,
}

enum Wish {
    Want(Subject, Workload),
    Unwant(Subject, String),
}

impl Svids {
    pub(super) async fn open(config: &Config) -> anyhow::Result<(Self, mpsc::Receiver<Update>)> {
        let domain = TrustDomain::parse(&config.trust_domain)
            .with_context(|| format!("--trust-domain {:?}", config.trust_domain))?;
        handshake::check_domain(&domain)
            .with_context(|| format!("--trust-domain {:?}", config.trust_domain))?;
        let template = IdTemplate::parse(&config.spiffe_id_template)
            .with_context(|| format!("--spiffe-id-template {:?}", config.spiffe_id_template))?;
        let selectors = config.workload_selectors.iter().map(|text| {
            SelectorTemplate::parse(text).with_context(|| format!("--workload-selector {text:?}"))
        });
        let exchange = match config.post_quantum {
            KeyExchange::Prefer => handshake::KeyExchange::Prefer,
            KeyExchange::Require => handshake::KeyExchange::Require,
        };
        let node_id = countersign_wg_proto::node_id(&domain, &config.node_name)
            .with_context(|| format!("--node-name {:?} makes no SPIFFE ID", config.node_name))?;
        let (source, updates) = source(config, &domain)?;
        source.want(Subject { identity: NODE, id: node_id }, Workload::caller()).await?;
        let names = if template.needs_only_number() {
            PeerNames::ByNumber(template.clone())
        } else {
            PeerNames::Listed(std::collections::HashMap::new())
        };
        let svids = Self {
            store: SvidStore::new(Tls::new(exchange), domain.clone(), names),
            template,
            selectors: selectors.collect::<anyhow::Result<_>>()?,
            domain,
            status: source.status(),
            wishes: forward(source),
            concern: Concern::new(),
            wanted: BTreeMap::new(),
            unaskable: BTreeMap::new(),
            held: BTreeMap::new(),
            node_svid: None,
            bundles: BTreeMap::new(),
            since: clock::unix(),
            is_spire: config.embedded_ca.is_none(),
        };
        Ok((svids, updates))
    }

    pub(super) fn share(&self) -> SharedSvidStore {
        self.store.share()
    }

    /// The SPIFFE ID of an identity of pods.
    fn render(&self, number: u32, labels: Option<&Labels>) -> Option<SpiffeId> {
        let account = "io.cilium.k8s.policy.serviceaccount";
        let subject = IdSubject {
            number,
            namespace: labels.and_then(Labels::namespace).unwrap_or_default(),
            service_account: labels.and_then(|labels| labels.get(Source::K8s, account)).unwrap_or_default(),
        };
        self.template.render(&self.domain, &subject).ok()
    }

    /// The SVID of an identity, if it is held.
    pub(super) fn svid(&self, identity: u32) -> Option<&Arc<Svid>> {
        self.held.get(&identity)
    }

    /// When the SVID of an identity ends, if there is one.
    pub(super) fn expiry(&self, identity: u32) -> Option<u64> {
        self.svid(identity).map(|svid| svid.not_after())
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (u32, &Arc<Svid>)> + '_ {
        self.held.iter().map(|(identity, svid)| (*identity, svid))
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub(super) fn since(&self) -> u64 {
        self.since
    }

    pub(super) fn node_svid(&self) -> Option<&Arc<Svid>> {
        self.node_svid.as_ref()
    }

    /// The bundle of our own trust domain.
    pub(super) fn bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.domain)
    }

    pub(super) fn bundles(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<Bundle>)> {
        self.bundles.iter()
    }

    /// What the source says of itself.
    pub(super) fn source(&self) -> SourceStatus {
        self.status.borrow().clone()
    }

    pub(super) fn is_spire(&self) -> bool {
        self.is_spire
    }

    /// Why a workload has no SVID, where that is known.
    pub(super) fn trouble(&self, workload: &str) -> Option<String> {
        let unaskable = self.unaskable.get(workload).cloned();
        unaskable.or_else(|| self.status.borrow().missing.get(workload).cloned())
    }

    /// Whether an endpoint should have an SVID. SPIRE has entries for those alone whom policies that ask for
    /// authentication speak of; the embedded CA issues to everybody.
    pub(super) fn should_have(&self, endpoint: &Endpoint, labels: Option<&Labels>) -> bool {
        let concerned = || labels.is_some_and(|labels| self.concern.concerns(labels));
        endpoint.registered && is_pod(endpoint.identity) && (!self.is_spire || concerned())
    }

    /// Identities that SVIDs are wanted of.
    pub(super) fn wanted_identities(&self) -> BTreeSet<u32> {
        self.wanted.values().map(|(subject, _)| subject.identity).collect()
    }

    fn wish(&mut self, wish: Wish) {
        if self.wishes.try_send(wish).is_err() {
            tracing::error!("the identity source does not keep up: an SVID is not asked for");
        }
    }

    fn forget(&mut self, identity: u32) {
        self.store.remove(identity);
        self.held.remove(&identity);
    }
}

/// Starts the source that the configuration names.
fn source(config: &Config, domain: &TrustDomain) -> anyhow::Result<(SvidSource, mpsc::Receiver<Update>)> {
    if let Some(dir) = &config.embedded_ca {
        let mut embedded = EmbeddedConfig::new(dir.clone(), domain.clone());
        embedded.ttl = config.svid_ttl;
        return embedded::spawn(embedded).with_context(|| format!("the embedded CA in {}", dir.display()));
    }
    let admin = config.spire_admin_socket.clone().map(PodsApi::Delegated);
    let pods = config.spire_broker_socket.clone().map(PodsApi::Broker).or(admin);
    let (Some(workload_socket), Some(pods)) = (config.spire_workload_socket.clone(), pods) else {
        anyhow::bail!(
            "--spire-workload-socket and --spire-admin-socket or --spire-broker-socket, or --embedded-ca"
        );
    };
    spire::spawn(&SpireConfig { workload_socket, pods, trust_domain: domain.clone() })
        .context("--spire-workload-socket, --spire-admin-socket, --spire-broker-socket")
}

/// Takes wishes in order, without keeping the node task waiting.
fn forward(source: SvidSource) -> mpsc::Sender<Wish> {
    let (wishes, mut inbox) = mpsc::channel(WISHES);
    tokio::spawn(async move {
        while let Some(wish) = inbox.recv().await {
            let taken = match wish {
                Wish::Want(subject, workload) => source.want(subject, workload).await,
                Wish::Unwant(subject, workload) => source.unwant(subject, workload).await,
            };
            if taken.is_err() {
                return;
            }
        }
    });
    wishes
}

impl Node {
    /// The SPIFFE ID of an identity of pods; none where what it is made of is not known (any more).
    pub(super) fn spiffe_id(&self, identity: u32) -> Option<SpiffeId> {
        self.svids.render(identity, self.identities.labels(identity))
    }

    /// Peers of these identities are to have these SPIFFE IDs.
    pub(super) fn name_identities(&mut self, identities: impl IntoIterator<Item = u32>) {
        if self.svids.template.needs_only_number() {
            return;
        }
        for identity in identities {
            let name = self.identities.labels(identity).and_then(|_| self.spiffe_id(identity));
            self.svids.store.set_name(identity, name);
        }
    }

    /// Asks for the SVIDs of the endpoints here that may have one, and for no others.
    pub(super) fn want_svids(&mut self) {
        let wanted = self.wanted_svids();
        let before = std::mem::replace(&mut self.svids.wanted, wanted.clone());
        let (changed, new): (Vec<_>, Vec<_>) = wanted
            .iter()
            .filter(|(key, what)| before.get(*key) != Some(*what))
            .partition(|(key, _)| before.contains_key(*key));
        // New ones first, so that who is handed from one workload to another is never unwanted in between; those
        // that change only after they are free.
        for (_, (subject, workload)) in new {
            self.svids.wish(Wish::Want(subject.clone(), workload.clone()));
        }
        for (key, (subject, _)) in before.iter().filter(|(key, what)| wanted.get(*key) != Some(*what)) {
            self.svids.wish(Wish::Unwant(subject.clone(), key.clone()));
        }
        for (_, (subject, workload)) in changed {
            self.svids.wish(Wish::Want(subject.clone(), workload.clone()));
        }
        let identities = |of: &BTreeMap<String, (Subject, Workload)>| -> BTreeSet<u32> {
            of.values().map(|(subject, _)| subject.identity).collect()
        };
        for identity in identities(&before).difference(&identities(&wanted)) {
            self.svids.forget(*identity);
            self.machine.handle(Event::EndpointsGone { identity: *identity }, clock::boot_ns());
        }
    }

    fn wanted_svids(&mut self) -> BTreeMap<String, (Subject, Workload)> {
        let mut wanted = BTreeMap::new();
        let mut unaskable = BTreeMap::new();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.registered) {
            match self.wanted_svid(endpoint) {
                Ok(Some((subject, workload))) => {
                    drop(wanted.insert(workload.key.clone(), (subject, workload)))
                }
                Ok(None) => {}
                Err(why) => drop(unaskable.insert(endpoint.workload(), why)),
            }
        }
        self.svids.unaskable = unaskable;
        // Peers still believe in addresses of these: their SVIDs are needed until they have unlearnt them.
        let told: BTreeSet<u32> = self.told.identities().collect();
        for (key, (subject, workload)) in &self.svids.wanted {
            let is_there = wanted.values().any(|(wanted, _)| wanted == subject);
            if told.contains(&subject.identity) && !is_there {
                // The pod itself may be somebody else by now.
                let key = if wanted.contains_key(key) {
                    format!("{key} {}", subject.identity)
                } else {
                    key.clone()
                };
                let workload = Workload { key: key.clone(), reference: workload.reference.clone() };
                wanted.insert(key, (subject.clone(), workload));
            }
        }
        wanted
    }

    /// Who an endpoint is to be, and how SPIRE knows it; none where it is to have no SVID; or why it cannot be asked
    /// for.
    fn wanted_svid(&self, endpoint: &Endpoint) -> Result<Option<(Subject, Workload)>, String> {
        let key = endpoint.workload();
        let labels = self.identities.labels(endpoint.identity);
        let (Some(pod), Some(labels)) = (self.world.pods.get(&endpoint.key()), labels) else {
            // The pod has gone from the cluster, its endpoint goes next: it needs what it has until then.
            let before = self.svids.wanted.get(&key);
            return Ok(before.filter(|(subject, _)| subject.identity == endpoint.identity).cloned());
        };
        let Some(id) =
            self.spiffe_id(endpoint.identity).filter(|_| self.svids.should_have(endpoint, Some(labels)))
        else {
            return Ok(None);
        };
        let subject = Subject { identity: endpoint.identity, id };
        if self.config.spire_broker_socket.is_some() {
            let namespace = endpoint.saved.spec.netns.ok_or("its network namespace is not known")?;
            return Ok(Some((subject, Workload { key, reference: Reference::Namespace(namespace) })));
        }
        let selectors = match render_all(&self.svids.selectors, &PodFacts::of(pod)) {
            Ok(selectors) => selectors,
            Err(missing) if self.svids.is_spire => return Err(format!("--workload-selector: {missing}")),
            // The embedded CA asks for none.
            Err(_) => BTreeSet::new(),
        };
        let pair = |of: &Selector| (of.kind().to_owned(), of.value().to_owned());
        let reference = Reference::Selectors(selectors.iter().map(pair).collect());
        Ok(Some((subject, Workload { key, reference })))
    }

    pub(super) fn take_svid(&mut self, update: Update) {
        match update {
            Update::Bundle(domain, bundle) => self.hold_bundle(domain, bundle),
            Update::BundleRemoved(domain) => {
                tracing::warn!(%domain, "no longer federated with: nobody of it is believed any more");
                self.svids.bundles.remove(&domain);
                self.svids.store.remove_bundle(&domain);
                self.machine
                    .handle(Event::Revalidate { within: limits::REVALIDATE_WITHIN }, clock::boot_ns());
            }
            Update::Svid(subject, svid) if subject.identity == NODE => {
                if let Err(error) = self.svids.store.put_node(&svid) {
                    tracing::error!(id = %subject.id, %error, "the node's SVID is of no use");
                    return;
                }
                self.svids.node_svid = Some(svid);
                self.encryption.renew_announcement();
                self.encryption.dirty = true;
                self.refresh_encryption();
            }
            Update::Svid(subject, svid) => self.hold_svid(&subject, svid),
            Update::Removed(subject) if subject.identity == NODE => {
                tracing::error!(id = %subject.id, "the node's own SVID is revoked: it speaks for itself no longer");
                self.svids.node_svid = None;
                self.svids.store.remove(NODE);
                self.encryption.dirty = true;
            }
            Update::Removed(subject) => {
                // Asked for again meanwhile, it is on its way.
                let is_held = self.svids.held.contains_key(&subject.identity);
                if is_held {
                    tracing::info!(id = %subject.id, "the SVID is revoked");
                    self.svids.forget(subject.identity);
                    let identity = subject.identity;
                    self.machine.handle(Event::SvidRevoked { identity }, clock::boot_ns());
                    self.disown(identity);
                }
            }
            Update::Absent(subject) => self.note_absence(&subject),
            Update::Down(why) => {
                tracing::warn!(%why, "the identity source is away; what is proved stays proved until it expires");
                self.machine.handle(Event::SourceDown, clock::boot_ns());
            }
            Update::Up => {
                tracing::info!("the identity source is there");
                self.machine.handle(Event::SourceUp, clock::boot_ns());
            }
        }
    }

    /// The source has no SVID of an identity that nothing is held of. If an earlier agent had one, it was revoked while
    /// no agent ran; of a pod that is new, it is only not there yet.
    fn note_absence(&mut self, subject: &Subject) {
        let identity = subject.identity;
        if identity == NODE || !self.svids.wanted.values().any(|(wanted, _)| wanted == subject) {
            return;
        }
        if self.told.first_word(identity) {
            tracing::info!(id = %subject.id, "the SVID was revoked while no agent ran");
            self.machine.handle(Event::SvidRevoked { identity }, clock::boot_ns());
            self.disown(identity);
        }
    }

    fn hold_bundle(&mut self, domain: TrustDomain, bundle: Arc<Bundle>) {
        self.svids.store.set_bundle(Arc::clone(&bundle));
        self.encryption.dirty = true;
        let Some(before) = self.svids.bundles.insert(domain, Arc::clone(&bundle)) else { return };
        // New authorities change nothing for what is proved. What one that is gone has vouched for has to be
        // proved again.
        // An authority that had expired vouched for nobody.
        let removed = bundle.change_from(&before).removed;
        if removed.iter().any(|authority| before.has_alive(authority, clock::unix())) {
            let within = limits::REVALIDATE_WITHIN;
            self.machine.handle(Event::Revalidate { within }, clock::boot_ns());
        }
    }

    fn hold_svid(&mut self, subject: &Subject, svid: Arc<Svid>) {
        // Unwanted meanwhile: nobody here may use it any more.
        if !self.svids.wanted.values().any(|(wanted, _)| wanted == subject) {
            return;
        }
        let (identity, id) = (subject.identity, &subject.id);
        if let Err(error) = self.svids.store.put(identity, &svid) {
            tracing::error!(%id, %error, "an SVID is of no use");
            self.metrics.svid_rotated("failed");
            return;
        }
        self.metrics.svid_rotated("ok");
        tracing::debug!(%id, not_after = svid.not_after(), "SVID");
        self.svids.held.insert(identity, svid);
        self.told.first_word(identity);
        self.machine.handle(Event::SvidRotated { identity }, clock::boot_ns());
    }
}
