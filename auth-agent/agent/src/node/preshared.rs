//! Preshared keys of the tunnels: what nodes agree on in handshakes between their own SVIDs, put in force.

use countersign_auth_proto::Pair;
use countersign_wg_proto::{Agreed, Ask};
use tokio::sync::oneshot;

use super::Node;
use super::auth::Purpose;
use crate::clock;
use crate::handshake::{End, Exported, Failure, FailureKind, NODE, Outcome, Refusal, Tunnel};

/// The other side of an agreement has spoken its last word, or will not.
#[derive(Debug)]
pub struct LastWord {
    node: String,
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
        for node in ended {
            tracing::warn!(
                node,
                "the preshared key has ended; the node's pods are unreachable until there is another"
            );
        }
        for Ask { node, attempt } in self.encryption.agreements.due(now) {
            if let Err(why) = self.ask(&node, attempt) {
                self.encryption.agreements.failed(&node, attempt, why.as_str().to_owned(), now);
            }
        }
    }

    fn ask(&mut self, node: &str, attempt: u64) -> Result<(), FailureKind> {
        let id = self.node_ids.id(node).ok_or(FailureKind::Unreachable)?;
        self.start(Pair::new(NODE, NODE, id), Purpose::Agree { attempt })
    }

    /// The tunnel to a node, with this one as its client.
    pub(super) fn tunnel_to(&self, node: &str) -> Option<Tunnel> {
        Some(Tunnel { client: self.own_end(), server: self.end_of(node)? })
    }

    fn own_end(&self) -> End {
        let manager = &self.encryption.manager;
        End { public_key: manager.public_key(), epoch: manager.epoch() }
    }

    fn end_of(&self, node: &str) -> Option<End> {
        let key = self.encryption.keys.get(node)?;
        Some(End { public_key: *key.public_key(), epoch: key.epoch() })
    }

    /// A node that was asked has answered, or has not.
    pub(super) fn agreed(&mut self, pair: Pair, attempt: u64, result: Result<Box<Outcome>, Failure>) {
        let Some(node) = self.node_ids.name(pair.node).map(str::to_owned) else { return };
        let now = clock::boot_ns();
        let outcome = match result {
            Ok(outcome) => *outcome,
            Err(failure) => {
                tracing::debug!(node, %failure, "no preshared key could be agreed on");
                return self.encryption.agreements.failed(&node, attempt, failure.to_string(), now);
            }
        };
        let Outcome { preshared: Some(exported), not_after, ack, .. } = outcome else {
            let why = "the node speaks of no preshared keys".to_owned();
            return self.encryption.agreements.failed(&node, attempt, why, now);
        };
        if !self.encryption.agreements.answered(&node, attempt, agreed(exported, not_after), now) {
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
        (tunnel, exported): (Tunnel, Exported),
        not_after: u64,
    ) -> Result<oneshot::Sender<()>, Refusal> {
        if tunnel.server != self.own_end() || Some(tunnel.client) != self.end_of(node) {
            tracing::debug!(node, "the node means another tunnel than the one that is known here");
            return Err(Refusal::Declined);
        }
        let candidate = agreed(exported, not_after.min(self.latest_end()));
        let asked = self.encryption.agreements.asked(node, candidate, clock::boot_ns());
        let attempt = asked.map_err(|_| Refusal::Overload)?;
        let (confirmed, last_word) = oneshot::channel();
        let (node, words) = (node.to_owned(), self.last_words.clone());
        tokio::spawn(async move {
            let heard = last_word.await.is_ok();
            // The node task has ended: so does the agent.
            let _ = words.send(LastWord { node, attempt, heard }).await;
        });
        Ok(confirmed)
    }

    /// The node that asked has the key in force, or that will never be known.
    pub(super) fn last_word(&mut self, LastWord { node, attempt, heard }: LastWord) {
        let now = clock::boot_ns();
        if !heard {
            self.encryption.agreements.unconfirmed(&node, attempt, now);
            return self.agree_due();
        }
        if self.encryption.agreements.confirmed(&node, attempt, now) {
            tracing::debug!(node, "a preshared key is in force");
            self.tell_manager();
        }
    }
}

fn agreed(exported: Exported, not_after: u64) -> Agreed {
    let until = clock::boot_at_unix(not_after);
    Agreed { key: exported.key, post_quantum: exported.post_quantum, until }
}
