//! Handshakes and what follows from them: the state machine's events and actions.

use std::net::{IpAddr, SocketAddr};

use countersign_auth_proto::{self as proto, Action, Change, Event, FailureKind, Notice, Pair, Via};
use countersign_certs::SpiffeId;
use countersign_ebpf_common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_common::policy::auth_type;
use countersign_wg_proto::TunnelId;
use tokio::net::TcpSocket;

use super::Node;
use crate::clock;
use crate::handshake::{self, Assertion, Failure, Inbound, InboundAccept, NODE, Outcome, Refusal};
use crate::node_ids::THIS_NODE;

/// A handshake of ours that has ended.
#[derive(Debug)]
pub struct Dialled {
    pair: Pair,
    purpose: Purpose,
    started_at: u64,
    result: Result<Box<Outcome>, Failure>,
}

/// What a handshake of ours is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// The state machine asked for it.
    Prove {
        /// Its number of the attempt.
        attempt: u64,
    },
    /// A peer is to unlearn addresses.
    Withdraw,
    /// A peer is to hear which identities this node speaks for no longer.
    Disown,
    /// A preshared key is wanted for a tunnel to the node.
    Agree {
        /// Which one.
        tunnel: TunnelId,
        /// Its number of the attempt.
        attempt: u64,
    },
    /// The node is to hear in which tunnel it is sent to from now on.
    Moved {
        /// Which one.
        tunnel: TunnelId,
    },
}

/// The key of a pair in the datapath.
pub(super) fn key(pair: Pair) -> AuthKey {
    AuthKey { local: pair.local, remote: pair.remote, node: pair.node, auth_type: auth_type::SPIRE, pad: 0 }
}

