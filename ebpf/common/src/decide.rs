//! The verdict on a flow: identity of the peer, policy, proof. The only place where they meet.

use crate::addr::Addr;
use crate::at::At;
use crate::auth::AuthKey;
use crate::config::{Config, WIREGUARD_PORTS};
use crate::endpoint::Endpoint;
use crate::identity;
use crate::ipcache::IpEntry;
use crate::ladder::{self, Decision};
use crate::limits;
use crate::maps::Maps;
use crate::policy::{PolicyKey, auth_type, direction};
use crate::proto;
use crate::reason;

/// A flow, as policy is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Question {
    /// The peer.
    pub remote: Addr,
    /// The opener's destination port (or ICMP type), big endian.
    pub port: u16,
    /// 4 or 6.
    pub family: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Direction in which the flow was opened.
    pub direction: u8,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Until when it may be used, in nanoseconds from now. 0 unless it allows.
    pub valid_for: u64,
    /// Who the peer is.
    pub remote: IpEntry,
    /// The rule that decided; 0 is none.
    pub rule_id: u32,
    /// [`reason::FORWARDED`] allows, [`reason::AUTH_REQUIRED`] waits for a proof, all else drops.
    pub reason: u8,
    /// Authentication the policy asks for.
    pub auth_type: u8,
    /// What policy said, proof aside.
    pub decision: Decision,
}

/// Who is behind an address: the exact entry, else the longest prefix, else the world. On a pod's link there is
/// the host and nobody else, so that a link-local address is the host's.
#[inline(always)]
pub fn whois<M: Maps>(maps: &M, family: u8, address: &Addr) -> IpEntry {
    match maps.ip_exact(family, address) {
        Some(entry) => entry,
        None if address.is_link_local(family) => IpEntry::HOST,
        None => maps.ip_prefix(family, address).unwrap_or(IpEntry::WORLD),
    }
}

/// Gives the verdict on a flow of the endpoint.
///
/// Not inlined, and the verdict is left in memory: two places ask, and the verifier need not follow what each
/// does with each kind of answer.
#[inline(never)]
pub fn decide<M: Maps>(maps: &M, at: &At<'_>, question: &Question, verdict: &mut Verdict) {
    verdict.remote = whois(maps, question.family, &question.remote);
    policy(maps, at.endpoint.slot, question, verdict);
    *verdict = judge(maps, at, question, verdict.remote, &verdict.decision);
}

/// What a flow that is allowed would be dropped for if policies in audit mode were enforced, or
/// [`reason::FORWARDED`]. [`Verdict::decision`] is theirs from here on.
///
/// A proof that only they ask for is not waited for: that it is missing is what the event says.
#[inline(never)]
pub fn audit<M: Maps>(maps: &M, at: &At<'_>, question: &Question, verdict: &mut Verdict) -> u8 {
    policy(maps, at.endpoint.audit_slot, question, verdict);
    let would = &verdict.decision;
    match would.auth_type {
        _ if !would.allow => refused(would),
        auth_type::NONE => reason::FORWARDED,
        // What holds rests on the same proof.
        auth_type::SPIRE if verdict.auth_type == auth_type::SPIRE => reason::FORWARDED,
        auth_type::SPIRE => prove(maps, at, question, verdict.remote).1,
        _ => reason::AUTH_IMPOSSIBLE,
    }
}

#[inline(always)]
const fn refused(decision: &Decision) -> u8 {
    if decision.deny_rule { reason::POLICY_DENY } else { reason::POLICY_DENIED }
}

#[inline(always)]
fn judge<M: Maps>(
    maps: &M,
    at: &At<'_>,
    question: &Question,
    remote: IpEntry,
    decision: &Decision,
) -> Verdict {
    let refuse = |reason| Verdict { remote, reason, decision: *decision, ..Verdict::default() };
    if is_agent_port(at.config, question, remote.identity) {
        return refuse(reason::AGENT_PORT);
    }
    // Whatever policy says of everybody: it may say something else of whoever this is.
    if remote.is_unknown_pod() {
        return refuse(reason::ADDRESS_UNKNOWN);
    }
    if !decision.allow {
        return Verdict { rule_id: decision.rule_id, ..refuse(refused(decision)) };
    }
    let (valid_for, reason) = match decision.auth_type {
        auth_type::NONE => (limits::REVALIDATE_NS, reason::FORWARDED),
        auth_type::SPIRE => prove(maps, at, question, remote),
        // test-always-fail, and what a newer agent may think of: nobody proves that.
        _ => (0, reason::AUTH_IMPOSSIBLE),
    };
    let (rule_id, auth_type) = (decision.rule_id, decision.auth_type);
    Verdict { valid_for, remote, rule_id, reason, auth_type, decision: *decision }
}

/// The agents' own ports are closed to pods, whatever policy says.
#[inline(always)]
fn is_agent_port(config: &Config, question: &Question, remote: u32) -> bool {
    let port = u16::from_be(question.port);
    question.direction == direction::EGRESS
        && identity::is_node(remote)
        && match question.protocol {
            proto::TCP => port == config.handshake_port,
            proto::UDP => port.wrapping_sub(config.wireguard_port) < WIREGUARD_PORTS,
            _ => false,
        }
}

/// An entry of the exact table is final; otherwise the entry for the peer competes with that for all peers.
#[inline(never)]
fn policy<M: Maps>(maps: &M, slot: u16, question: &Question, verdict: &mut Verdict) {
    let own = PolicyKey {
        identity: verdict.remote.identity,
        slot_be: slot.to_be(),
        direction: question.direction,
        protocol: question.protocol,
        port_be: question.port,
        pad: 0,
    };
    if let Some(exact) = maps.policy_exact(&own) {
        verdict.decision = ladder::choose(Some(&exact), None);
        return;
    }
    let any = PolicyKey { identity: identity::UNKNOWN, ..own };
    let (own, any) = (maps.policy_prefix(&own), maps.policy_prefix(&any));
    verdict.decision = ladder::choose(own.as_ref(), any.as_ref());
}

/// A proof counts if it is of this epoch, has not ended by the exact clock, and an authenticated session says
/// that the address belongs to the identity that the address table believes it to have.
#[inline(always)]
fn prove<M: Maps>(maps: &M, at: &At<'_>, question: &Question, remote: IpEntry) -> (u64, u8) {
    if !identity::can_authenticate(at.endpoint.identity) || !identity::can_authenticate(remote.identity) {
        return (0, reason::AUTH_IMPOSSIBLE);
    }
    let Some(proof) = maps.auth(&auth_key(at.endpoint, remote)) else { return (0, reason::AUTH_REQUIRED) };
    let Some(bound) = maps.bound(question.family, &question.remote) else {
        return (0, reason::AUTH_REQUIRED);
    };
    let left = proof.expires_at.saturating_sub(maps.boot_now());
    let same_peer = bound.identity == remote.identity && bound.node == remote.node;
    if proof.epoch != at.config.auth_epoch || left == 0 || !same_peer {
        return (0, reason::AUTH_REQUIRED);
    }
    let cached = left.saturating_sub(limits::CLOCK_SLACK_NS);
    let valid_for = if cached < limits::REVALIDATE_NS { cached } else { limits::REVALIDATE_NS };
    (valid_for, reason::FORWARDED)
}

/// The pair's key in the tables of proofs and of back-offs.
#[inline(always)]
#[must_use]
pub const fn auth_key(endpoint: &Endpoint, remote: IpEntry) -> AuthKey {
    AuthKey {
        local: endpoint.identity,
        remote: remote.identity,
        node: remote.node,
        auth_type: auth_type::SPIRE,
        pad: 0,
    }
}
