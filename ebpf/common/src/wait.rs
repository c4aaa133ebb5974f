//! A packet that waits for a proof, or for word of whose address its peer has: may it be parked, and has its pair been
//! reported lately?

use crate::at::At;
use crate::auth::AuthKey;
use crate::config;
use crate::decide::{Verdict, auth_key};
use crate::ipcache::{IpEntry, flag};
use crate::limits;
use crate::maps::Maps;
use crate::park::{FROM_ADDRESS, Pending, PendingKey, is_address_line};
use crate::policy::{auth_type, direction};
use crate::reason;

/// What becomes of the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wait {
    /// Packets of the pair since its last report.
    pub unreported: u32,
    /// What it waits under: the peer's identity, or [`crate::park::address_line`] of its address.
    pub line: u32,
    /// [`reason::PARKED`], or why it is dropped.
    pub reason: u8,
    /// The pair is to be reported now.
    pub due: bool,
}

/// Whether the packet may not go on now. If so it has a place in a line, or none and is dropped, as [`Wait::reason`]
/// says. [`Wait::line`] is [`crate::park::address_line`] of the peer's address before, and where it waits afterwards.
/// `round` is how many times the packet has been parked before.
///
/// It waits for word of the peer's address, or for a proof. Or behind packets that do, or did and are on their way
/// back: those of the peer's address may not be overtaken by any packet, those of the pair by none that has its
/// proof. What comes back from a line has queued up there already. What finds no place behind the others passes, and
/// is counted. As long as anything is on its way, in either direction, verdicts are not cached: the next packet of the
/// flow has to look again.
///
/// One function for all of it, not inlined: the verifier follows every call on its own.
#[inline(never)]
pub fn wait<M: Maps>(maps: &M, at: &At<'_>, verdict: &mut Verdict, round: u8, wait: &mut Wait) -> bool {
    let passes = verdict.reason == reason::FORWARDED;
    let mut behind = false;
    if verdict.reason != reason::ADDRESS_UNKNOWN {
        let others = verdict.remote.has(flag::POD) && verdict.remote.node != 0;
        if others && is_on_its_way(maps, &key(at, verdict, wait.line, 0), at.now) {
            verdict.valid_for = 0;
            behind = round == 0;
        }
        if !behind {
            wait.line = verdict.remote.identity;
            behind = passes && verdict.auth_type != auth_type::NONE && waits(maps, at, verdict, round);
        }
        if passes && !behind {
            return false;
        }
    }
    let refused = if behind { reason::PARKED } else { refuse(maps, at, verdict, wait.line, round) };
    take(maps, at, verdict, wait, refused, behind);
    let overtakes = passes && wait.reason != reason::PARKED;
    if overtakes {
        maps.count(at.direction, reason::OVERTOOK, at.length);
    }
    !overtakes
}

/// Whether a packet that has its proof is to queue up behind others of its pair.
#[inline(always)]
fn waits<M: Maps>(maps: &M, at: &At<'_>, verdict: &mut Verdict, round: u8) -> bool {
    let own = key(at, verdict, verdict.remote.identity, at.direction);
    let waits = is_on_its_way(maps, &own, at.now);
    if waits || is_on_its_way(maps, &PendingKey { direction: own.direction ^ 1, ..own }, at.now) {
        verdict.valid_for = 0;
    }
    let has_queued_up = round != 0 && round & FROM_ADDRESS == 0;
    waits && !has_queued_up
}

/// Takes a place in the line, if nothing refuses it and there is one.
#[inline(always)]
fn take<M: Maps>(maps: &M, at: &At<'_>, verdict: &Verdict, wait: &mut Wait, refused: u8, behind: bool) {
    let wanted = refused == reason::PARKED;
    let outcome = maps.with_pending(&key(at, verdict, wait.line, at.direction), |pending| {
        let place =
            (behind || take_place(pending, at, wanted)) && (!wanted || sender_has_room(maps, at, verdict));
        if wanted && place {
            M::add(&mut pending.parked, 1);
        }
        if behind {
            // It is not the pair that needs something: nothing to report, and nothing that prolongs the others' wait.
            wait.due = false;
            return place;
        }
        if wanted && place {
            pending.waited = at.now;
        }
        wait.due = pending.reported == 0 || at.now.saturating_sub(pending.reported) >= limits::AUTH_EVENT_NS;
        wait.unreported = pending.unreported;
        if wait.due {
            pending.reported = at.now;
            pending.unreported = 0;
        } else {
            pending.unreported = wait.unreported.saturating_add(1);
        }
        place
    });
    // Without a record there is no bound, so there is no place, and nothing to report it by.
    wait.due &= outcome.is_some();
    wait.reason = match wanted && outcome == Some(true) {
        true => reason::PARKED,
        // It is no proof that is missing.
        false if is_address_line(wait.line) => reason::ADDRESS_UNKNOWN,
        false if wanted => reason::PARK_FULL,
        false => refused,
    };
}

