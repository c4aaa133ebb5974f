//! The preshared keys of this node with each other: who asks whom, which key is in force, and until when.
//!
//! A key comes out of a handshake between the nodes' own SVIDs. Whoever asked puts it in force and says so; the
//! other side puts it in force when it hears that. If it does not hear it, it cannot know what the other side
//! has, and soon asks by itself: two nodes disagree no longer than that takes, and their running session
//! lives through it. Whoever keeps the last word from arriving gets no more of that than of other failures: pauses
//! grow until a key has lasted for a while. When both ask at the same moment, the one with the smaller name goes on.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{
    AGREEMENTS_AT_ONCE, ASK_AGAIN_FIRST, ASK_AGAIN_MOST, CANDIDATE_LIFE, PRESHARED_KEY_LIFE,
};
use crate::{PresharedKey, PublicKey};

/// A key that both nodes have. Times are nanoseconds of the boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The key.
    pub key: PresharedKey,
    /// Whether a quantum computer that reads the handshake later cannot find it; unknown for one that was found
    /// in the device.
    pub post_quantum: Option<bool>,
    /// Since when this node has it.
    pub since: u64,
    /// When it ends if no other takes its place.
    pub until: u64,
    renew_at: u64,
}

/// What a handshake gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The key.
    pub key: PresharedKey,
    /// Whether the key exchange was hybrid.
    pub post_quantum: bool,
    /// How long the proofs it rests on last: boot clock, nanoseconds.
    pub until: u64,
}

/// A tunnel to a node. While one of them changes its key, there are several between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelId {
    /// The other node.
    pub node: String,
    /// This node's key.
    pub own: PublicKey,
    /// The other node's.
    pub peer: PublicKey,
}

/// Another node is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// For which tunnel.
    pub tunnel: TunnelId,
    /// The number of the attempt, to be given back with its end.
    pub attempt: u64,
}

/// This node asks the other one at the moment, and goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node is asking by itself")]
pub struct Busy;

#[derive(Debug, Default)]
enum Work {
    #[default]
    Rest,
    Asking {
        attempt: u64,
    },
    /// Asked by the other side, which has not said yet that it has the key in force.
    Asked {
        attempt: u64,
        candidate: Agreed,
        deadline: u64,
    },
}

#[derive(Debug, Default)]
struct Peer {
    /// This node asks for it. One that it does not ask for may come from the other side.
    is_wanted: bool,
    /// The other side may have a key that this one has not.
    is_doubtful: bool,
    in_force: Option<InForce>,
    work: Work,
    /// Not to be asked before.
    again_at: u64,
    failures: u32,
    last_error: Option<String>,
}

/// The agreements of one node. No clock: the time comes with every call and does not go back.
#[derive(Debug)]
pub struct Agreements {
    own: String,
    /// How long a key lives at most.
    life: u64,
    peers: BTreeMap<TunnelId, Peer>,
    next_attempt: u64,
}

impl Agreements {
    /// Of the node with that name, which knows nobody yet. `life` is how long keys live (nanoseconds), an hour at most.
    #[must_use]
    pub fn new(own: &str, life: u64) -> Self {
        let life = life.min(PRESHARED_KEY_LIFE);
        Self { own: own.to_owned(), life, peers: BTreeMap::new(), next_attempt: 1 }
    }

    /// Exactly these tunnels may be, and which of them this node asks for. What was agreed on for others is void.
    pub fn set_tunnels(&mut self, tunnels: &BTreeMap<TunnelId, bool>) {
        self.peers.retain(|tunnel, _| tunnels.contains_key(tunnel));
        for (tunnel, is_wanted) in tunnels.iter().filter(|(tunnel, _)| tunnel.node != self.own) {
            self.peers.entry(tunnel.clone()).or_default().is_wanted = *is_wanted;
        }
    }

    /// The device had this key for the peer when this process began. It stays until there is another one.
    pub fn restore(&mut self, tunnel: &TunnelId, key: PresharedKey, now: u64) {
        let Some(peer) = self.peers.get_mut(tunnel).filter(|peer| peer.in_force.is_none()) else { return };
        let until = now.saturating_add(self.life);
        peer.in_force = Some(InForce { key, post_quantum: None, since: now, until, renew_at: now });
    }

    /// Whom to ask now. Each counts as being asked from then on.
    pub fn due(&mut self, now: u64) -> Vec<Ask> {
        self.give_up(now);
        let asking = self.peers.values().filter(|peer| matches!(peer.work, Work::Asking { .. })).count();
        let mut asks = Vec::new();
        for (tunnel, peer) in &mut self.peers {
            if asking + asks.len() >= AGREEMENTS_AT_ONCE {
                break;
            }
            let wanted =
                peer.in_force.as_ref().map_or(peer.is_wanted || peer.is_doubtful, |key| key.renew_at <= now);
            if wanted && peer.again_at <= now && matches!(peer.work, Work::Rest) {
                peer.work = Work::Asking { attempt: self.next_attempt };
                asks.push(Ask { tunnel: tunnel.clone(), attempt: self.next_attempt });
                self.next_attempt += 1;
            }
        }
        asks
    }

    /// The other side has answered: says whether its key is in force now, and is to be confirmed. If not,
    /// something else has come in between.
    #[must_use]
    pub fn answered(&mut self, tunnel: &TunnelId, attempt: u64, agreed: Agreed, now: u64) -> bool {
        let Some(peer) = self.peers.get_mut(tunnel) else { return false };
        if !matches!(peer.work, Work::Asking { attempt: own } if own == attempt) {
            return false;
        }
        peer.put_in_force(agreed, now, self.life);
        true
    }

