//! Changing this node's WireGuard key, and coming along when another node changes its own, without losing a packet.
//!
//! 1. A next key is made and announced beside the one that is. Both are good.
//! 2. For each node, a preshared key is agreed on for the tunnel between the latest keys, in devices of its own
//!    (`countersign_wg_proto::Slot`). Whoever finds a session in it sends there from then on, and says so to the node
//!    that changes its key.
//! 3. When all have said so, and this node sends nowhere under the old key itself, the old key ends: it is not
//!    announced any more, and no device has it. Nodes that do not come along are named by `encrypt status`; at the
//!    latest after `--wireguard-key-overlap` the old key ends all the same, and they are cut off until they do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use countersign_agent_api as api;
use countersign_auth_proto::Pair;
use countersign_wg_proto::{OldKey, PublicKey, Rotation, TunnelId};

use super::Node;
use super::auth::Purpose;
use super::encryption::tunnel_of;
use crate::clock;
use crate::config::Config;
use crate::handshake::{Failure, NODE};
use crate::limits::ENCRYPTION_RETRY;

/// Who has come along with whose new key.
#[derive(Debug)]
pub(super) struct Rotating {
    /// How long an old key may live beside the next one.
    overlap: Duration,
    /// How old a key gets before it is changed; `None`: nobody changes it but by hand.
    every: Option<Duration>,
    /// This node's own change, while there is one.
    own: Option<Rotation>,
    /// Since when a command about the keys is with the manager.
    asked: Option<Instant>,
    /// Under which of this node's keys another one says that it sends.
    heard: BTreeMap<String, PublicKey>,
    /// In which tunnel nodes know that this one sends.
    told: BTreeMap<String, TunnelId>,
    /// Nodes that are being told.
    telling: BTreeSet<String>,
}

impl Rotating {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            overlap: config.wireguard_key_overlap,
            every: config.wireguard_rotate_every.0,
            own: None,
            asked: None,
            heard: BTreeMap::new(),
            told: BTreeMap::new(),
            telling: BTreeSet::new(),
        }
    }

    /// A node says under which key of this one it sends from now on.
    pub(super) fn heard(&mut self, node: &str, key: PublicKey) {
        self.heard.insert(node.to_owned(), key);
    }

    /// A node was told, or could not be.
    pub(super) fn told(&mut self, tunnel: &TunnelId, failure: Option<&Failure>) {
        self.telling.remove(&tunnel.node);
        match failure {
            None => drop(self.told.insert(tunnel.node.clone(), tunnel.clone())),
            Some(failure) => {
                tracing::debug!(node = tunnel.node, %failure, "a node has not heard of a move; trying again");
            }
        }
    }

    /// A node may have forgotten what it was told.
    pub(super) fn tell_again(&mut self, node: &str) {
        self.told.remove(node);
    }

    /// Once, and again only if nothing came of it.
    fn may_ask(&mut self) -> bool {
        let may = self.asked.is_none_or(|at| at.elapsed() >= ENCRYPTION_RETRY);
        if may {
            self.asked = Some(Instant::now());
        }
        may
    }

    fn forget(&mut self, is_known: impl Fn(&str) -> bool) {
        self.heard.retain(|node, _| is_known(node));
        self.told.retain(|node, _| is_known(node));
    }
}

impl Node {
    /// Begins, follows and ends the change of this node's own key.
    pub(super) fn rotate_due(&mut self) {
        let keys = self.encryption.manager.keys();
        if keys != self.encryption.own {
            self.encryption.rotation.asked = None;
            self.encryption.own = keys;
            self.encryption.keys.set_own(keys.iter().map(|key| key.public_key));
            self.encryption.keys_changed();
        }
        let now = clock::boot_ns();
        if keys.next.is_none() {
            self.encryption.rotation.own = None;
            let every = self.encryption.rotation.every;
            if every.is_some_and(|every| age(keys.current.epoch) >= every) && self.world.synced {
                self.begin_rotation(None);
            }
            return;
        }
        let waiting = self.waited_for();
        let overlap = self.encryption.rotation.overlap;
        let rotation = self.encryption.rotation.own.get_or_insert_with(|| {
            // An agent that comes back goes on: the time that has passed counts.
            let passed = keys.next.map_or(Duration::ZERO, |next| age(next.epoch));
            Rotation::new(now.saturating_add(nanoseconds(overlap.saturating_sub(passed))))
        });
        match rotation.step(waiting, now) {
            OldKey::Stays => {}
            // Nobody is known to have come along before the cluster is known.
            OldKey::Ends { .. } if !self.world.synced => {}
            OldKey::Ends { late } => {
                if !late.is_empty() {
                    tracing::warn!(
                        ?late,
                        "the old WireGuard key ends: nodes that have not come along are cut off"
                    );
                }
                self.end_old_key();
            }
        }
    }

