//! Endpoints: added when their interface is there, closed until their identity and policy are, restored after
//! a restart.

use std::net::IpAddr;
use std::time::Instant;

use countersign_agent_api as api;
use countersign_ebpf_common::endpoint::audit_slot;
use countersign_ebpf_loader::EndpointConfig;
use countersign_policy::EndpointPolicy;
use countersign_policy::identity::{may_have_svid, reserved};
use nix::net::if_::if_nametoindex;

use super::Node;
use crate::endpoints::{Endpoint, Saved};
use crate::limits;
use crate::world::PodKey;

/// Somebody waits for an endpoint to be enforced.
pub(super) struct Waiting {
    slot: u16,
    since: Instant,
    responder: api::Responder,
}

impl Node {
    /// Closes the interface, enters the endpoint, and answers once its policy is in place.
    pub(super) fn add_endpoint(&mut self, spec: api::EndpointSpec, responder: api::Responder) {
        if self.waiting.len() >= limits::ENDPOINTS_WAITING {
            let busy = api::Error::new(api::ErrorKind::Overloaded, "too many endpoints are being added");
            return super::answers::refuse(responder, busy);
        }
        match self.enter_endpoint(spec) {
            Ok(slot) => {
                self.waiting.push_back(Waiting { slot, since: Instant::now(), responder });
                self.serve_waiting();
            }
            Err(error) => {
                tracing::warn!(%error, "endpoint refused");
                super::answers::refuse(responder, error);
            }
        }
    }

    fn enter_endpoint(&mut self, spec: api::EndpointSpec) -> Result<u16, api::Error> {
        let unusable = |what: String| api::Error::new(api::ErrorKind::BadRequest, what);
        let ifindex = if_nametoindex(spec.interface.as_str())
            .map_err(|_| unusable(format!("interface: there is no {:?} on this node", spec.interface)))?;
        let host_mac = interface_mac(&spec.interface)
            .map_err(|error| unusable(format!("interface: no MAC of {:?}: {error}", spec.interface)))?;
        let key = (spec.namespace.clone(), spec.name.clone());
        self.refuse_taken(&spec, &key)?;
        let same = self.endpoints.slot_of(&key).filter(|slot| self.is_same(*slot, &spec, ifindex));
        if let Some(slot) = same {
            return Ok(slot);
        }
        if let Some(old) = self.endpoints.slot_of(&key) {
            self.drop_endpoint(old);
            // Its addresses may have to rest now.
            self.refuse_taken(&spec, &key)?;
        }
        let slot = self
            .endpoints
            .free_slot()
            .ok_or_else(|| api::Error::new(api::ErrorKind::Overloaded, "every slot of this node is taken"))?;
        let saved = Saved { spec, slot, ifindex, host_mac, identity: reserved::INIT };
        self.open_endpoint(saved, reserved::INIT)
            .map_err(|error| api::Error::new(api::ErrorKind::Internal, error.to_string()))?;
        self.endpoints.save();
        self.settle_endpoint(slot);
        Ok(slot)
    }

    fn is_same(&self, slot: u16, spec: &api::EndpointSpec, ifindex: u32) -> bool {
        self.endpoints.get(slot).is_some_and(|old| old.saved.spec == *spec && old.saved.ifindex == ifindex)
    }

