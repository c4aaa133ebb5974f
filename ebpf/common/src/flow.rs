//! The flow a packet belongs to: the cached verdict where it still holds, a new one otherwise.

use crate::at::At;
use crate::ct::{CtEntry, CtKey, state};
use crate::decide::{Question, Verdict};
use crate::endpoint::Epochs;
use crate::limits;
use crate::maps::Maps;
use crate::packet::{Kind, Packet, policy_port};
use crate::policy::auth_type;
use crate::proto;
use crate::proto::tcp;

/// What the table knows of a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Recall {
    /// The flow.
    pub key: CtKey,
    /// The endpoint's epochs.
    pub epochs: Epochs,
    /// What policy has to be asked.
    pub question: Question,
    /// The flow goes on with this packet (as against one that begins).
    pub goes_on: bool,
    /// The policy that holds now has been asked about it before.
    pub is_judged: bool,
    /// It was alive and rested on a proof.
    pub had_proof: bool,
    /// The table has an entry for it, alive or not.
    pub is_known: bool,
}

/// What has to be done about a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is known, and its verdict holds.
    Holds,
    /// A verdict is needed, see [`Recall::question`].
    Ask,
    /// It answers nothing.
    Unsolicited,
}

/// What an entry says.
enum Hit {
    Holds,
    Stale { opened: u8, auth_type: u8, is_judged: bool },
    Gone,
}

/// Looks the packet's flow up. A verdict that is renewed is renewed in the direction in which the flow was
/// opened, so that answers live and die with their flow; a SYN is always a flow of its own.
///
/// Not inlined, see [`crate::parse::ip`].
#[inline(never)]
pub fn recall<M: Maps>(maps: &M, at: &At<'_>, packet: &Packet, recall: &mut Recall) -> Known {
    let Some(epochs) = maps.epochs(at.endpoint.slot) else { return Known::Unsolicited };
    recall.epochs = epochs;
    recall.key = packet.flow(at.endpoint.slot, at.direction);
    let family = packet.family;
    let hit = maps.with_flow(family, &recall.key, |entry| look::<M>(entry, &epochs, at, packet));
    recall.goes_on = false;
    recall.is_judged = false;
    recall.had_proof = false;
    recall.is_known = hit.is_some();
    let mut direction = at.direction;
    match hit {
        Some(Hit::Holds) => return Known::Holds,
        Some(Hit::Stale { opened, auth_type, is_judged }) if !packet.is_syn() => {
            recall.goes_on = true;
            recall.is_judged = is_judged;
            recall.had_proof = auth_type != auth_type::NONE;
            direction = opened;
        }
        _ if packet.kind == Kind::EchoReply => return Known::Unsolicited,
        _ => {}
    }
    recall.question = question(&recall.key, family, direction);
    Known::Ask
}

#[inline(always)]
fn question(key: &CtKey, family: u8, opened: u8) -> Question {
    Question {
        remote: key.remote,
        port: policy_port(key, family, opened),
        family,
        protocol: key.protocol,
        direction: opened,
    }
}

#[inline(always)]
fn look<M: Maps>(entry: &mut CtEntry, epochs: &Epochs, at: &At<'_>, packet: &Packet) -> Hit {
    let hit = peek(entry, epochs, at.now);
    if !matches!(hit, Hit::Holds) {
        return hit;
    }
    if packet.is_syn() {
        return Hit::Gone;
    }
    touch::<M>(entry, at, packet);
    Hit::Holds
}

#[inline(always)]
fn peek(entry: &CtEntry, epochs: &Epochs, now: u64) -> Hit {
    if is_gone(entry, epochs, now) {
        Hit::Gone
    } else if holds(entry, epochs, now) {
        Hit::Holds
    } else {
        let is_judged = entry.policy_epoch == epochs.policy;
        Hit::Stale { opened: entry.opened, auth_type: entry.auth_type, is_judged }
    }
}

/// Its life is over, or it was a flow of an endpoint that had the slot before.
#[inline(always)]
fn is_gone(entry: &CtEntry, epochs: &Epochs, now: u64) -> bool {
    let older = entry.policy_epoch.wrapping_sub(epochs.birth) as i32;
    entry.expires <= now || older < 0
}

