//! The endpoints of this node: which pod is behind which interface and slot, over restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_agent_api::EndpointSpec;
use countersign_ebpf_common::limits::SLOTS;
use countersign_policy::{EndpointPolicy, PolicyId};
use serde::{Deserialize, Serialize};

use crate::state::StateFile;
use crate::world::PodKey;

/// What is remembered of an endpoint over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// As it was asked for.
    pub spec: EndpointSpec,
    /// Its slot.
    pub slot: u16,
    /// Index of its interface.
    pub ifindex: u32,
    /// MAC of the interface.
    pub host_mac: [u8; 6],
    /// The identity it had last: peers may have been told.
    pub identity: u32,
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// What outlives the agent.
    pub saved: Saved,
    /// Its identity; that of `init` while its pod is not known.
    pub identity: u32,
    /// Its pod is to have an SVID.
    pub registered: bool,
    /// The policy that is in its maps.
    pub policy: EndpointPolicy,
    /// That policy drops nothing: the endpoint is in audit mode.
    pub audited: bool,
    /// Why that is not the latest, if it is not.
    pub behind: Option<Behind>,
    /// Its second verdict, as it is in the maps: what policies in audit mode would do.
    pub audit: Option<EndpointPolicy>,
    /// Why there is no second verdict, where there should be one.
    pub audit_behind: Option<Behind>,
}

/// Why what was worked out is not in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// In a sentence.
    pub why: String,
    /// The policy that needs most of the room that is not there, and how many entries it needs.
    pub offender: Option<(PolicyId, usize)>,
    /// Others that are not in force as long as it is not.
    pub others: BTreeSet<PolicyId>,
    /// What was in the maps: with less of it, there may be room.
    pub used: Used,
}

/// Entries of the policy maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Exact ones.
    pub exact: usize,
    /// Those with wildcards or ranges.
    pub tries: usize,
}

impl Used {
    fn of<'a>(policies: impl Iterator<Item = &'a EndpointPolicy>) -> Self {
        policies.fold(Self::default(), |sum, policy| Self {
            exact: sum.exact + policy.exact.len(),
            tries: sum.tries + policy.entries.len(),
        })
    }

    /// Without these.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { exact: self.exact.saturating_sub(other.exact), tries: self.tries.saturating_sub(other.tries) }
    }
}

impl Behind {
    /// Whether a policy is not in force because of this.
    #[must_use]
    pub fn concerns(&self, policy: &PolicyId) -> bool {
        self.offender.as_ref().is_some_and(|(id, _)| id == policy) || self.others.contains(policy)
    }
}

impl Endpoint {
    /// Namespace and name of its pod.
    #[must_use]
    pub fn key(&self) -> PodKey {
        (self.saved.spec.namespace.clone(), self.saved.spec.name.clone())
    }

    /// What the identity source tells it from the node's other workloads by: its pod's UID, where it has one.
    #[must_use]
    pub fn workload(&self) -> String {
        let spec = &self.saved.spec;
        if spec.uid.is_empty() { format!("{}/{}", spec.namespace, spec.name) } else { spec.uid.clone() }
    }

    /// Tells this endpoint from others that have had or will have its addresses.
    #[must_use]
    pub fn generation(&self) -> u32 {
        // FNV-1a: no secret, only different for different pods.
        let pod = [&self.saved.spec.uid, &self.saved.spec.namespace, &self.saved.spec.name];
        let bytes = pod.iter().flat_map(|part| part.bytes().chain([0]));
        bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)).max(1)
    }
}

/// All endpoints by slot.
#[derive(Debug)]
pub struct Endpoints {
    file: StateFile,
    by_slot: BTreeMap<u16, Endpoint>,
    by_pod: BTreeMap<PodKey, u16>,
    next: u16,
}

impl Endpoints {
    /// None yet; [`Endpoints::saved`] tells what there was.
    #[must_use]
    pub fn new(file: StateFile) -> Self {
        Self { file, by_slot: BTreeMap::new(), by_pod: BTreeMap::new(), next: 1 }
    }

    /// What there was before a restart.
    #[must_use]
    pub fn saved(&self) -> Vec<Saved> {
        self.file.load().unwrap_or_default()
    }

    /// A free slot, resting as long as possible before it is used again; none if all are taken.
    #[must_use]
    pub fn free_slot(&self) -> Option<u16> {
        let end = u16::try_from(SLOTS).unwrap_or(u16::MAX);
        (self.next..end).chain(1..self.next).find(|slot| !self.by_slot.contains_key(slot))
    }

    /// Enters an endpoint; to be saved.
    pub fn insert(&mut self, endpoint: Endpoint) {
        let slot = endpoint.saved.slot;
        self.next = slot.saturating_add(1).min(u16::try_from(SLOTS - 1).unwrap_or(1)).max(1);
        self.by_pod.insert(endpoint.key(), slot);
        self.by_slot.insert(slot, endpoint);
    }

    /// Takes an endpoint out and saves the rest.
    pub fn remove(&mut self, slot: u16) -> Option<Endpoint> {
        let endpoint = self.by_slot.remove(&slot)?;
        self.by_pod.remove(&endpoint.key());
        self.save();
        Some(endpoint)
    }

    /// Remembers the identity of an endpoint over a restart.
    pub fn save_identity(&mut self, slot: u16, identity: u32) {
        if let Some(endpoint) = self.by_slot.get_mut(&slot) {
            endpoint.saved.identity = identity;
            self.save();
        }
    }

    /// The endpoint in a slot.
    #[must_use]
    pub fn get(&self, slot: u16) -> Option<&Endpoint> {
        self.by_slot.get(&slot)
    }

    /// The endpoint in a slot, to be changed.
    pub fn get_mut(&mut self, slot: u16) -> Option<&mut Endpoint> {
        self.by_slot.get_mut(&slot)
    }

    /// The slot of a pod.
    #[must_use]
    pub fn slot_of(&self, key: &PodKey) -> Option<u16> {
        self.by_pod.get(key).copied()
    }

    /// What all of them have in the policy maps.
    #[must_use]
    pub fn used(&self) -> Used {
        Used::of(self.iter().flat_map(|endpoint| std::iter::once(&endpoint.policy).chain(&endpoint.audit)))
    }

    /// What of that are second verdicts.
    #[must_use]
    pub fn used_by_audits(&self) -> Used {
        Used::of(self.iter().flat_map(|endpoint| &endpoint.audit))
    }

    /// All of them, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_slot.values()
    }

    /// Slots of the endpoints with an identity.
    pub fn slots_of_identity(&self, identity: u32) -> impl Iterator<Item = u16> + '_ {
        self.by_slot
            .values()
            .filter(move |endpoint| endpoint.identity == identity)
            .map(|endpoint| endpoint.saved.slot)
    }

    /// Addresses and generations of the endpoints that may prove an identity.
    pub fn assertions(&self, identity: u32) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        let of = self
            .by_slot
            .values()
            .filter(move |endpoint| endpoint.identity == identity && endpoint.registered);
        of.flat_map(|endpoint| endpoint.saved.spec.ips.iter().map(|ip| (*ip, endpoint.generation())))
    }

    /// Saves all, for after a restart.
    pub fn save(&self) {
        let all: Vec<&Saved> = self.by_slot.values().map(|endpoint| &endpoint.saved).collect();
        if let Err(error) = self.file.save(&all) {
            tracing::warn!(%error, "endpoints not saved: after a restart they stay closed until added again");
        }
    }
}
