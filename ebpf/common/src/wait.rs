//! A packet that waits for a proof: may it be parked, and has its pair been reported lately?

use crate::at::At;
use crate::config;
use crate::decide::{Verdict, auth_key};
use crate::ipcache::IpEntry;
use crate::limits;
use crate::maps::Maps;
use crate::park::{Pending, PendingKey};
use crate::policy::direction;
use crate::reason;

/// What becomes of the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wait {
    /// Packets of the pair since its last report.
    pub unreported: u32,
    /// [`reason::PARKED`], or why it is dropped.
    pub reason: u8,
    /// The pair is to be reported now.
    pub due: bool,
}

/// Asks for a place. `round` is how many times the packet has been parked before. Not inlined, see
/// [`crate::parse::ip`].
#[inline(never)]
pub fn wait<M: Maps>(maps: &M, at: &At<'_>, verdict: &Verdict, round: u8, wait: &mut Wait) {
    let refused = refuse(maps, at, verdict, round);
    let wanted = refused == reason::PARKED;
    let outcome = maps.with_pending(&key(at, verdict, at.direction), |pending| {
        let place = take_place(pending, at, wanted) && (!wanted || sender_has_room(maps, at, verdict));
        if wanted && place {
            M::add(&mut pending.parked, 1);
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
    let place = outcome == Some(true);
    wait.reason = if wanted && !place { reason::PARK_FULL } else { refused };
}

/// A packet that may pass, by a proof: does it have to queue up behind packets of its pair that were parked
/// before? If so it has a place there. What comes back from parking has queued up already; what finds no
/// place passes, and is counted.
///
/// As long as anything of the pair is on its way, in either direction, verdicts are not cached: the next
/// packet of the flow has to look again.
#[inline(never)]
pub fn behind<M: Maps>(maps: &M, at: &At<'_>, verdict: &mut Verdict, round: u8, wait: &mut Wait) -> bool {
    let own = key(at, verdict, at.direction);
    let waits = is_on_its_way(maps, &own, at.now);
    if waits || is_on_its_way(maps, &PendingKey { direction: own.direction ^ 1, ..own }, at.now) {
        verdict.valid_for = 0;
    }
    if !waits || round != 0 {
        return false;
    }
    let parked = sender_has_room(maps, at, verdict)
        && maps.with_pending(&own, |pending| M::add(&mut pending.parked, 1)).is_some();
    if !parked {
        maps.count(at.direction, reason::OVERTOOK, at.length);
    }
    // It is not the pair that needs something: nothing to report.
    *wait = Wait { reason: reason::PARKED, ..Wait::default() };
    parked
}

/// Whether packets that were parked have not been dealt with yet.
#[inline(always)]
fn is_on_its_way<M: Maps>(maps: &M, key: &PendingKey, now: u64) -> bool {
    let Some((parked, waited)) = maps.pending(key) else { return false };
    // A record that was forgotten and made again counts from nothing: then there is no order to keep.
    now.saturating_sub(waited) < limits::BEHIND_NS && parked > maps.returned(key)
}

#[inline(always)]
const fn key(at: &At<'_>, verdict: &Verdict, direction: u8) -> PendingKey {
    PendingKey {
        local: at.endpoint.identity,
        remote: verdict.remote.identity,
        node: verdict.remote.node,
        slot: at.endpoint.slot,
        direction,
        pad: [0; 3],
    }
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
fn refuse<M: Maps>(maps: &M, at: &At<'_>, verdict: &Verdict, round: u8) -> u8 {
    if !at.config.has(config::flag::PARKING) || at.config.park_ifindex == 0 {
        return reason::AUTH_REQUIRED;
    }
    if round >= limits::PARK_ROUNDS {
        return reason::PARK_AGAIN;
    }
    match maps.backoff(&auth_key(at.endpoint, verdict.remote)) {
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
