//! Whose key is which: announcements in, attested keys out.

use std::collections::{BTreeMap, BTreeSet};

use countersign_certs::signature::{self, SignError, SignatureError};
use countersign_certs::{Bundle, IdError, SpiffeId, Svid, TrustDomain};

use crate::limits::MAX_NODES;
use crate::{Announcement, DecodeError, PublicKey, Statement};

/// A WireGuard public key whose announcement was signed by the SVID of the node it belongs to. Only
/// [`KeyRing::accept`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedKey {
    statement: Statement,
    signer: SpiffeId,
    not_after: u64,
}

impl AttestedKey {
    /// The node.
    pub fn node(&self) -> &str {
        &self.statement.node
    }

    /// Its WireGuard key.
    pub fn public_key(&self) -> &PublicKey {
        &self.statement.public_key
    }

    /// The key's epoch.
    pub fn epoch(&self) -> u64 {
        self.statement.epoch
    }

    /// Unix seconds after which the attestation is void: the earlier of the announcement's and the
    /// certificate chain's end.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Who signed.
    pub fn signer(&self) -> &SpiffeId {
        &self.signer
    }
}

/// Why an announcement was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It could not be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It speaks for another node than the one whose object it was found in.
    #[error("it speaks for node {0}")]
    OtherNode(String),
    /// It is of another trust domain.
    #[error("it is of trust domain {0}")]
    OtherTrustDomain(String),
    /// The node's name makes no SPIFFE ID.
    #[error("the node's name makes no SPIFFE ID: {0}")]
    NodeId(#[from] IdError),
    /// The announcement's time is over.
    #[error("it expired {} s ago", now.saturating_sub(*not_after))]
    Expired {
        /// Its end, Unix seconds.
        not_after: u64,
        /// The time it was looked at, Unix seconds.
        now: u64,
    },
    /// An older announcement than one that was accepted before: a replay.
    #[error("its epoch {epoch} is older than {accepted}, which was accepted before")]
    Replayed {
        /// Its epoch.
        epoch: u64,
        /// The epoch accepted last.
        accepted: u64,
    },
    /// The same epoch as an accepted announcement, with another key: one of the two is not the node's.
    #[error("another key was accepted before for the same epoch")]
    Equivocation,
    /// A next key that is not later than the node's key, or whose epoch is of the same kind: no device can have both.
    #[error("its epoch {epoch} cannot come after {current}, which is the node's now")]
    NotNext {
        /// Its epoch.
        epoch: u64,
        /// That of the node's key.
        current: u64,
    },
    /// A next key of a node that has no key.
    #[error("it is a next key, and the node has none before it")]
    NoCurrent,
    /// All zero.
    #[error("the key is all zero")]
    ZeroKey,
    /// This node's own key.
    #[error("the key is this node's own")]
    OwnKey,
    /// Another node has announced this key.
    #[error("the key is that of node {0}")]
    Duplicate(String),
    /// Chain or signature are not good.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// More nodes than are remembered.
    #[error("more than {MAX_NODES} nodes")]
    TooMany,
}

