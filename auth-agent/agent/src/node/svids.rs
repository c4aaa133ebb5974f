//! The SVIDs this node holds: what is wanted, what came, and who uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use countersign_auth_proto::Event;
use countersign_certs::{Bundle, IdSubject, IdTemplate, SpiffeId, Svid, TrustDomain};
use countersign_spire::{EmbeddedConfig, SvidSource, Update};
use tokio::sync::mpsc;

use super::Node;
use crate::clock;
use crate::config::{Config, KeyExchange};
use crate::handshake::{self, PeerNames, SharedSvidStore, SvidStore, Tls};
use crate::limits;

/// Wishes that the source has not taken yet: every endpoint of a node may change at once.
const WISHES: usize = 8192;

/// The SVIDs, and the way to their source.
pub(super) struct Svids {
    store: SvidStore,
    template: IdTemplate,
    domain: TrustDomain,
    wishes: mpsc::Sender<Wish>,
    wanted: BTreeMap<SpiffeId, u32>,
    held: BTreeMap<u32, u64>,
    node_id: SpiffeId,
    node_svid: Option<Arc<Svid>>,
    bundle: Option<Arc<Bundle>>,
    since: u64,
}

enum Wish {
    Want(SpiffeId),
    Unwant(SpiffeId),
}

impl Svids {
    pub(super) async fn open(config: &Config) -> anyhow::Result<(Self, mpsc::Receiver<Update>)> {
        let domain = TrustDomain::parse(&config.trust_domain)
            .with_context(|| format!("--trust-domain {:?}", config.trust_domain))?;
        let template = IdTemplate::parse(&config.spiffe_id_template)
            .with_context(|| format!("--spiffe-id-template {:?}", config.spiffe_id_template))?;
        anyhow::ensure!(
            template.needs_only_number(),
            "--spiffe-id-template: only {{trust_domain}} and {{number}} can be used with the embedded CA"
        );
        let exchange = match config.post_quantum {
            KeyExchange::Prefer => handshake::KeyExchange::Prefer,
            KeyExchange::Require => handshake::KeyExchange::Require,
        };
        let node_id = countersign_wg_proto::node_id(&domain, &config.node_name)
            .with_context(|| format!("--node-name {:?} makes no SPIFFE ID", config.node_name))?;
        let mut embedded = EmbeddedConfig::new(config.embedded_ca.clone(), domain.clone());
        embedded.ttl = config.svid_ttl;
        let (source, updates) = countersign_spire::spawn(embedded)
            .with_context(|| format!("the embedded CA in {}", config.embedded_ca.display()))?;
        source.want(node_id.clone()).await?;
        let names = PeerNames::ByNumber(template.clone());
        let svids = Self {
            store: SvidStore::new(Tls::new(exchange), domain.clone(), names),
            template,
            domain,
            wishes: forward(source),
            wanted: BTreeMap::new(),
            held: BTreeMap::new(),
            node_id,
            node_svid: None,
            bundle: None,
            since: clock::unix(),
        };
        Ok((svids, updates))
    }

    pub(super) fn share(&self) -> SharedSvidStore {
        self.store.share()
    }

    /// The SPIFFE ID of an identity of pods.
    pub(super) fn id_of(&self, number: u32) -> Option<SpiffeId> {
        self.template.render(&self.domain, &IdSubject { number, ..IdSubject::default() }).ok()
    }

    /// When the SVID of an identity ends, if there is one.
    pub(super) fn expiry(&self, identity: u32) -> Option<u64> {
        self.held.get(&identity).copied()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.held.iter().map(|(identity, not_after)| (*identity, *not_after))
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

    pub(super) fn bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundle.as_ref()
    }

    fn wish(&mut self, wish: Wish) {
        if self.wishes.try_send(wish).is_err() {
            tracing::error!("the identity source does not keep up: an SVID is not asked for");
        }
    }
}