    /// An attempt has failed.
    pub fn failed(&mut self, tunnel: &TunnelId, attempt: u64, why: String, now: u64) {
        let Some(peer) = self.peers.get_mut(tunnel) else { return };
        if matches!(peer.work, Work::Asking { attempt: own } if own == attempt) {
            peer.back_off(now);
            peer.last_error = Some(why);
        }
    }

    /// The other side asks. Its key is in force when [`Self::confirmed`] comes.
    ///
    /// # Errors
    /// This node is asking it at the moment, and goes first; or it is not known.
    pub fn asked(&mut self, tunnel: &TunnelId, candidate: Agreed, now: u64) -> Result<u64, Busy> {
        let goes_first = self.own < tunnel.node;
        let peer = self.peers.get_mut(tunnel).ok_or(Busy)?;
        if goes_first && matches!(peer.work, Work::Asking { .. }) {
            return Err(Busy);
        }
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        peer.work = Work::Asked { attempt, candidate, deadline: now.saturating_add(CANDIDATE_LIFE) };
        Ok(attempt)
    }

    /// The other side has the key of [`Self::asked`] in force: says whether this one has it now as well.
    pub fn confirmed(&mut self, tunnel: &TunnelId, attempt: u64, now: u64) -> bool {
        let Some(peer) = self.peers.get_mut(tunnel) else { return false };
        match std::mem::take(&mut peer.work) {
            Work::Asked { attempt: own, candidate, .. } if own == attempt => {
                peer.put_in_force(candidate, now, self.life);
                true
            }
            other => {
                peer.work = other;
                false
            }
        }
    }

    /// It will not say so any more: it may have the key in force or not.
    pub fn unconfirmed(&mut self, tunnel: &TunnelId, attempt: u64, now: u64) {
        if let Some(peer) = self.peers.get_mut(tunnel)
            && matches!(peer.work, Work::Asked { attempt: own, .. } if own == attempt)
        {
            peer.doubt(now);
        }
    }

    /// This node speaks with another SVID from now on: every key is agreed on anew.
    pub fn renew_all(&mut self, now: u64) {
        for key in self.peers.values_mut().filter_map(|peer| peer.in_force.as_mut()) {
            key.renew_at = key.renew_at.min(now);
        }
    }

    /// Ends what has lived its time, and says which tunnels those keys were for: nothing goes there any more.
    pub fn expire(&mut self, now: u64) -> Vec<TunnelId> {
        let mut ended = Vec::new();
        for (tunnel, peer) in &mut self.peers {
            if peer.in_force.take_if(|key| key.until <= now).is_some() {
                ended.push(tunnel.clone());
            }
        }
        ended
    }

    /// The key that is in force for a tunnel.
    #[must_use]
    pub fn key(&self, tunnel: &TunnelId) -> Option<&InForce> {
        self.peers.get(tunnel)?.in_force.as_ref()
    }

    /// The tunnels that there is a key for.
    pub fn agreed(&self) -> impl Iterator<Item = (&TunnelId, &InForce)> {
        self.peers.iter().filter_map(|(tunnel, peer)| Some((tunnel, peer.in_force.as_ref()?)))
    }

    /// The tunnels that there is a key for, or that this node asks for one for.
    pub fn needed(&self) -> impl Iterator<Item = &TunnelId> {
        let needed = self.peers.iter().filter(|(_, peer)| peer.is_wanted || peer.in_force.is_some());
        needed.map(|(tunnel, _)| tunnel)
    }

    /// Nodes that there is a key with.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<&str> {
        self.agreed().map(|(tunnel, _)| tunnel.node.as_str()).collect()
    }

    /// Why there is no newer key with a node, if the last attempt failed.
    #[must_use]
    pub fn last_error(&self, node: &str) -> Option<&str> {
        let mut of_node = self.peers.iter().filter(|(tunnel, _)| tunnel.node == node);
        of_node.find_map(|(_, peer)| peer.last_error.as_deref())
    }

    fn give_up(&mut self, now: u64) {
        for peer in self.peers.values_mut() {
            if matches!(peer.work, Work::Asked { deadline, .. } if deadline <= now) {
                peer.doubt(now);
            }
        }
    }
}

impl Peer {
    fn put_in_force(&mut self, agreed: Agreed, now: u64, life: u64) {
        // One that takes the place of a key that has just come says nothing: the last word may be lost each time.
        if self.in_force.as_ref().is_none_or(|old| now.saturating_sub(old.since) >= ASK_AGAIN_MOST) {
            self.failures = 0;
        }
        let until = agreed.until.min(now.saturating_add(life));
        // Half of its life is left for trying.
        let renew_at = now + until.saturating_sub(now) / 2;
        let (key, post_quantum) = (agreed.key, Some(agreed.post_quantum));
        self.in_force = Some(InForce { key, post_quantum, since: now, until, renew_at });
        self.work = Work::Rest;
        self.again_at = now;
        self.is_doubtful = false;
        self.last_error = None;
    }

    /// Longer with every failure.
    fn back_off(&mut self, now: u64) {
        self.work = Work::Rest;
        let wait = ASK_AGAIN_FIRST.saturating_mul(1 << self.failures.min(16)).min(ASK_AGAIN_MOST);
        self.again_at = now.saturating_add(wait);
        self.failures = self.failures.saturating_add(1);
    }

    /// The two sides may have different keys.
    fn doubt(&mut self, now: u64) {
        self.back_off(now);
        self.is_doubtful = true;
        if let Some(key) = &mut self.in_force {
            key.renew_at = key.renew_at.min(now);
        }
    }
}