    /// An address or an interface belongs to one endpoint.
    fn refuse_taken(&self, spec: &api::EndpointSpec, key: &PodKey) -> Result<(), api::Error> {
        for ip in &spec.ips {
            if let Some((identity, nodes)) = self.told.resting(*ip) {
                let message = format!(
                    "ips: {ip} is still believed to be identity {identity}'s at {nodes} nodes; try again, or take another"
                );
                return Err(api::Error::new(api::ErrorKind::Unavailable, message));
            }
        }
        let others = self.endpoints.iter().filter(|endpoint| endpoint.key() != *key);
        for other in others {
            let theirs = &other.saved.spec;
            let who = format!("{}/{}", theirs.namespace, theirs.name);
            if let Some(ip) = spec.ips.iter().find(|ip| theirs.ips.contains(ip)) {
                let message = format!("ips: {ip} is that of {who}; remove that endpoint first");
                return Err(api::Error::new(api::ErrorKind::Conflict, message));
            }
            if theirs.interface == spec.interface
                && if_nametoindex(spec.interface.as_str()) == Ok(other.saved.ifindex)
            {
                let message =
                    format!("interface: {:?} is that of {who}; remove that endpoint first", spec.interface);
                return Err(api::Error::new(api::ErrorKind::Conflict, message));
            }
        }
        Ok(())
    }

    fn open_endpoint(&mut self, saved: Saved, identity: u32) -> anyhow::Result<()> {
        let mac = saved.spec.mac_bytes().map_err(|error| anyhow::anyhow!("{error}"))?;
        let (mut ip4, mut ip6) = (None, None);
        for ip in &saved.spec.ips {
            match ip {
                IpAddr::V4(ip) => ip4 = Some(*ip),
                IpAddr::V6(ip) => ip6 = Some(*ip),
            }
        }
        let (slot, ifindex, host_mac) = (saved.slot, saved.ifindex, saved.host_mac);
        self.datapath.add_endpoint(&EndpointConfig { slot, ifindex, identity, ip4, ip6, mac, host_mac })?;
        let policy = EndpointPolicy { slot, ..EndpointPolicy::default() };
        self.endpoints.insert(Endpoint {
            saved,
            identity,
            registered: false,
            policy,
            audited: false,
            behind: None,
            audit: None,
            audit_behind: None,
        });
        Ok(())
    }