/// Takes wishes in order, without keeping the node task waiting.
fn forward(source: SvidSource) -> mpsc::Sender<Wish> {
    let (wishes, mut inbox) = mpsc::channel(WISHES);
    tokio::spawn(async move {
        while let Some(wish) = inbox.recv().await {
            let taken = match wish {
                Wish::Want(id) => source.want(id).await,
                Wish::Unwant(id) => source.unwant(id).await,
            };
            if taken.is_err() {
                return;
            }
        }
    });
    wishes
}

impl Node {
    /// Asks for the SVIDs of the identities that have an endpoint here which may have one, and for no others.
    pub(super) fn want_svids(&mut self) {
        let here = self.endpoints.iter().filter(|endpoint| endpoint.registered);
        let identities: BTreeSet<u32> = here
            .map(|endpoint| endpoint.identity)
            .chain(self.told.identities())
            .filter(|identity| countersign_policy::identity::is_pod(*identity))
            .collect();
        let wanted: BTreeMap<SpiffeId, u32> = identities
            .iter()
            .filter_map(|identity| Some((self.svids.id_of(*identity)?, *identity)))
            .collect();
        let before = std::mem::replace(&mut self.svids.wanted, wanted.clone());
        for id in wanted.keys().filter(|id| !before.contains_key(id)) {
            self.svids.wish(Wish::Want(id.clone()));
        }
        for (id, identity) in before.iter().filter(|(id, _)| !wanted.contains_key(id)) {
            self.svids.wish(Wish::Unwant(id.clone()));
            self.forget_svid(*identity);
            self.machine.handle(Event::EndpointsGone { identity: *identity }, clock::boot_ns());
        }
    }

    pub(super) fn take_svid(&mut self, update: Update) {
        match update {
            Update::Bundle(domain, bundle) => {
                self.svids.store.set_bundle(Arc::clone(&bundle));
                if domain == self.svids.domain {
                    let before = self.svids.bundle.replace(bundle);
                    self.encryption.dirty = true;
                    if before.is_some() {
                        // What the old authorities vouched for has to be proved under the new ones.
                        let within = limits::REVALIDATE_WITHIN;
                        self.machine.handle(Event::Revalidate { within }, clock::boot_ns());
                    }
                }
            }
            Update::Svid(id, svid) if id == self.svids.node_id => {
                self.svids.node_svid = Some(svid);
                self.encryption.renew_announcement();
                self.encryption.dirty = true;
                self.refresh_encryption();
            }
            Update::Svid(id, svid) => self.hold_svid(&id, &svid),
            Update::Removed(id) => {
                // Asked for again meanwhile, it is on its way.
                if !self.svids.wanted.contains_key(&id)
                    && let Some(identity) = self.identity_of(&id)
                {
                    self.forget_svid(identity);
                    self.machine.handle(Event::SvidRevoked { identity }, clock::boot_ns());
                }
            }
        }
    }

    fn hold_svid(&mut self, id: &SpiffeId, svid: &Svid) {
        // Unwanted meanwhile: nobody here may use it any more.
        let Some(identity) = self.svids.wanted.get(id).copied() else { return };
        if let Err(error) = self.svids.store.put(identity, svid) {
            tracing::error!(%id, %error, "an SVID is of no use");
            self.metrics.svid_rotated("failed");
            return;
        }
        self.svids.held.insert(identity, svid.not_after());
        self.metrics.svid_rotated("ok");
        tracing::debug!(%id, not_after = svid.not_after(), "SVID");
        self.machine.handle(Event::SvidRotated { identity }, clock::boot_ns());
    }

    fn forget_svid(&mut self, identity: u32) {
        self.svids.store.remove(identity);
        self.svids.held.remove(&identity);
    }

    fn identity_of(&self, id: &SpiffeId) -> Option<u32> {
        self.svids.held.keys().copied().find(|identity| self.svids.id_of(*identity).as_ref() == Some(id))
    }
}
