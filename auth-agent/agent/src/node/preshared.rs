//! Preshared keys of the tunnels: what nodes agree on in handshakes between their own SVIDs, put in force.

use countersign_auth_proto::Pair;
use countersign_wg_proto::{Agreed, Ask, TunnelId};
use tokio::sync::oneshot;

use super::Node;
use super::auth::Purpose;
use crate::clock;
use crate::handshake::{End, Exported, Failure, FailureKind, NODE, Outcome, Refusal, Tunnel};

/// The other side of an agreement has spoken its last word, or will not.
#[derive(Debug)]
pub struct LastWord {
    tunnel: TunnelId,
    attempt: u64,
    heard: bool,
}

impl Node {
    /// Ends keys that have lived their time, and asks for those that are wanted.
    pub(super) fn agree_due(&mut self) {
        let now = clock::boot_ns();
        let ended = self.encryption.agreements.expire(now);
        if !ended.is_empty() {
            self.tell_manager();
        }
        for tunnel in ended {
            tracing::warn!(
                node = tunnel.node,
                "the preshared key has ended; the node's pods are unreachable until there is another"
            );
        }
        for Ask { tunnel, attempt } in self.encryption.agreements.due(now) {
            if let Err(why) = self.ask(&tunnel, attempt) {
                self.encryption.agreements.failed(&tunnel, attempt, why.as_str().to_owned(), now);
            }
        }
    }

    fn ask(&mut self, tunnel: &TunnelId, attempt: u64) -> Result<(), FailureKind> {
        let id = self.node_ids.id(&tunnel.node).ok_or(FailureKind::Unreachable)?;
        self.start(Pair::new(NODE, NODE, id), Purpose::Agree { tunnel: tunnel.clone(), attempt })
    }

    /// A tunnel to a node, with this one as its client; none if one of the two keys is no longer good.
    pub(super) fn tunnel_to(&self, tunnel: &TunnelId) -> Option<Tunnel> {
        let client = self.own_ends().find(|end| end.public_key == tunnel.own)?;
        let server = self.ends_of(&tunnel.node).find(|end| end.public_key == tunnel.peer)?;
        Some(Tunnel { client, server })
    }

    fn own_ends(&self) -> impl Iterator<Item = End> {
        let keys = self.encryption.own.iter();
        keys.map(|key| End { public_key: key.public_key, epoch: key.epoch })
    }

    fn ends_of(&self, node: &str) -> impl Iterator<Item = End> {
        let keys = self.encryption.keys.of_node(node);
        keys.map(|key| End { public_key: *key.public_key(), epoch: key.epoch() })
    }

    /// A node that was asked has answered, or has not.
    pub(super) fn agreed(&mut self, tunnel: &TunnelId, attempt: u64, result: Result<Box<Outcome>, Failure>) {
        let node = &tunnel.node;
        let now = clock::boot_ns();
        let outcome = match result {
            Ok(outcome) => *outcome,
            Err(failure) => {
                tracing::debug!(node, %failure, "no preshared key could be agreed on");
                return self.encryption.agreements.failed(tunnel, attempt, failure.to_string(), now);
            }
        };
        let Outcome { preshared: Some(exported), not_after, ack, .. } = outcome else {
            let why = "the node speaks of no preshared keys".to_owned();
            return self.encryption.agreements.failed(tunnel, attempt, why, now);
        };
        if !self.encryption.agreements.answered(tunnel, attempt, agreed(exported, not_after), now) {
            return;
        }
        tracing::debug!(node, "a preshared key is in force");
        let told = self.tell_manager();
        tokio::spawn(async move {
            // A panic of that task has ended the process.
            drop(told.await);
            ack.send().await;
        });
    }

    /// A node asks. Returned is what its last word is to be told to.
    pub(super) fn agree(
        &mut self,
        node: &str,
        (asked, exported): (Tunnel, Exported),
        not_after: u64,
    ) -> Result<oneshot::Sender<()>, Refusal> {
        let (client, server) = (&asked.client, &asked.server);
        if !self.own_ends().any(|end| end == *server) || !self.ends_of(node).any(|end| end == *client) {
            tracing::debug!(node, "the node means another tunnel than the one that is known here");
            return Err(Refusal::Declined);
        }
        let candidate = agreed(exported, not_after.min(self.latest_end()));
        let tunnel = TunnelId { node: node.to_owned(), own: server.public_key, peer: client.public_key };
        let asked = self.encryption.agreements.asked(&tunnel, candidate, clock::boot_ns());
        let attempt = asked.map_err(|_| Refusal::Overload)?;
        // It may have just started, and not know any more what it was told.
        self.encryption.rotation.tell_again(node);
        let (confirmed, last_word) = oneshot::channel();
        let words = self.last_words.clone();
        tokio::spawn(async move {
            let heard = last_word.await.is_ok();
            // The node task has ended: so does the agent.
            let _ = words.send(LastWord { tunnel, attempt, heard }).await;
        });
        Ok(confirmed)
    }

    /// The node that asked has the key in force, or that will never be known.
    pub(super) fn last_word(&mut self, LastWord { tunnel, attempt, heard }: LastWord) {
        let now = clock::boot_ns();
        if !heard {
            self.encryption.agreements.unconfirmed(&tunnel, attempt, now);
            return self.agree_due();
        }
        if self.encryption.agreements.confirmed(&tunnel, attempt, now) {
            tracing::debug!(node = tunnel.node, "a preshared key is in force");
            self.tell_manager();
        }
    }
}

fn agreed(exported: Exported, not_after: u64) -> Agreed {
    let until = clock::boot_at_unix(not_after);
    Agreed { key: exported.key, post_quantum: exported.post_quantum, until }
}
