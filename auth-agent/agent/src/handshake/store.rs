//! Which identities this node can speak for, and whom it believes: written by the node's task alone, read
//! by every handshake as one consistent snapshot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use countersign_certs::{Bundle, IdSubject, IdTemplate, SpiffeId, Svid, TrustDomain};
use rustls::client::ClientConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::tls::Tls;

/// The number by which nodes themselves are asked for and speak: no pod has it.
pub const NODE: u32 = 0;

/// How an identity's number becomes the SPIFFE ID its SVID must have.
#[derive(Clone, Debug)]
pub enum PeerNames {
    /// The number alone says it ([`IdTemplate::needs_only_number`]).
    ByNumber(IdTemplate),
    /// The node knows it, from the identities' labels. An ID of a trust domain that we federate with is proved by
    /// that domain's bundle alone.
    Listed(HashMap<u32, SpiffeId>),
}

/// A trust domain that TLS cannot ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "handshakes ask for <identity>.{0} as a server name, which would be no DNS name: labels of 1 to 63 characters that \
     do not begin or end with '-', the last one not a number, 242 characters in all"
)]
pub struct UnaskableDomain(pub TrustDomain);

/// Whether every identity of the trust domain can be asked for. SPIFFE allows more than a server name does.
///
/// # Errors
/// Where TLS would refuse the name, and with it every handshake.
pub fn check_domain(domain: &TrustDomain) -> Result<(), UnaskableDomain> {
    match ServerName::try_from(format!("{}.{domain}", u32::MAX)) {
        Ok(ServerName::DnsName(_)) => Ok(()),
        _ => Err(UnaskableDomain(domain.clone())),
    }
}

/// Why an SVID was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not of this node's trust domain.
    #[error("{0} is not of this node's trust domain")]
    TrustDomain(SpiffeId),
    /// Not the SPIFFE ID of that identity.
    #[error("identity {number} is not {id}")]
    WrongIdentity {
        /// The identity.
        number: u32,
        /// Whom the SVID speaks for.
        id: SpiffeId,
    },
    /// Its key is of no use for TLS.
    #[error("the SVID cannot be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// One identity this node can speak for, prepared for both roles.
#[derive(Debug)]
pub(super) struct LocalIdentity {
    pub(super) not_after: u64,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) client: ClientConfig,
}

/// What a handshake sees.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) domain: TrustDomain,
    names: PeerNames,
    local: HashMap<u32, Arc<LocalIdentity>>,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl Snapshot {
    pub(super) fn local(&self, number: u32) -> Option<&Arc<LocalIdentity>> {
        self.local.get(&number)
    }

    pub(super) fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.domain)
    }

    pub(super) fn bundle_of(&self, id: &SpiffeId) -> Option<&Arc<Bundle>> {
        self.bundles.get(&id.trust_domain())
    }

    /// The bundle of a trust domain that we federate with, if an identity we know is of it: nobody else of that
    /// domain has anything to say here.
    pub(super) fn federated(&self, domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        let PeerNames::Listed(names) = &self.names else { return None };
        let bundle = self.bundles.get(domain)?;
        names.values().any(|id| id.is_member_of(domain)).then_some(bundle)
    }

    /// The SPIFFE ID that a peer with this identity must have, or the node of that name: nodes are of our own trust
    /// domain.
    pub(super) fn name_of(&self, number: u32, node: &str) -> Option<SpiffeId> {
        if number == NODE {
            return countersign_wg_proto::node_id(&self.domain, node).ok();
        }
        match &self.names {
            PeerNames::ByNumber(template) => {
                template.render(&self.domain, &IdSubject { number, ..IdSubject::default() }).ok()
            }
            PeerNames::Listed(names) => names.get(&number).cloned(),
        }
    }

    /// The identity a server name asks for: `<number>.<trust domain>`, the number without leading zeros.
    pub(super) fn asked_number(&self, server_name: &str) -> Option<u32> {
        let (number, domain) = server_name.split_once('.')?;
        // rustls hands the name over in lower case, as trust domains are.
        if domain != self.domain.as_str() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let canonical = number == "0" || !number.starts_with('0');
        number.parse().ok().filter(|_| canonical)
    }
}