#[inline(always)]
fn holds(entry: &CtEntry, epochs: &Epochs, now: u64) -> bool {
    entry.policy_epoch == epochs.policy && entry.auth_epoch == epochs.auth && now < entry.valid_until
}

#[inline(always)]
fn touch<M: Maps>(entry: &mut CtEntry, at: &At<'_>, packet: &Packet) {
    M::add(&mut entry.packets, 1);
    M::add(&mut entry.bytes, u64::from(at.length));
    let flags = packet.tcp_flags;
    let mut now_state = entry.state;
    if at.direction != entry.opened {
        now_state |= state::ANSWERED;
    }
    if flags & (tcp::FIN | tcp::RST) != 0 {
        now_state |= state::CLOSING;
    }
    entry.state = now_state;
    entry.tcp_flags |= flags;
    entry.expires = at.now.wrapping_add(life(packet.protocol, now_state));
}

#[inline(always)]
fn life(protocol: u8, flow: u8) -> u64 {
    if protocol != proto::TCP {
        limits::LIFE_OTHER_NS
    } else if flow & state::CLOSING != 0 {
        limits::LIFE_CLOSING_NS
    } else if flow & state::ANSWERED != 0 {
        limits::LIFE_TCP_NS
    } else {
        limits::LIFE_SYN_NS
    }
}

/// Enters an allowed flow, or writes the new verdict into the entry of one that goes on; `false` where the
/// table takes no more.
#[inline(never)]
pub fn enter<M: Maps>(maps: &M, at: &At<'_>, packet: &Packet, recall: &Recall, verdict: &Verdict) -> bool {
    if recall.is_known && write(maps, at, packet, recall, verdict) {
        return true;
    }
    let mut entry = CtEntry::default();
    begin(&mut entry, at, packet, recall, verdict);
    maps.put_flow(packet.family, &recall.key, &entry)
}

#[inline(always)]
fn write<M: Maps>(maps: &M, at: &At<'_>, packet: &Packet, recall: &Recall, verdict: &Verdict) -> bool {
    let done = maps.with_flow(packet.family, &recall.key, |entry| {
        if recall.goes_on {
            stamp(entry, at, recall, verdict);
            touch::<M>(entry, at, packet);
        } else {
            begin(entry, at, packet, recall, verdict);
        }
    });
    done.is_some()
}

#[inline(always)]
fn begin(entry: &mut CtEntry, at: &At<'_>, packet: &Packet, recall: &Recall, verdict: &Verdict) {
    stamp(entry, at, recall, verdict);
    entry.expires = at.now.wrapping_add(life(packet.protocol, 0));
    entry.packets = 1;
    entry.bytes = u64::from(at.length);
    entry.opened = recall.question.direction;
    entry.tcp_flags = packet.tcp_flags;
    entry.state = 0;
}

#[inline(always)]
fn stamp(entry: &mut CtEntry, at: &At<'_>, recall: &Recall, verdict: &Verdict) {
    entry.valid_until = at.now.wrapping_add(verdict.valid_for);
    entry.policy_epoch = recall.epochs.policy;
    entry.auth_epoch = recall.epochs.auth;
    entry.remote_identity = verdict.remote.identity;
    entry.rule_id = verdict.rule_id;
    entry.auth_type = verdict.auth_type;
}

/// Looks up the flow that a packet quoted in an ICMP error belongs to; `direction` is that in which it went.
/// Touches nothing: errors keep no flow alive.
#[inline(always)]
pub fn recall_quoted<M: Maps>(
    maps: &M,
    at: &At<'_>,
    quoted: &Packet,
    direction: u8,
    recall: &mut Recall,
) -> Known {
    let Some(epochs) = maps.epochs(at.endpoint.slot) else { return Known::Unsolicited };
    recall.key = quoted.flow(at.endpoint.slot, direction);
    let hit = maps.with_flow(quoted.family, &recall.key, |entry| peek(entry, &epochs, at.now));
    match hit {
        Some(Hit::Holds) => Known::Holds,
        Some(Hit::Stale { opened, .. }) => {
            recall.question = question(&recall.key, quoted.family, opened);
            Known::Ask
        }
        Some(Hit::Gone) | None => Known::Unsolicited,
    }
}
