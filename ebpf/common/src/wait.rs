//! A packet that waits for a proof: may it be parked, and has its pair been reported lately?

use crate::at::At;
use crate::config;
use crate::decide::{Verdict, auth_key};
use crate::limits;
use crate::maps::Maps;
use crate::park::{Pending, PendingKey};
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
    let key = PendingKey {
        local: at.endpoint.identity,
        remote: verdict.remote.identity,
        node: verdict.remote.node,
        slot: at.endpoint.slot,
        direction: at.direction,
        pad: [0; 3],
    };
    let refused = refuse(maps, at, verdict, round);
    let wanted = refused == reason::PARKED;
    let outcome = maps.with_pending(&key, |pending| {
        let room = take_place(pending, at, wanted);
        wait.due = pending.reported == 0 || at.now.saturating_sub(pending.reported) >= limits::AUTH_EVENT_NS;
        wait.unreported = pending.unreported;
        if wait.due {
            pending.reported = at.now;
            pending.unreported = 0;
        } else {
            pending.unreported = wait.unreported.saturating_add(1);
        }
        room
    });
    // Without a record there is no bound, so there is no place, and nothing to report it by.
    wait.due &= outcome.is_some();
    let place = outcome == Some(true) && (!wanted || slot_has_room(maps, at));
    wait.reason = if wanted && !place { reason::PARK_FULL } else { refused };
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

/// The endpoint's own share: a pod that floods many pairs uses up its own places only.
#[inline(always)]
fn slot_has_room<M: Maps>(maps: &M, at: &At<'_>) -> bool {
    let packets = or(at.config.park_slot_packets, limits::PARK_SLOT_PACKETS);
    let bytes = or(at.config.park_slot_bytes, limits::PARK_SLOT_BYTES);
    let room = maps.with_budget(at.endpoint.slot, |budget| {
        budget.packets.take(at.now, 1, packets) && budget.bytes.take(at.now, at.length, bytes)
    });
    room.unwrap_or(false)
}