    /// Gives an endpoint the identity and the policy of its pod, if that is known.
    ///
    /// Not before the first complete picture: with half of the policies, an endpoint would be half open.
    pub(super) fn settle_endpoint(&mut self, slot: u16) {
        if !self.world.synced {
            return;
        }
        let Some(endpoint) = self.endpoints.get(slot) else { return };
        let key = endpoint.key();
        let Some(pod) = self.world.pods.get(&key) else { return };
        let Some(identity) = self.identities.placement(&key).map(|placement| placement.identity) else {
            return;
        };
        let registered = may_have_svid(pod);
        if endpoint.identity == identity && endpoint.registered == registered {
            if endpoint.audited != self.is_endpoint_audited(endpoint) {
                self.regenerate_slot(slot);
                self.tell_required();
            }
            return;
        }
        let (before, ips) = (endpoint.identity, endpoint.saved.spec.ips.clone());
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            endpoint.identity = identity;
            endpoint.registered = registered;
        }
        if before != identity {
            self.endpoints.save_identity(slot, identity);
            self.let_go(before, &ips);
        }
        // The policy first: under the new identity there must be no moment with the old one's rights.
        self.regenerate_slot(slot);
        if let Err(error) = self.datapath.update_endpoint_identity(slot, identity) {
            tracing::error!(slot, %error, "the endpoint's identity could not be set");
        }
        self.tell_required();
        self.want_svids();
    }

    /// Pods of this node that are new or different.
    pub(super) fn follow_local_pods(&mut self, pods: &std::collections::BTreeSet<PodKey>) {
        for key in pods {
            if let Some(slot) = self.endpoints.slot_of(key) {
                self.settle_endpoint(slot);
            }
        }
    }

    /// Answers those whose endpoint is enforced now.
    pub(super) fn serve_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for one in waiting {
            match self.endpoints.get(one.slot) {
                Some(endpoint) if endpoint.identity != reserved::INIT && self.world.synced => {
                    let added = api::EndpointAdded { id: one.slot, identity: endpoint.identity };
                    super::answers::reply(one.responder, added);
                }
                Some(_) => self.waiting.push_back(one),
                None => {
                    let gone =
                        api::Error::new(api::ErrorKind::NotFound, "the endpoint was removed meanwhile");
                    super::answers::refuse(one.responder, gone);
                }
            }
        }
    }

    /// Those who have waited too long are told; the endpoint stays, and stays closed.
    pub(super) fn give_up_waiting(&mut self) {
        while let Some(first) = self.waiting.front() {
            if first.since.elapsed() < limits::ENDPOINT_WAIT {
                return;
            }
            let Some(one) = self.waiting.pop_front() else { return };
            let late = api::Error::new(api::ErrorKind::Unavailable, "the pod is not known to this agent yet");
            super::answers::refuse(one.responder, late);
        }
    }

    pub(super) fn remove_endpoint(&mut self, key: &PodKey) {
        if let Some(slot) = self.endpoints.slot_of(key) {
            self.drop_endpoint(slot);
            self.want_svids();
            self.tell_required();
        }
    }

    fn drop_endpoint(&mut self, slot: u16) {
        if let Err(error) = self.datapath.remove_endpoint(slot) {
            tracing::error!(slot, %error, "an endpoint could not be removed from the datapath");
        }
        if let Some(gone) = self.endpoints.remove(slot) {
            gone.audit.iter().for_each(|audit| self.clear_policy(audit));
            self.clear_policy(&gone.policy);
            self.let_go(gone.identity, &gone.saved.spec.ips);
        }
    }

    /// What there was before a restart: endpoints whose interface is still there, and all proofs. Policies
    /// stay as they are pinned until the cluster is known.
    pub(super) fn restore(&mut self) {
        self.restore_proofs();
        let pinned = self.datapath.endpoints();
        for saved in self.endpoints.saved() {
            let alive = if_nametoindex(saved.spec.interface.as_str()) == Ok(saved.ifindex);
            let record =
                pinned.iter().find(|record| record.slot == saved.slot && record.ifindex == saved.ifindex);
            let (true, Some(record)) = (alive, record) else {
                self.let_go(saved.identity, &saved.spec.ips);
                continue;
            };
            let slot = saved.slot;
            if let Err(error) = self.open_endpoint(saved, record.identity) {
                tracing::warn!(slot, %error, "an endpoint could not be restored");
                continue;
            }
            self.restore_policy_of(slot);
        }
        for record in pinned {
            if self.endpoints.get(record.slot).is_none() {
                drop(self.datapath.remove_endpoint(record.slot));
            }
        }
        self.clear_stale_policies();
        self.endpoints.save();
        tracing::info!(endpoints = self.endpoints.iter().count(), "restored");
    }

    /// Reads back what the maps hold, so that the first comparison starts from what is there.
    fn restore_policy_of(&mut self, slot: u16) {
        use countersign_ebpf_loader::PolicyTable;
        let [mut policy, mut audit] =
            [slot, audit_slot(slot)].map(|slot| EndpointPolicy { slot, ..EndpointPolicy::default() });
        for (table, key, entry) in self.datapath.policy() {
            let Some(of) = [&mut policy, &mut audit].into_iter().find(|of| of.slot.to_be() == key.slot_be)
            else {
                continue;
            };
            match table {
                PolicyTable::Exact => drop(of.exact.insert(key, entry)),
                PolicyTable::Prefix(bits) => drop(of.entries.insert((key, bits), entry)),
            }
        }
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            endpoint.policy = policy;
            // What is there need not be whole, and is compared as a whole with what should be.
            endpoint.audit = Some(audit);
        }
    }
}

fn interface_mac(name: &str) -> anyhow::Result<[u8; 6]> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/address"))?;
    let spec = api::EndpointSpec { mac: text.trim().to_owned(), ..no_spec() };
    spec.mac_bytes().map_err(|error| anyhow::anyhow!("{error}"))
}

fn no_spec() -> api::EndpointSpec {
    api::EndpointSpec {
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        interface: String::new(),
        mac: String::new(),
        ips: Vec::new(),
        netns: None,
    }
}