/// The writing end, for the node's task.
#[derive(Debug)]
pub struct SvidStore {
    tls: Arc<Tls>,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

impl SvidStore {
    /// An empty store: no identity is local, nobody is believed.
    #[must_use]
    pub fn new(tls: Arc<Tls>, domain: TrustDomain, names: PeerNames) -> Self {
        let empty = Snapshot { domain, names, local: HashMap::new(), bundles: BTreeMap::new() };
        Self { tls, snapshot: watch::Sender::new(Arc::new(empty)) }
    }

    /// A reading end, for [`super::Client`] and [`super::Server`].
    #[must_use]
    pub fn share(&self) -> SharedSvidStore {
        SharedSvidStore { tls: Arc::clone(&self.tls), snapshot: self.snapshot.subscribe() }
    }

    /// From now on the node speaks for itself with this SVID. Whether it is this node's is for peers to check.
    pub fn put_node(&self, svid: &Svid) -> Result<(), StoreError> {
        if !svid.spiffe_id().is_member_of(&self.snapshot.borrow().domain) {
            return Err(StoreError::TrustDomain(svid.spiffe_id().clone()));
        }
        let prepared = Arc::new(self.prepare(svid)?);
        self.change(|snapshot| drop(snapshot.local.insert(NODE, prepared)));
        Ok(())
    }

    /// From now on the node speaks for an identity with this SVID: handshakes that begin later use it,
    /// those under way end with the one they began with.
    pub fn put(&self, number: u32, svid: &Svid) -> Result<(), StoreError> {
        let id = svid.spiffe_id();
        let snapshot = Arc::clone(&self.snapshot.borrow());
        if !id.is_member_of(&snapshot.domain) {
            return Err(StoreError::TrustDomain(id.clone()));
        }
        if snapshot.name_of(number, "").as_ref() != Some(id) {
            return Err(StoreError::WrongIdentity { number, id: id.clone() });
        }
        let prepared = Arc::new(self.prepare(svid)?);
        self.change(|snapshot| {
            snapshot.local.insert(number, prepared);
        });
        Ok(())
    }

    /// The node speaks for that identity no longer.
    pub fn remove(&self, number: u32) {
        self.change(|snapshot| {
            snapshot.local.remove(&number);
        });
    }

    /// Replaces the bundle of one trust domain.
    pub fn set_bundle(&self, bundle: Arc<Bundle>) {
        self.change(|snapshot| {
            snapshot.bundles.insert(bundle.trust_domain().clone(), bundle);
        });
    }

    /// Replaces what is known of the identities' names.
    pub fn set_names(&self, names: PeerNames) {
        self.change(|snapshot| snapshot.names = names);
    }

    /// Nobody of that trust domain is believed any more.
    pub fn remove_bundle(&self, domain: &TrustDomain) {
        self.change(|snapshot| {
            snapshot.bundles.remove(domain);
        });
    }

    /// The SPIFFE ID of an identity, where names are listed; none for one that is gone.
    pub fn set_name(&self, number: u32, id: Option<SpiffeId>) {
        self.change(|snapshot| {
            if let PeerNames::Listed(names) = &mut snapshot.names {
                match id {
                    Some(id) => drop(names.insert(number, id)),
                    None => drop(names.remove(&number)),
                }
            }
        });
    }

    /// Whether the node speaks for that identity now.
    #[must_use]
    pub fn is_local(&self, number: u32) -> bool {
        self.snapshot.borrow().local(number).is_some()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    fn prepare(&self, svid: &Svid) -> Result<LocalIdentity, rustls::Error> {
        let der = PrivatePkcs8KeyDer::from(svid.private_key().pkcs8_der().to_vec());
        let key = self.tls.provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(der))?;
        let certified = Arc::new(CertifiedKey::new(svid.chain().to_vec(), key));
        let client = self.tls.client(Arc::clone(&certified))?;
        Ok(LocalIdentity { not_after: svid.not_after(), certified, client })
    }
}

/// A reading end of the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedSvidStore {
    pub(super) tls: Arc<Tls>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl SharedSvidStore {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }
}