impl Node {
    /// Does what the state machine asks for, in its order.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Start { pair, attempt } => self.dial(pair, attempt),
                // The task ends by its own deadline; its result is ignored.
                Action::Cancel { .. } => {}
                Action::Install { pair, expires_at, generation, .. } => {
                    self.install(pair, expires_at, generation)
                }
                Action::Remove { pair, why } => self.withdraw(pair, why),
                Action::Bind { ip, identity, node, generation, epoch } => {
                    self.bind(ip, Bound { identity, node, pad: 0, generation, epoch });
                }
                Action::Unbind { ip } => self.unbind(ip),
                Action::Release { pair } => self.release(pair),
                Action::Discard { pair, why } => self.discard(pair, why),
                Action::Emit(notice) => self.notice(notice),
            }
        }
    }

    fn dial(&mut self, pair: Pair, attempt: u64) {
        if let Err(why) = self.start(pair, Purpose::Prove { attempt }) {
            self.machine.handle(Event::HandshakeFailed { pair, attempt, why }, clock::boot_ns());
        }
    }

    /// Starts a handshake; its end comes as [`Dialled`].
    pub(super) fn start(&mut self, pair: Pair, purpose: Purpose) -> Result<(), FailureKind> {
        let started_at = clock::boot_ns();
        let request = self.request(pair, &purpose)?;
        let client = self.client.clone();
        let done = self.dialled.clone();
        tokio::spawn(async move {
            let result = client.handshake(request).await.map(Box::new);
            // The node task has ended: so does the agent.
            let _ = done.send(Dialled { pair, purpose, started_at, result }).await;
        });
        Ok(())
    }

    fn request(&self, pair: Pair, purpose: &Purpose) -> Result<handshake::Request, FailureKind> {
        let remote_node = self.node_ids.name(pair.node).ok_or(FailureKind::Unreachable)?.to_owned();
        let known = |id| self.tunnel_to(id).ok_or(FailureKind::Unreachable);
        let (tunnel, moved) = match purpose {
            Purpose::Agree { tunnel, .. } => (Some(known(tunnel)?), None),
            Purpose::Moved { tunnel } => (None, Some(known(tunnel)?)),
            Purpose::Prove { .. } | Purpose::Withdraw | Purpose::Disown => (None, None),
        };
        let address = self.node_address(&remote_node).ok_or(FailureKind::Unreachable)?;
        Ok(handshake::Request {
            local_identity: pair.local,
            remote_identity: pair.remote,
            remote_id: self.peer_id(pair.remote, &remote_node).ok_or(FailureKind::WrongIdentity)?,
            addr: SocketAddr::new(address, self.config.handshake_port),
            own_node: self.config.node_name.clone(),
            remote_node,
            assertions: self.own_assertions(pair.local),
            not_after: self.latest_end(),
            disowned: if pair.local == NODE { self.told.disowned_to(pair.node) } else { Vec::new() },
            tunnel,
            moved,
        })
    }

    /// The first InternalIP, always the same one.
    fn node_address(&self, node: &str) -> Option<IpAddr> {
        self.world.nodes.get(node)?.internal_ips.first().copied()
    }

    fn own_assertions(&self, identity: u32) -> Vec<Assertion> {
        let all = self.endpoints.assertions(identity).take(handshake::limits::MAX_ASSERTIONS);
        all.map(|(ip, generation)| Assertion { ip, generation }).collect()
    }

    /// Until when a proof made now may live, as far as this node's settings go: Unix seconds.
    pub(super) fn latest_end(&self) -> u64 {
        clock::unix().saturating_add(self.config.auth_max_age.as_secs())
    }

    /// One of our handshakes has ended.
    pub(super) fn dialled(&mut self, dialled: Dialled) {
        let Dialled { pair, purpose, started_at, result } = dialled;
        match (purpose, result) {
            (Purpose::Prove { attempt }, Ok(outcome)) => self.proved(pair, attempt, started_at, *outcome),
            (Purpose::Prove { attempt }, Err(failure)) => self.failed(pair, attempt, &failure),
            (Purpose::Withdraw, Ok(outcome)) => {
                tokio::spawn(outcome.ack.send());
                self.withdrawn(pair, None);
            }
            (Purpose::Withdraw, Err(failure)) => self.withdrawn(pair, Some(&failure)),
            (Purpose::Disown, Ok(outcome)) => {
                tokio::spawn(outcome.ack.send());
                self.disowned_at(pair.node, started_at, None);
            }
            (Purpose::Disown, Err(failure)) => self.disowned_at(pair.node, started_at, Some(&failure)),
            (Purpose::Agree { tunnel, attempt }, result) => self.agreed(&tunnel, attempt, result),
            (Purpose::Moved { tunnel }, Ok(outcome)) => {
                tokio::spawn(outcome.ack.send());
                self.encryption.rotation.told(&tunnel, None);
            }
            (Purpose::Moved { tunnel }, Err(failure)) => {
                self.encryption.rotation.told(&tunnel, Some(&failure));
            }
        }
    }

    fn failed(&mut self, pair: Pair, attempt: u64, failure: &Failure) {
        let (remote, node) = (pair.remote, pair.node);
        tracing::debug!(local = pair.local, remote, node, %failure, "handshake failed");
        self.names.remember_failure(pair, failure);
        let why = failure.kind;
        self.machine.handle(Event::HandshakeFailed { pair, attempt, why }, clock::boot_ns());
    }

    fn proved(&mut self, pair: Pair, attempt: u64, started_at: u64, outcome: Outcome) {
        let not_after = clock::boot_at_unix(outcome.not_after);
        let event = Event::HandshakeDone {
            pair,
            via: Via::Dialled { attempt },
            started_at,
            not_after,
            assertions: self.believed(pair, outcome.assertions),
        };
        self.latency.push(outcome.duration);
        self.metrics.handshake_ok(outcome.duration);
        self.told.note(pair.local, pair.remote, pair.node, not_after);
        self.machine.handle(event, clock::boot_ns());
        // The server is told after our entry is in the map.
        self.act();
        tokio::spawn(outcome.ack.send());
    }

    /// The SPIFFE ID of an identity of pods, or of the node.
    fn peer_id(&self, identity: u32, node: &str) -> Option<SpiffeId> {
        if identity == NODE {
            return countersign_wg_proto::node_id(self.svids.domain(), node).ok();
        }
        self.spiffe_id(identity)
    }

    /// Another node has authenticated itself to us.
    fn accept_node(&mut self, inbound: Inbound) {
        let node = match self.peer_node(&inbound) {
            Ok(node) => node,
            Err(refusal) => return drop(inbound.respond.send(Err(refusal))),
        };
        for identity in inbound.disowned {
            tracing::info!(identity, node = %inbound.remote_node, "the node speaks for it no longer");
            self.machine.handle(Event::Disowned { identity, node }, clock::boot_ns());
        }
        self.act();
        if let Some(tunnel) = &inbound.moved {
            self.encryption.rotation.heard(&inbound.remote_node, tunnel.server.public_key);
        }
        let not_after = inbound.not_after;
        let asks = inbound.tunnel.map(|tunnel| self.agree(&inbound.remote_node, tunnel, not_after));
        let answer =
            asks.transpose().map(|confirmed| InboundAccept { assertions: Vec::new(), not_after, confirmed });
        drop(inbound.respond.send(answer));
    }

    /// A peer has authenticated itself to us.
    pub(super) fn accept(&mut self, inbound: Inbound) {
        if inbound.asked_identity == NODE {
            return self.accept_node(inbound);
        }
        let now = clock::boot_ns();
        let verdict = self.judge(&inbound);
        let Inbound { not_after, respond, assertions, since, .. } = inbound;
        let pair = match verdict {
            Ok(pair) => pair,
            Err(refusal) => return drop(respond.send(Err(refusal))),
        };
        let not_after = not_after.min(self.latest_end());
        let event = Event::HandshakeDone {
            pair,
            via: Via::Inbound,
            // A revocation after that voids the handshake, however late it ends.
            started_at: now.saturating_sub(nanoseconds(since.elapsed())),
            not_after: clock::boot_at_unix(not_after),
            assertions: self.believed(pair, assertions),
        };
        self.machine.handle(event, now);
        self.act();
        let assertions = self.own_assertions(pair.local);
        self.told.note(pair.local, pair.remote, pair.node, clock::boot_at_unix(not_after));
        drop(respond.send(Ok(InboundAccept { assertions, not_after, confirmed: None })));
    }

    /// Which pair a client's handshake is for, if it may be.
    fn judge(&self, inbound: &Inbound) -> Result<Pair, Refusal> {
        let node = self.peer_node(inbound)?;
        if self.endpoints.assertions(inbound.asked_identity).next().is_none() {
            return Err(Refusal::NotLocal);
        }
        Ok(Pair::new(inbound.asked_identity, inbound.remote_identity, node))
    }

    /// The node that a client is, if it comes from where that node is.
    fn peer_node(&self, inbound: &Inbound) -> Result<u16, Refusal> {
        let node = self.node_ids.id(&inbound.remote_node).ok_or(Refusal::WrongNode)?;
        let known = self.world.nodes.get(&inbound.remote_node).ok_or(Refusal::WrongNode)?;
        let is_there = known.internal_ips.contains(&inbound.peer_addr.ip().to_canonical());
        if is_there { Ok(node) } else { Err(Refusal::WrongNode) }
    }

    /// A node speaks for addresses out of its own prefixes only.
    fn believed(&self, pair: Pair, assertions: Vec<Assertion>) -> Vec<proto::Assertion> {
        let node = self.node_ids.name(pair.node).and_then(|name| self.world.nodes.get(name));
        let Some(node) = node else { return Vec::new() };
        let own = |ip: IpAddr| node.pod_cidrs.iter().any(|net| net.contains(&ip));
        let (good, bad): (Vec<_>, Vec<_>) = assertions.into_iter().partition(|assertion| own(assertion.ip));
        if !bad.is_empty() {
            tracing::warn!(node = %node.name, count = bad.len(), "a node asserts addresses that are not its own");
        }
        good.into_iter().map(|Assertion { ip, generation }| proto::Assertion { ip, generation }).collect()
    }

    fn install(&mut self, pair: Pair, expires_at: u64, generation: u32) {
        let value = AuthValue { expires_at, epoch: self.settings.auth_epoch, generation };
        if let Err(error) = self.datapath.auth_upsert(key(pair), value) {
            tracing::warn!(?pair, %error, "a proof could not be entered: its packets stay out");
            self.count_discarded("auth_map_full", 1);
        }
    }

    fn withdraw(&mut self, pair: Pair, why: proto::RemoveReason) {
        tracing::debug!(?pair, why = why.as_str(), "proof withdrawn");
        self.told.unproved(pair, clock::boot_ns());
        if let Err(error) = self.datapath.auth_remove(&key(pair)) {
            tracing::error!(?pair, %error, "a proof could not be withdrawn");
        }
        self.bump_auth(pair.local);
    }

    fn bind(&mut self, ip: IpAddr, bound: Bound) {
        if let Err(error) = self.datapath.bind(ip, bound) {
            tracing::warn!(%ip, %error, "an asserted address could not be entered: its packets stay out");
        }
    }

    fn unbind(&mut self, ip: IpAddr) {
        if let Err(error) = self.datapath.unbind(ip) {
            tracing::error!(%ip, %error, "an asserted address could not be withdrawn");
        }
        let slots: Vec<u16> = self.endpoints.iter().map(|endpoint| endpoint.saved.slot).collect();
        slots.into_iter().for_each(|slot| self.bump_auth_of(slot));
    }

    fn bump_auth(&mut self, identity: u32) {
        let slots: Vec<u16> = self.endpoints.slots_of_identity(identity).collect();
        slots.into_iter().for_each(|slot| self.bump_auth_of(slot));
    }

    fn bump_auth_of(&mut self, slot: u16) {
        if let Err(error) = self.datapath.epoch_bump_auth(slot) {
            tracing::error!(slot, %error, "cached verdicts could not be made stale: they end within a second");
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice.change {
            Change::Proved { inbound, .. } => {
                self.names.forget_failure(notice.pair);
                self.handshakes_ok += u64::from(!inbound);
            }
            Change::Failed { why, .. } => {
                self.metrics.handshake_failed(why.as_str());
                *self.handshake_failures.entry(why.as_str()).or_default() += 1;
            }
            Change::Removed(_) => {}
        }
        self.record(notice);
    }

    /// Listens for peers on this node's own addresses, once those are known and as soon as the port is free.
    pub(super) fn listen(&mut self) {
        if !self.servers.is_empty() {
            return;
        }
        let own = self.world.nodes.get(&self.config.node_name).map(|node| node.internal_ips.clone());
        let addresses = match self.config.handshake_listen {
            Some(address) => vec![address],
            None => {
                let port = self.config.handshake_port;
                own.unwrap_or_default().into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
            }
        };
        for address in addresses {
            match self.serve(address) {
                Ok(server) => {
                    tracing::info!(%address, "accepting handshakes");
                    self.servers.push(server);
                }
                Err(error) => tracing::warn!(%address, %error, "no handshakes are accepted; trying again"),
            }
        }
    }

    fn serve(&self, address: SocketAddr) -> std::io::Result<handshake::Server> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(handshake::limits::LISTEN_BACKLOG.unsigned_abs())?;
        let config = handshake::ServerConfig {
            node: self.config.node_name.clone(),
            deadlines: handshake::Deadlines::default(),
        };
        handshake::Server::spawn(listener, config, self.svids.share(), self.inbound.clone())
    }

    /// What the pinned maps say from before a restart.
    pub(super) fn restore_proofs(&mut self) {
        let now = clock::boot_ns();
        self.restore_told();
        for (key, value) in self.datapath.auth_entries() {
            let pair = Pair::new(key.local, key.remote, key.node);
            let known = key.node == THIS_NODE || self.node_ids.name(key.node).is_some();
            if !known || value.epoch != self.settings.auth_epoch {
                drop(self.datapath.auth_remove(&key));
                continue;
            }
            let AuthValue { expires_at, epoch, generation } = value;
            self.told.note(key.local, key.remote, key.node, expires_at);
            self.told.restored(key.local);
            self.machine.handle(Event::Restored { pair, expires_at, epoch, generation }, now);
        }
        for (ip, bound) in self.datapath.bound() {
            let Bound { identity, node, generation, .. } = bound;
            self.machine.handle(Event::RestoredBinding { ip, identity, node, generation }, now);
        }
        if let Err(error) = self.datapath.forget_all_parked() {
            tracing::warn!(%error, "what an earlier agent held may hold its pairs up for some seconds");
        }
        for (key, _) in self.datapath.backoffs() {
            drop(self.datapath.backoff_clear(&key));
        }
    }
}

fn nanoseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