/// Why an own announcement could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The SVID is not that of this node.
    #[error("the SVID speaks for {0}, not for this node")]
    WrongSvid(SpiffeId),
    /// The node's name makes no SPIFFE ID.
    #[error("the node's name makes no SPIFFE ID: {0}")]
    NodeId(#[from] IdError),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It does not fit.
    #[error(transparent)]
    Encode(#[from] DecodeError),
}

/// The SPIFFE ID of a node: `spiffe://<trust domain>/node/<name>`.
pub fn node_id(domain: &TrustDomain, node: &str) -> Result<SpiffeId, IdError> {
    SpiffeId::parse(&format!("spiffe://{domain}/node/{node}"))
}

/// The value of this node's annotation: `key` at `epoch`, signed with the node's SVID, valid for as long as
/// the SVID is. Make a new one whenever SVID or key are renewed.
pub fn announce(svid: &Svid, node: &str, key: PublicKey, epoch: u64) -> Result<String, AnnounceError> {
    let domain = svid.spiffe_id().trust_domain();
    if *svid.spiffe_id() != node_id(&domain, node)? {
        return Err(AnnounceError::WrongSvid(svid.spiffe_id().clone()));
    }
    let statement = Statement {
        trust_domain: domain.as_str().to_owned(),
        node: node.to_owned(),
        public_key: key,
        epoch,
        not_after: svid.not_after(),
    };
    let signature = signature::sign(svid, &statement.signing_bytes())?;
    let chain = svid.chain().iter().map(|certificate| certificate.as_ref().to_vec()).collect();
    Ok(Announcement { statement, chain, signature }.encode()?)
}

/// The keys of the other nodes, and the last epoch of every node that was ever seen.
#[derive(Debug, Clone)]
pub struct KeyRing {
    own: BTreeSet<PublicKey>,
    keys: BTreeMap<String, AttestedKey>,
    /// Of nodes that change their key: what comes after the one in `keys`.
    next: BTreeMap<String, AttestedKey>,
    /// Epoch and key accepted last; outlives the key, so that a deleted and re-created node object cannot
    /// bring an old key back.
    last: BTreeMap<String, (u64, PublicKey)>,
}

impl KeyRing {
    /// Nobody's keys yet. `own` is this node's own key.
    pub fn new(own: PublicKey) -> Self {
        Self {
            own: BTreeSet::from([own]),
            keys: BTreeMap::new(),
            next: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    /// The epoch and the key accepted last of every node that was ever seen: what has to outlive the process, or an
    /// older announcement would be believed after a restart.
    pub fn last(&self) -> impl Iterator<Item = (&str, u64, &PublicKey)> {
        self.last.iter().map(|(node, (epoch, key))| (node.as_str(), *epoch, key))
    }

    /// Takes up what [`KeyRing::last`] said in an earlier process. Proves no key, and lowers no epoch.
    pub fn restore(&mut self, last: impl IntoIterator<Item = (String, u64, PublicKey)>) {
        for (node, epoch, key) in last.into_iter().take(MAX_NODES) {
            if self.last.get(&node).is_none_or(|(accepted, _)| *accepted < epoch) {
                self.remember(&node, (epoch, key));
            }
        }
    }

    /// These are the keys of this node itself.
    pub fn set_own(&mut self, own: impl IntoIterator<Item = PublicKey>) {
        self.own = own.into_iter().collect();
    }

    /// Take the announcement found in the object of `node`, if it proves itself under `bundle` at `now`
    /// (Unix seconds). A refusal leaves the key accepted last in place until it expires or is removed.
    ///
    /// Repeating it is harmless, and needed when a refusal may have lost its reason.
    pub fn accept(
        &mut self,
        node: &str,
        text: &str,
        bundle: &Bundle,
        now: u64,
    ) -> Result<&AttestedKey, Refusal> {
        let announcement = Announcement::decode(text)?;
        self.check(node, &announcement.statement, bundle, now)?;
        let key = verify(node, announcement, bundle, now)?;
        self.remember(node, (key.epoch(), *key.public_key()));
        self.next.retain(|name, next| name != node || next.epoch() > key.epoch());
        let slot = self.keys.entry(node.to_owned());
        Ok(slot.insert_entry(key).into_mut())
    }

    /// Take the announcement of a next key found in the object of `node`, likewise. Both keys are the node's until
    /// the next one is announced as the node's key; that the announcement disappears before changes nothing.
    pub fn accept_next(&mut self, node: &str, text: &str, bundle: &Bundle, now: u64) -> Result<(), Refusal> {
        let announcement = Announcement::decode(text)?;
        let said = &announcement.statement;
        self.check_words(node, said, bundle, now)?;
        let now_its = self.keys.get(node).ok_or(Refusal::NoCurrent)?;
        let current = now_its.epoch();
        if (said.epoch, &said.public_key) == (current, now_its.public_key()) {
            // The node has just finished, and the other annotation says so.
            return Ok(());
        }
        if said.epoch <= current || (said.epoch ^ current) & 1 == 0 {
            return Err(Refusal::NotNext { epoch: said.epoch, current });
        }
        match self.next.get(node) {
            Some(next) if said.epoch < next.epoch() => {
                return Err(Refusal::Replayed { epoch: said.epoch, accepted: next.epoch() });
            }
            Some(next) if said.epoch == next.epoch() && said.public_key != *next.public_key() => {
                return Err(Refusal::Equivocation);
            }
            _ => {}
        }
        let key = verify(node, announcement, bundle, now)?;
        self.next.insert(node.to_owned(), key);
        Ok(())
    }

    /// Forgets the oldest epoch of a node that is gone, when there are too many.
    fn remember(&mut self, node: &str, last: (u64, PublicKey)) {
        if self.last.len() >= MAX_NODES && !self.last.contains_key(node) {
            let gone = self.last.iter().filter(|(name, _)| !self.keys.contains_key(*name));
            let oldest = gone.min_by_key(|(_, (epoch, _))| *epoch).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.last.remove(&name));
        }
        self.last.insert(node.to_owned(), last);
    }

    /// What can be said of any announcement before the signature is looked at.
    fn check_words(&self, node: &str, said: &Statement, bundle: &Bundle, now: u64) -> Result<(), Refusal> {
        if said.node != node {
            return Err(Refusal::OtherNode(said.node.clone()));
        }
        if said.trust_domain != bundle.trust_domain().as_str() {
            return Err(Refusal::OtherTrustDomain(said.trust_domain.clone()));
        }
        if said.not_after <= now {
            return Err(Refusal::Expired { not_after: said.not_after, now });
        }
        self.check_key(node, &said.public_key)
    }

    /// Everything that can be said before the signature is looked at.
    fn check(&self, node: &str, said: &Statement, bundle: &Bundle, now: u64) -> Result<(), Refusal> {
        self.check_words(node, said, bundle, now)?;
        let next = self.next.get(node);
        if next.is_some_and(|next| next.epoch() == said.epoch && *next.public_key() != said.public_key) {
            return Err(Refusal::Equivocation);
        }
        match self.last.get(node) {
            Some((accepted, _)) if said.epoch < *accepted => {
                Err(Refusal::Replayed { epoch: said.epoch, accepted: *accepted })
            }
            Some((accepted, key)) if said.epoch == *accepted && said.public_key != *key => {
                Err(Refusal::Equivocation)
            }
            None if self.keys.len() >= MAX_NODES => Err(Refusal::TooMany),
            _ => Ok(()),
        }
    }

    fn check_key(&self, node: &str, key: &PublicKey) -> Result<(), Refusal> {
        if key.is_zero() {
            return Err(Refusal::ZeroKey);
        }
        if self.own.contains(key) {
            return Err(Refusal::OwnKey);
        }
        let mut all = self.keys.iter().chain(&self.next);
        let other = all.find(|(name, other)| *name != node && other.public_key() == key);
        other.map_or(Ok(()), |(name, _)| Err(Refusal::Duplicate(name.clone())))
    }

    /// The key of a node, if one was accepted. Look at its `not_after`.
    pub fn get(&self, node: &str) -> Option<&AttestedKey> {
        self.keys.get(node)
    }

    /// The keys of all nodes, by name.
    pub fn iter(&self) -> impl Iterator<Item = &AttestedKey> {
        self.keys.values()
    }

    /// The key that comes after [`KeyRing::get`]'s, while the node changes keys.
    pub fn next(&self, node: &str) -> Option<&AttestedKey> {
        self.next.get(node)
    }

    /// All keys that are a node's at the moment, the latest first.
    pub fn of_node(&self, node: &str) -> impl Iterator<Item = &AttestedKey> {
        self.next.get(node).into_iter().chain(self.keys.get(node))
    }

    /// The node is gone, or its SVID revoked: its keys are no longer good. Its epoch is remembered.
    pub fn remove(&mut self, node: &str) -> Option<AttestedKey> {
        self.next.remove(node);
        self.keys.remove(node)
    }

    /// Drops every key that has expired at `now` (Unix seconds), and returns them.
    pub fn expire(&mut self, now: u64) -> Vec<AttestedKey> {
        let is_over = |_: &String, key: &mut AttestedKey| key.not_after <= now;
        let mut gone: Vec<_> = self.keys.extract_if(.., is_over).map(|(_, key)| key).collect();
        gone.extend(self.next.extract_if(.., is_over).map(|(_, key)| key));
        gone
    }
}

/// An announcement whose words are right, if its signature is.
fn verify(node: &str, announcement: Announcement, bundle: &Bundle, now: u64) -> Result<AttestedKey, Refusal> {
    let Announcement { statement, chain, signature } = announcement;
    let expected = node_id(bundle.trust_domain(), node)?;
    let message = statement.signing_bytes();
    let signer = signature::verify(&chain, bundle, &expected, now, &message, &signature)?;
    let not_after = statement.not_after.min(signer.not_after());
    Ok(AttestedKey { statement, signer: signer.spiffe_id().clone(), not_after })
}