/// Whether packets that were parked have not been dealt with yet.
#[inline(always)]
fn is_on_its_way<M: Maps>(maps: &M, key: &PendingKey, now: u64) -> bool {
    let Some((parked, waited)) = maps.pending(key) else { return false };
    // A record that was forgotten and made again counts from nothing: then there is no order to keep.
    now.saturating_sub(waited) < limits::BEHIND_NS && parked > maps.returned(key)
}

#[inline(always)]
const fn key(at: &At<'_>, verdict: &Verdict, line: u32, direction: u8) -> PendingKey {
    PendingKey::new(at.endpoint.identity, line, verdict.remote.node, at.endpoint.slot, direction)
}

/// The pair's share of a window.
#[inline(always)]
fn take_place(pending: &mut Pending, at: &At<'_>, wanted: bool) -> bool {
    if at.now.saturating_sub(pending.window) >= limits::PARK_WINDOW_NS {
        pending.window = at.now;
        pending.packets = 0;
        pending.bytes = 0;
    }
    let packets = pending.packets.saturating_add(1);
    let bytes = pending.bytes.saturating_add(at.length);
    let room = packets <= or(at.config.park_pair_packets, limits::PARK_PAIR_PACKETS)
        && bytes <= or(at.config.park_pair_bytes, limits::PARK_PAIR_BYTES);
    if wanted && room {
        pending.packets = packets;
        pending.bytes = bytes;
    }
    room
}

#[inline(always)]
const fn or(set: u32, default: u32) -> u32 {
    if set == 0 { default } else { set }
}

#[inline(always)]
fn refuse<M: Maps>(maps: &M, at: &At<'_>, verdict: &Verdict, line: u32, round: u8) -> u8 {
    if !at.config.has(config::flag::PARKING) || at.config.park_ifindex == 0 {
        return reason::AUTH_REQUIRED;
    }
    if round & !FROM_ADDRESS >= limits::PARK_ROUNDS {
        return reason::PARK_AGAIN;
    }
    match maps.backoff(&AuthKey { remote: line, ..auth_key(at.endpoint, verdict.remote) }) {
        Some(until) if until > maps.boot_now() => reason::AUTH_BACKOFF,
        _ => reason::PARKED,
    }
}

/// The sender's own share: whoever floods, under however many identities, uses up his own places only. What
/// leaves an endpoint is on its account; what comes in on that of the other node as a whole, or on that of the
/// sender's identity where it is of this node.
#[inline(always)]
fn sender_has_room<M: Maps>(maps: &M, at: &At<'_>, verdict: &Verdict) -> bool {
    const LOW: u32 = limits::SLOTS - 1;
    let IpEntry { identity, node, .. } = verdict.remote;
    let (cell, share) = if at.direction == direction::EGRESS {
        (u32::from(at.endpoint.slot), 1)
    } else if node == 0 {
        ((2 * limits::SLOTS).wrapping_add((identity ^ identity >> 12) & LOW), 1)
    } else {
        (limits::SLOTS.wrapping_add(u32::from(node) & LOW), limits::PARK_NODE_SHARE)
    };
    let packets = or(at.config.park_slot_packets, limits::PARK_SLOT_PACKETS).saturating_mul(share);
    let bytes = or(at.config.park_slot_bytes, limits::PARK_SLOT_BYTES).saturating_mul(share);
    let room = maps.with_budget(cell, |budget| {
        budget.packets.take(at.now, 1, packets) && budget.bytes.take(at.now, at.length, bytes)
    });
    room.unwrap_or(false)
}
