//! A packet that waits for a proof: may it be parked, and has its pair been reported lately?

use crate::config::{self, Config};
use crate::decide::{Verdict, auth_key};
use crate::endpoint::Endpoint;
use crate::flow::Seen;
use crate::limits;
use crate::maps::Maps;
use crate::park::PendingKey;
use crate::reason;

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// [`reason::PARKED`], or why it is dropped.
    pub reason: u8,
    /// Packets of the pair since its last report; `None` where a report is not due yet.
    pub report: Option<u32>,
}

/// Asks for a place. `round` is how many times the packet has been parked before.
#[inline(always)]
pub fn wait<M: Maps>(
    maps: &M,
    config: &Config,
    endpoint: &Endpoint,
    seen: &Seen<'_>,
    verdict: &Verdict,
    round: u8,
) -> Wait {
    let key = PendingKey {
        local: endpoint.identity,
        remote: verdict.remote.identity,
        node: verdict.remote.node,
        slot: endpoint.slot,
        direction: seen.direction,
        pad: [0; 3],
    };
    let refused = refuse(maps, config, endpoint, verdict, round);
    let wanted = refused == reason::PARKED;
    let outcome = maps.with_pending(&key, |pending| {
        if seen.now.saturating_sub(pending.window) >= limits::PARK_WINDOW_NS {
            pending.window = seen.now;
            pending.packets = 0;
            pending.bytes = 0;
        }
        let packets = pending.packets.saturating_add(1);
        let bytes = pending.bytes.saturating_add(seen.length);
        let room = packets <= or(config.park_pair_packets, limits::PARK_PAIR_PACKETS)
            && bytes <= or(config.park_pair_bytes, limits::PARK_PAIR_BYTES);
        if wanted && room {
            pending.packets = packets;
            pending.bytes = bytes;
        }
        let due = pending.reported == 0 || seen.now.saturating_sub(pending.reported) >= limits::AUTH_EVENT_NS;
        let unreported = pending.unreported;
        pending.unreported = if due { 0 } else { unreported.saturating_add(1) };
        if due {
            pending.reported = seen.now;
        }
        (room, due.then_some(unreported))
    });
    // Without a record there is no bound, so there is no place.
    let (room, report) = outcome.unwrap_or((false, None));
    let place = room && (!wanted || slot_has_room(maps, config, endpoint.slot, seen));
    let reason = if wanted && !place { reason::PARK_FULL } else { refused };
    Wait { reason, report }
}

#[inline(always)]
const fn or(set: u32, default: u32) -> u32 {
    if set == 0 { default } else { set }
}

#[inline(always)]
fn refuse<M: Maps>(maps: &M, config: &Config, endpoint: &Endpoint, verdict: &Verdict, round: u8) -> u8 {
    if !config.has(config::flag::PARKING) || config.park_ifindex == 0 {
        return reason::AUTH_REQUIRED;
    }
    if round >= limits::PARK_ROUNDS {
        return reason::PARK_AGAIN;
    }
    match maps.backoff(&auth_key(endpoint, verdict.remote)) {
        Some(until) if until > maps.boot_now() => reason::AUTH_BACKOFF,
        _ => reason::PARKED,
    }
}

/// The endpoint's own share: a pod that floods many pairs uses up its own places only.
#[inline(always)]
fn slot_has_room<M: Maps>(maps: &M, config: &Config, slot: u16, seen: &Seen<'_>) -> bool {
    let packets = or(config.park_slot_packets, limits::PARK_SLOT_PACKETS);
    let bytes = or(config.park_slot_bytes, limits::PARK_SLOT_BYTES);
    let room = maps.with_budget(slot, |budget| {
        budget.packets.take(seen.now, 1, packets) && budget.bytes.take(seen.now, seen.length, bytes)
    });
    room.unwrap_or(false)
}
