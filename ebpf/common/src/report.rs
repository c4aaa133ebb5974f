//! Which drops and new flows become events: each kind of thing about a flow once a second, and no endpoint
//! more than its share. What is held back is counted.

use crate::addr::Addr;
use crate::event::Event;
use crate::limits;
use crate::maps::Maps;
use crate::packet::Packet;
use crate::reason;

/// A cell of `cs_dedup`, shared by all flows whose hashes end alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Dedup {
    /// When the flow in the cell was reported last (coarse clock).
    pub last: u64,
    /// Hash of the flow in the cell.
    pub tag: u32,
    /// Its packets that were not reported since.
    pub suppressed: u32,
}

/// Who and what an event is about, beside the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct About {
    /// One of [`crate::event::kind`].
    pub kind: u8,
    /// Our reason.
    pub reason: u8,
    /// What it would have been dropped for, if it was not; 0 is nothing.
    pub would: u8,
    /// Direction, or [`crate::metrics::WIRE`].
    pub direction: u8,
    /// Authentication asked for.
    pub auth_type: u8,
    /// The endpoint's slot; 0 is none.
    pub slot: u16,
    /// The peer's node.
    pub node: u16,
    /// The rule that decided.
    pub rule_id: u32,
    /// Identity of the endpoint.
    pub local: u32,
    /// Identity of the peer.
    pub remote: u32,
    /// Bytes of the frame.
    pub length: u32,
}

/// Reports, unless the same was reported less than a second ago or the endpoint's share is used up.
#[inline(never)]
pub fn report<M: Maps>(maps: &M, about: &About, packet: &Packet, now: u64) {
    let hash = hash(about, packet);
    let cell = hash & (limits::DEDUP_CELLS - 1);
    let due = maps.with_dedup(cell, |cell| claim(cell, hash, now));
    let Some(Some((suppressed, suppressed_other))) = due else {
        maps.count_suppressed(about.direction, about.reason);
        return;
    };
    let share =
        maps.with_budget(u32::from(about.slot), |budget| budget.events.take(now, 1, limits::EVENTS_PER_SLOT));
    if share != Some(true) {
        maps.count_suppressed(about.direction, about.reason);
        return;
    }
    send(maps, about, packet, suppressed, suppressed_other);
}

/// Sends the event as it is.
#[inline(never)]
pub fn send<M: Maps>(maps: &M, about: &About, packet: &Packet, suppressed: u32, suppressed_other: u32) {
    let exact = if about.would == reason::FORWARDED { about.reason } else { about.would };
    maps.emit(about.direction, about.reason, || Event {
        time: maps.boot_now(),
        source: packet.source.bytes(),
        destination: packet.destination.bytes(),
        local_identity: about.local,
        remote_identity: about.remote,
        rule_id: about.rule_id,
        length: about.length,
        suppressed,
        suppressed_other,
        source_port: u16::from_be(packet.source_port),
        destination_port: u16::from_be(packet.destination_port),
        slot: about.slot,
        node: about.node,
        kind: about.kind,
        reason: reason::field_number(exact),
        detail: exact,
        direction: about.direction,
        family: packet.family,
        protocol: packet.protocol,
        auth_type: about.auth_type,
        tcp_flags: packet.tcp_flags,
    });
}

/// Takes the cell for this report: how many of this flow, and how many of others, went unreported in it.
#[inline(always)]
fn claim(cell: &mut Dedup, tag: u32, now: u64) -> Option<(u32, u32)> {
    let same = cell.tag == tag;
    if same && cell.last != 0 && now.saturating_sub(cell.last) < limits::EVENT_REPEAT_NS {
        cell.suppressed = cell.suppressed.saturating_add(1);
        return None;
    }
    let suppressed = cell.suppressed;
    *cell = Dedup { last: now, tag, suppressed: 0 };
    Some(if same { (suppressed, 0) } else { (0, suppressed) })
}

/// Mixes what tells one report from another.
#[inline(always)]
fn hash(about: &About, packet: &Packet) -> u32 {
    let what = u32::from_ne_bytes([about.kind, about.reason, about.direction, packet.protocol]);
    let ports = u32::from(packet.source_port) << 16 | u32::from(packet.destination_port);
    let mut state = mix(0x9e37_79b9, what ^ u32::from(about.slot).rotate_left(16));
    state = mix(state, ports);
    state = mix(state, fold(&packet.source));
    mix(state, fold(&packet.destination))
}

#[inline(always)]
const fn fold(address: &Addr) -> u32 {
    let [a, b, c, d] = address.words;
    a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d.rotate_left(19)
}

#[inline(always)]
const fn mix(state: u32, word: u32) -> u32 {
    let mixed = (state ^ word).wrapping_mul(0x85eb_ca6b);
    mixed ^ (mixed >> 15)
}

/// Reasons that are counted and never reported: pods make such packets all the time.
#[inline(always)]
#[must_use]
pub const fn is_quiet(reason: u8) -> bool {
    matches!(reason, reason::MULTICAST)
}

const _: () = assert!(size_of::<Dedup>() == 16);
