//! The flow a packet belongs to: the cached verdict where it still holds, a new one otherwise.

use crate::config::Config;
use crate::ct::{CtEntry, CtKey, role, state};
use crate::decide::{Question, Verdict, decide};
use crate::endpoint::{Endpoint, Epochs};
use crate::limits;
use crate::maps::Maps;
use crate::packet::{Kind, Packet, echo_direction, policy_port};
use crate::policy::auth_type;
use crate::proto;
use crate::proto::tcp;
use crate::reason;

/// What became of a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// A flow that is known, and its verdict holds.
    Known,
    /// A verdict given just now.
    Fresh {
        /// The verdict.
        verdict: Verdict,
        /// The flow is new to the table (as against one whose verdict had to be renewed).
        new: bool,
        /// The flow was alive and rested on a proof.
        had_proof: bool,
    },
    /// Nothing to decide: it answers nothing.
    Unsolicited,
}

/// What the table knew.
enum Hit {
    Holds,
    Stale { opened: u8, auth_type: u8 },
    Gone,
}

/// A packet at its endpoint.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The facts.
    pub packet: &'a Packet,
    /// Direction of the packet.
    pub direction: u8,
    /// Bytes of the frame.
    pub length: u32,
    /// The coarse clock.
    pub now: u64,
}

/// Rules on a packet. A verdict that is renewed is renewed in the direction in which the flow was opened, so
/// that answers live and die with their flow; a SYN is always a flow of its own.
#[inline(always)]
pub fn rule<M: Maps>(maps: &M, config: &Config, endpoint: &Endpoint, seen: &Seen<'_>) -> Ruling {
    let Some(epochs) = maps.epochs(endpoint.slot) else { return Ruling::Unsolicited };
    let key = seen.packet.flow(endpoint.slot, seen.direction);
    let family = seen.packet.family;
    let syn = seen.packet.is_syn();
    let hit = maps.with_flow(family, &key, |entry| look::<M>(entry, &epochs, seen, syn));
    let (opened, known, had_proof) = match hit {
        Some(Hit::Holds) => return Ruling::Known,
        Some(Hit::Stale { opened, auth_type }) => {
            let opened = if syn { seen.direction } else { opened };
            (opened, true, auth_type != auth_type::NONE && !syn)
        }
        Some(Hit::Gone) | None => {
            if seen.packet.kind == Kind::EchoReply {
                return Ruling::Unsolicited;
            }
            (seen.direction, false, false)
        }
    };
    let verdict = decide(maps, config, endpoint, &question(&key, family, opened));
    if verdict.reason != reason::FORWARDED {
        return Ruling::Fresh { verdict, new: false, had_proof };
    }
    let keep = known && !syn;
    if enter(maps, &key, &epochs, seen, &verdict, opened, keep) {
        Ruling::Fresh { verdict, new: !keep, had_proof }
    } else {
        let verdict = Verdict { reason: reason::CT_INSERT_FAILED, ..verdict };
        Ruling::Fresh { verdict, new: false, had_proof }
    }
}

#[inline(always)]
fn question(key: &CtKey, family: u8, opened: u8) -> Question {
    let opened = if key.role == role::NONE { opened } else { echo_direction(key.role) };
    Question {
        remote: key.remote,
        port: policy_port(key, family, opened),
        family,
        protocol: key.protocol,
        direction: opened,
    }
}

#[inline(always)]
fn look<M: Maps>(entry: &mut CtEntry, epochs: &Epochs, seen: &Seen<'_>, syn: bool) -> Hit {
    if is_gone(entry, epochs, seen.now) {
        return Hit::Gone;
    }
    if syn || !holds(entry, epochs, seen.now) {
        return Hit::Stale { opened: entry.opened, auth_type: entry.auth_type };
    }
    touch::<M>(entry, seen);
    Hit::Holds
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
fn touch<M: Maps>(entry: &mut CtEntry, seen: &Seen<'_>) {
    M::add(&mut entry.packets, 1);
    M::add(&mut entry.bytes, u64::from(seen.length));
    let flags = seen.packet.tcp_flags;
    let mut now_state = entry.state;
    if seen.direction != entry.opened {
        now_state |= state::ANSWERED;
    }
    if flags & (tcp::FIN | tcp::RST) != 0 {
        now_state |= state::CLOSING;
    }
    entry.state = now_state;
    entry.tcp_flags |= flags;
    entry.expires = seen.now.wrapping_add(life(seen.packet.protocol, now_state));
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

/// Writes the verdict down: into the entry where the flow goes on, else as a flow that begins.
#[inline(always)]
fn enter<M: Maps>(
    maps: &M,
    key: &CtKey,
    epochs: &Epochs,
    seen: &Seen<'_>,
    verdict: &Verdict,
    opened: u8,
    keep: bool,
) -> bool {
    let family = seen.packet.family;
    let done = maps.with_flow(family, key, |entry| {
        if !keep {
            *entry = begin(opened, seen);
        }
        stamp(entry, epochs, seen.now, verdict);
        touch::<M>(entry, seen);
    });
    if done.is_some() {
        return true;
    }
    let mut entry = begin(opened, seen);
    stamp(&mut entry, epochs, seen.now, verdict);
    entry.packets = 1;
    entry.bytes = u64::from(seen.length);
    maps.put_flow(family, key, &entry)
}

#[inline(always)]
fn begin(opened: u8, seen: &Seen<'_>) -> CtEntry {
    CtEntry {
        opened,
        tcp_flags: seen.packet.tcp_flags,
        expires: seen.now.wrapping_add(life(seen.packet.protocol, 0)),
        ..CtEntry::default()
    }
}

#[inline(always)]
fn stamp(entry: &mut CtEntry, epochs: &Epochs, now: u64, verdict: &Verdict) {
    entry.valid_until = now.wrapping_add(verdict.valid_for);
    entry.policy_epoch = epochs.policy;
    entry.auth_epoch = epochs.auth;
    entry.remote_identity = verdict.remote.identity;
    entry.rule_id = verdict.rule_id;
    entry.auth_type = verdict.auth_type;
}

/// Whether a packet that is quoted in an ICMP error belongs to a live flow whose verdict holds or can be
/// renewed. Touches nothing: errors keep no flow alive.
#[inline(always)]
pub fn is_live<M: Maps>(
    maps: &M,
    config: &Config,
    endpoint: &Endpoint,
    quoted: &Packet,
    direction: u8,
    now: u64,
) -> bool {
    let Some(epochs) = maps.epochs(endpoint.slot) else { return false };
    let key = quoted.flow(endpoint.slot, direction);
    let family = quoted.family;
    let hit = maps.with_flow(family, &key, |entry| {
        if is_gone(entry, &epochs, now) {
            Hit::Gone
        } else if holds(entry, &epochs, now) {
            Hit::Holds
        } else {
            Hit::Stale { opened: entry.opened, auth_type: entry.auth_type }
        }
    });
    match hit {
        Some(Hit::Holds) => true,
        Some(Hit::Stale { opened, .. }) => {
            decide(maps, config, endpoint, &question(&key, family, opened)).reason == reason::FORWARDED
        }
        Some(Hit::Gone) | None => false,
    }
}