    /// Nodes that send under the old key of this one, as far as is known here, or are sent to under it.
    fn waited_for(&self) -> BTreeSet<String> {
        let Some(next) = self.encryption.own.next else { return BTreeSet::new() };
        let (heard, sends) = (&self.encryption.rotation.heard, self.sends());
        let has_moved = |node: &str| {
            let sends_there = sends.get(node).is_some_and(|tunnel| tunnel.own == next.public_key);
            heard.get(node) == Some(&next.public_key) && sends_there
        };
        let nodes = self.encryption.keys.iter().map(|key| key.node());
        // Where there are no pods, nothing comes from.
        let has_pods = |node: &str| self.world.nodes.get(node).is_some_and(|of| !of.pod_cidrs.is_empty());
        nodes.filter(|node| has_pods(node) && !has_moved(node)).map(str::to_owned).collect()
    }

    /// In which tunnel this node sends to each of the others.
    fn sends(&self) -> BTreeMap<String, TunnelId> {
        let mut sends = BTreeMap::new();
        for (node, way) in self.encryption.manager.ways() {
            let key = self.encryption.keys.of_node(&node).find(|key| *key.public_key() == way.peer);
            let own = self.encryption.own.iter().find(|own| way.slot.is_of(own.epoch));
            if let (Some(key), Some(own)) = (key, own) {
                sends.insert(node, tunnel_of(&own, key));
            }
        }
        sends
    }

    /// Tells nodes that change their key in which tunnel they are sent to.
    pub(super) fn tell_moved(&mut self) {
        let known: BTreeSet<String> = self.encryption.keys.iter().map(|key| key.node().to_owned()).collect();
        self.encryption.rotation.forget(|node| known.contains(node));
        for (node, tunnel) in self.sends() {
            let rotation = &self.encryption.rotation;
            let is_waiting =
                self.encryption.keys.next(&node).is_some_and(|key| *key.public_key() == tunnel.peer);
            if !is_waiting || rotation.told.get(&node) == Some(&tunnel) || rotation.telling.contains(&node) {
                continue;
            }
            let Some(id) = self.node_ids.id(&node) else { continue };
            if self.start(Pair::new(NODE, NODE, id), Purpose::Moved { tunnel }).is_ok() {
                self.encryption.rotation.telling.insert(node);
            }
        }
    }

    /// Makes a next key, unless there is one, and answers who asked.
    pub(super) fn begin_rotation(&mut self, responder: Option<api::Responder>) {
        if responder.is_none() && !self.encryption.rotation.may_ask() {
            return;
        }
        let manager = self.encryption.manager.clone();
        let node = self.config.node_name.clone();
        tokio::spawn(async move {
            let before = manager.keys();
            let begun = manager.begin_rotation().await;
            match &begun {
                Ok(keys) => {
                    tracing::info!(key = ?keys.next.map(|key| key.public_key), "the WireGuard key changes")
                }
                Err(error) => tracing::error!(%error, "no next WireGuard key could be made"),
            }
            let Some(responder) = responder else { return };
            let answer = begun.map(|keys| api::RotationBegun {
                node,
                public_key: keys.current.public_key.to_string(),
                next_public_key: keys.next.map(|key| key.public_key.to_string()).unwrap_or_default(),
                is_new: before.next != keys.next,
            });
            drop(match answer {
                Ok(answer) => responder.reply(&answer).await,
                Err(error) => {
                    responder.error(api::Error::new(api::ErrorKind::Internal, error.to_string())).await
                }
            });
        });
    }

    fn end_old_key(&mut self) {
        if !self.encryption.rotation.may_ask() {
            return;
        }
        let manager = self.encryption.manager.clone();
        tokio::spawn(async move {
            match manager.end_old_key().await {
                Ok(keys) => tracing::info!(key = %keys.current.public_key, "the WireGuard key has changed"),
                Err(error) => tracing::error!(%error, "the old WireGuard key could not be forgotten"),
            }
        });
    }

    /// The change of this node's key, for those who want to know how far it is.
    pub(super) fn key_rotation(&self) -> Option<api::KeyRotation> {
        let next = self.encryption.own.next?;
        let rotation = self.encryption.rotation.own.as_ref();
        Some(api::KeyRotation {
            next_public_key: next.public_key.to_string(),
            since: clock::unix().saturating_sub(age(next.epoch).as_secs()),
            until: rotation.map_or_else(clock::unix, |of| clock::unix_at_boot(of.until())),
            waiting_for: self.waited_for().into_iter().collect(),
        })
    }
}

/// How long ago a key was made, by its epoch. The wall clock may have been set back since.
fn age(epoch: u64) -> Duration {
    Duration::from_secs(clock::unix()).saturating_sub(Duration::from_millis(epoch))
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
