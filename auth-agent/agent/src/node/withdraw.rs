//! Addresses whose endpoint is gone: every node that was told of it hears so before the address is used again.
//!
//! A peer believes an assertion until the proof it came with ends. When an endpoint goes (or changes its
//! identity), its node shakes hands again with each of those peers, with the addresses that are left; the
//! peer's replaces what it was told before. Until all have answered, or the proofs have ended, nobody gets the
//! address: a successor would pass as its predecessor at a peer that does not hear from the cluster.

use std::net::IpAddr;

use countersign_auth_proto::{Event, Pair};

use super::Node;
use super::auth::Purpose;
use crate::clock;
use crate::handshake::{Failure, FailureKind, NODE};

impl Node {
    /// An endpoint lets go of its addresses under this identity.
    pub(super) fn let_go(&mut self, identity: u32, ips: &[IpAddr]) {
        let now = clock::boot_ns();
        for ip in ips {
            // Within this node nobody has to be asked.
            self.machine.handle(Event::AddressGone { ip: *ip }, now);
            self.told.rest(*ip, identity, now);
        }
        self.act();
        self.withdraw_due();
    }

    /// Speaks to every peer that still has something to unlearn.
    pub(super) fn withdraw_due(&mut self) {
        self.told.expire(clock::boot_ns());
        for (identity, node) in self.told.due() {
            let Some(remote) = self.told.remote((identity, node)) else {
                self.told.unlearnt(identity, node);
                continue;
            };
            if self.start(Pair::new(identity, remote, node), Purpose::Withdraw).is_ok() {
                self.told.under_way.insert((identity, node));
            }
        }
    }

    /// This node speaks for an identity no longer, because its SVID was revoked.
    pub(super) fn disown(&mut self, identity: u32) {
        self.told.disown(identity, clock::boot_ns());
        // Before anybody hears it: what is begun is finished by whoever comes after this agent.
        self.save_told();
        self.disown_due();
    }

    /// Writes down what a restart must not forget, if there is anything new.
    pub(super) fn save_told(&mut self) {
        let (machine, now) = (&self.machine, clock::boot_ns());
        let Some(saved) = self.told.unsaved(|pair| machine.is_live(pair, now), clock::unix_at_boot) else {
            return;
        };
        if let Err(error) = self.told_file.save(&saved) {
            tracing::warn!(%error, "whom peers still believe is not saved: a restart forgets it");
            self.told.not_saved();
        }
    }

    /// What an earlier agent wrote down.
    pub(super) fn restore_told(&mut self) {
        let Some(saved) = self.told_file.load() else { return };
        let nodes = &self.node_ids;
        self.told.restore(saved, |node| nodes.name(node).is_some(), clock::boot_at_unix);
    }

    /// Tells every node that has something to hear and is not being told at the moment.
    pub(super) fn disown_due(&mut self) {
        for node in self.told.to_be_told() {
            if self.start(Pair::new(NODE, NODE, node), Purpose::Disown).is_ok() {
                self.told.telling.insert(node);
            }
        }
    }

    /// A node was told, or could not be.
    pub(super) fn disowned_at(&mut self, node: u16, started_at: u64, failure: Option<&Failure>) {
        self.told.telling.remove(&node);
        match failure {
            None => {
                self.told.heard(node, started_at);
                self.disown_due();
            }
            Some(failure) => {
                tracing::warn!(node, %failure, "a node has not heard of a revocation; trying again")
            }
        }
    }

    /// A handshake that was to withdraw addresses has ended.
    pub(super) fn withdrawn(&mut self, pair: Pair, failure: Option<&Failure>) {
        let peer = (pair.local, pair.node);
        self.told.under_way.remove(&peer);
        match failure.map(|failure| failure.kind) {
            None => self.told.unlearnt(pair.local, pair.node),
            // The peer has no endpoint of that identity: nobody there can be deceived in its name.
            Some(FailureKind::NotLocal) => {
                self.told.forget_remote(peer, pair.remote);
                self.withdraw_due();
            }
            // Nobody speaks for the identity here any more, as after a restart: the node itself has to say so.
            Some(FailureKind::NoSvid) if self.endpoints.assertions(pair.local).next().is_none() => {
                self.disown(pair.local);
            }
            Some(_) => tracing::debug!(?pair, ?failure, "addresses could not be withdrawn; trying again"),
        }
        if self.told.none_rest() {
            self.want_svids();
        }
    }
}
