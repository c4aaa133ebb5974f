//! What ends proofs before their time: revocation, departure, a new bundle, an operator.

use std::net::IpAddr;

use super::Machine;
use crate::agenda::Timer;
use crate::pair::Pair;
use crate::reason::{DiscardReason, FailureKind, RemoveReason};
use crate::record::{Proof, Work};

impl Machine {
    pub(super) fn svid_revoked(&mut self, identity: u32) {
        self.tombs.bury_identity(identity, self.now);
        self.purge_all(RemoveReason::Revoked, DiscardReason::Revoked, |pair| pair.involves(identity));
    }

    pub(super) fn disowned(&mut self, identity: u32, node: u16) {
        // Handshakes of that identity with other nodes that are under way begin anew: rare, and harmless.
        self.tombs.bury_identity(identity, self.now);
        self.purge_all(RemoveReason::Revoked, DiscardReason::Revoked, |pair| {
            pair.remote == identity && pair.node == node
        });
    }

    pub(super) fn identity_gone(&mut self, identity: u32) {
        self.tombs.bury_identity(identity, self.now);
        self.purge_all(RemoveReason::IdentityGone, DiscardReason::IdentityGone, |pair| {
            pair.involves(identity)
        });
    }

    pub(super) fn endpoints_gone(&mut self, identity: u32) {
        self.tombs.bury_identity(identity, self.now);
        self.purge_all(RemoveReason::IdentityGone, DiscardReason::IdentityGone, |pair| {
            pair.local == identity || (pair.node == 0 && pair.remote == identity)
        });
    }

    pub(super) fn node_gone(&mut self, node: u16) {
        self.tombs.bury_node(node, self.now);
        self.purge_all(RemoveReason::NodeGone, DiscardReason::NodeGone, |pair| pair.node == node);
        self.silent.remove(&node);
        self.queue.forget_node(node);
    }

    pub(super) fn address_gone(&mut self, ip: IpAddr) {
        if let Some(change) = self.bindings.unbind(ip) {
            self.rebind(change);
        }
    }

    /// What failed for want of an SVID is tried again; renewals that are due get going.
    pub(super) fn svid_rotated(&mut self, identity: u32) {
        self.forgive(|pair, why| {
            let for_want_of_it = match why {
                FailureKind::Expired | FailureKind::NoSvid | FailureKind::Untrusted => true,
                FailureKind::WrongIdentity | FailureKind::NotLocal => true,
                FailureKind::Timeout | FailureKind::Refused | FailureKind::Unreachable => false,
                FailureKind::Overload | FailureKind::Malformed | FailureKind::Closed => false,
            };
            for_want_of_it && pair.involves(identity)
        });
        for key in self.live_pairs(|pair| pair.involves(identity)) {
            self.renew(key);
        }
    }

    pub(super) fn source_down(&mut self) {
        self.source_down_since.get_or_insert(self.now);
    }

    pub(super) fn source_up(&mut self) {
        if self.source_down_since.take().is_some() {
            for key in self.live_pairs(|_| true) {
                self.renew(key);
            }
        }
    }

    /// Every entry gets a new end, and is proved again at a random time before it.
    pub(super) fn revalidate(&mut self, within: u64) {
        self.epoch = self.epoch.wrapping_add(1);
        self.tombs.bury_everybody(self.now);
        let end = self.now.saturating_add(within);
        for key in self.pairs_where(|_| true) {
            self.restart_work(key);
            let Some(proof) = self.table.get(key).and_then(|record| record.proof) else { continue };
            let renew_at = self.now.saturating_add(self.rng.up_to(within / 3 * 2));
            let proof = Proof {
                expires_at: proof.expires_at.min(end),
                renew_at: proof.renew_at.min(renew_at),
                ..proof
            };
            self.table.set_proof(key, Some(proof));
            self.set_timer(key, Timer::Expire, proof.expires_at);
            self.set_timer(key, Timer::Renew, proof.renew_at);
            self.install(key);
        }
    }

    /// Forgets everything; pairs with packets waiting begin anew.
    pub(super) fn flush(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        for key in self.pairs_where(|_| true) {
            let Some(record) = self.table.get_mut(key) else { continue };
            let (owner, required) = (record.owner, record.required);
            let waiting = record.waiting.take().filter(|until| *until > self.now);
            let wanted = std::mem::take(&mut record.wanted);
            self.purge(key, RemoveReason::Flushed, DiscardReason::Revoked);
            if waiting.is_none() || self.open(key, owner, required).is_err() {
                continue;
            }
            if let Some(record) = self.table.get_mut(key) {
                record.waiting = waiting;
                record.wanted = wanted;
            }
            self.enqueue_own(key);
        }
    }

    // A handshake that began with the old bundle must not count; whoever needs it begins anew.
    fn restart_work(&mut self, key: Pair) {
        let Some(record) = self.table.get(key) else { return };
        let dials = record.is_live() || record.is_waiting(self.now);
        if matches!(record.work, Work::InFlight { .. }) {
            self.stop_work(key);
            if dials {
                self.enqueue_own(key);
            } else {
                self.rest(key);
            }
        }
    }

    fn purge_all(&mut self, why: RemoveReason, discard: DiscardReason, concerned: impl Fn(Pair) -> bool) {
        self.epoch = self.epoch.wrapping_add(1);
        for key in self.pairs_where(concerned) {
            self.purge(key, why, discard);
        }
    }

    fn purge(&mut self, key: Pair, why: RemoveReason, discard: DiscardReason) {
        self.stop_work(key);
        self.end_live(key, why);
        self.stop_waiting(key, discard);
        self.drop_record(key);
    }

    pub(super) fn pairs_where(&self, concerned: impl Fn(Pair) -> bool) -> Vec<Pair> {
        self.table.iter().map(|(key, _)| key).filter(|key| concerned(*key)).collect()
    }

    fn live_pairs(&self, concerned: impl Fn(Pair) -> bool) -> Vec<Pair> {
        let live = self.table.iter().filter(|(key, record)| record.is_live() && concerned(*key));
        live.map(|(key, _)| key).collect()
    }
}
