//! Parked frames: from the device into the queue, and back. Those that wait for word of an address: [`super::unknown`].

use std::io;
use std::net::IpAddr;

use countersign_auth_proto::{Admission, DiscardReason, Full, Pair, Parked, Source};
use countersign_ebpf_common::addr::{V4, V6};
use countersign_ebpf_common::event::{Event, kind};
use countersign_ebpf_common::park::{Parked as Header, PendingKey, is_address_line};
use countersign_ebpf_common::policy::{auth_type, direction};
use countersign_ebpf_common::proto::{SCTP, TCP, UDP};
use countersign_ebpf_common::reason;

use super::Node;
use crate::clock;
use crate::limits;

impl Node {
    /// Takes in what waits at the device, up to a turn's worth; says how many frames.
    pub(super) fn read_parked(&mut self) -> usize {
        let now = clock::boot_ns();
        let mut buffer = std::mem::take(&mut self.order.buffer);
        buffer.resize(limits::MAX_FRAME, 0);
        let mut frames = 0;
        while frames < limits::FRAMES_PER_TURN {
            match self.tap.get_ref().read(&mut buffer) {
                Ok(length) => self.park(&buffer[..length], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "reading the parking device");
                    break;
                }
            }
            frames += 1;
        }
        self.order.buffer = buffer;
        frames
    }

    fn park(&mut self, frame: &[u8], now: u64) {
        // Anything else on the device is its own chatter.
        let Some((pair, source, event)) = self.waiting_for(frame) else { return };
        let place = place(pair, event.slot, event.direction);
        if is_address_line(pair.remote) {
            return self.park_unknown(frame, pair, source, event, now);
        }
        match self.machine.admit(pair, remote_address(&event), now) {
            Admission::Pass => {
                self.write_back(frame);
                self.order.gave_back(place, 1, now);
            }
            Admission::Park => {
                self.metrics.parked(1);
                self.names.remember_parked(pair, event);
                match self.parking.push(pair, source, frame.to_vec(), frame.len(), now) {
                    Ok(()) => self.order.hold(place),
                    Err(full) => {
                        self.order.dropped(place);
                        self.count_discarded(full_name(full), 1);
                    }
                }
            }
            Admission::Drop(why) => {
                self.order.dropped(place);
                self.count_discarded(why.as_str(), 1);
                self.record_drop(pair, event, 1);
                self.back_off(pair, why);
            }
        }
    }

    /// What the frame waits for, whose place it takes, and what there is to say about it.
    fn waiting_for(&self, frame: &[u8]) -> Option<(Pair, Source, Event)> {
        let header = Header::decode(frame.first_chunk::<12>()?)?;
        let endpoint = self.endpoints.get(header.slot)?;
        let pair = Pair::new(endpoint.identity, header.remote, header.node);
        let source = if header.direction == direction::EGRESS {
            Source::Pod(header.slot)
        } else {
            Source::Remote { identity: header.remote, node: header.node }
        };
        let event = Event {
            local_identity: pair.local,
            node: pair.node,
            slot: header.slot,
            direction: header.direction,
            kind: kind::DROP,
            ..describe(frame)
        };
        let event = if is_address_line(header.remote) {
            let (reason, detail) = (reason::ADDRESS_UNKNOWN, reason::ADDRESS_UNKNOWN);
            Event { reason, detail, ..event }
        } else {
            let (reason, detail) = (reason::AUTH_REQUIRED, reason::AUTH_REQUIRED);
            Event { remote_identity: pair.remote, reason, detail, auth_type: auth_type::SPIRE, ..event }
        };
        Some((pair, source, event))
    }

    /// While a pair backs off, the kernel drops its packets itself: a flood costs the agent nothing.
    pub(super) fn back_off(&mut self, pair: Pair, why: DiscardReason) {
        if !matches!(why, DiscardReason::BackOff(_) | DiscardReason::Failed(_)) {
            return;
        }
        let Some(until) = self.machine.quiet_until(pair, clock::boot_ns()) else { return };
        for pair in [Some(pair), pair.mirror()].into_iter().flatten() {
            if let Err(error) = self.datapath.backoff_set(super::auth::key(pair), until) {
                tracing::debug!(%error, "a back-off is not in the kernel; the agent drops instead");
            }
        }
    }

    pub(super) fn release(&mut self, pair: Pair) {
        self.give_back(pair, clock::boot_ns());
    }

    /// Writes all frames of a line back, in their order.
    pub(super) fn give_back(&mut self, pair: Pair, now: u64) {
        let mut released = 0;
        for parked in self.parking.release(pair) {
            released += 1;
            self.write_back(&parked.frame);
            if let Some(place) = place_of(&parked) {
                self.order.let_go(place);
                self.order.gave_back(place, 1, now);
            }
        }
        self.names.forget_parked(pair);
        self.metrics.released(released);
    }

    pub(super) fn discard(&mut self, pair: Pair, why: DiscardReason) {
        let discarded: Vec<_> = self.parking.discard(pair).collect();
        if !discarded.is_empty() {
            let frames = self.drop_frames(&discarded);
            self.count_discarded(why.as_str(), frames);
            self.record_parked_drop(pair, frames);
        }
        self.back_off(pair, why);
    }

    pub(super) fn expire_parked(&mut self, now: u64) {
        if self.parking.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        for (pair, expired) in self.parking.expire(now) {
            let frames = self.drop_frames(&expired);
            tracing::debug!(?pair, frames, "parked too long");
            if is_address_line(pair.remote) {
                self.count_discarded("address_unknown", frames);
                self.give_up_unknown(pair, now);
            } else {
                self.count_discarded("deadline", frames);
            }
            self.record_parked_drop(pair, frames);
        }
    }

    /// Says how many.
    fn drop_frames(&mut self, frames: &[Parked<Vec<u8>>]) -> u64 {
        for place in frames.iter().filter_map(place_of) {
            self.order.let_go(place);
            self.order.dropped(place);
        }
        frames.len() as u64
    }

    pub(super) fn write_back(&self, frame: &[u8]) {
        if let Err(error) = self.tap.get_ref().write(frame) {
            tracing::warn!(%error, "a parked frame could not be written back");
        }
    }

    pub(super) fn count_discarded(&mut self, reason: &'static str, frames: u64) {
        if frames > 0 {
            *self.discarded.entry(reason).or_default() += frames;
            self.metrics.discarded(reason, frames);
        }
    }
}

/// Where the programs count the packets of a pair.
pub(super) fn place(pair: Pair, slot: u16, direction: u8) -> PendingKey {
    PendingKey::new(pair.local, pair.remote, pair.node, slot, direction)
}

fn place_of(parked: &Parked<Vec<u8>>) -> Option<PendingKey> {
    let header = Header::decode(parked.frame.first_chunk::<12>()?)?;
    Some(place(parked.pair, header.slot, header.direction))
}

pub(super) fn full_name(full: Full) -> &'static str {
    match full {
        Full::Pair => "full_pair",
        Full::Source => "full_source",
        Full::All => "full_all",
    }
}

/// Addresses, protocol and ports of the packet in a frame. The programs have examined it before they parked it;
/// what is cut off is left out.
fn describe(frame: &[u8]) -> Event {
    let packet = frame.get(14..).unwrap_or_default();
    let bytes = |from: usize, length: usize| packet.get(from..from + length).unwrap_or_default();
    let mut event = Event { length: u32::try_from(frame.len()).unwrap_or(u32::MAX), ..Event::default() };
    let transport = match packet.first().map(|first| first >> 4) {
        Some(4) => {
            event.family = V4;
            event.protocol = bytes(9, 1).first().copied().unwrap_or(0);
            fill(&mut event.source, bytes(12, 4));
            fill(&mut event.destination, bytes(16, 4));
            usize::from(packet.first().map_or(0, |first| first & 15)) * 4
        }
        Some(6) => {
            event.family = V6;
            event.protocol = bytes(6, 1).first().copied().unwrap_or(0);
            fill(&mut event.source, bytes(8, 16));
            fill(&mut event.destination, bytes(24, 16));
            40
        }
        _ => return event,
    };
    if let (TCP | UDP | SCTP, [a, b, c, d]) = (event.protocol, bytes(transport, 4)) {
        event.source_port = u16::from_be_bytes([*a, *b]);
        event.destination_port = u16::from_be_bytes([*c, *d]);
    }
    if let (TCP, [flags]) = (event.protocol, bytes(transport + 13, 1)) {
        event.tcp_flags = *flags;
    }
    event
}

fn fill(to: &mut [u8; 16], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// The address at the other end.
pub(super) fn remote_address(event: &Event) -> Option<IpAddr> {
    let bytes = if event.direction == direction::EGRESS { event.destination } else { event.source };
    let [a, b, c, d, ..] = bytes;
    match event.family {
        V4 => Some(IpAddr::from([a, b, c, d])),
        V6 => Some(IpAddr::from(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(frame: &[u8], direction: u8) -> Option<IpAddr> {
        remote_address(&Event { direction, ..describe(frame) })
    }

    #[test]
    fn the_other_end_is_read_from_either_family() {
        let mut v4 = vec![0; 34];
        v4[14] = 0x45;
        v4[26..30].copy_from_slice(&[10, 0, 0, 1]);
        v4[30..34].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(at(&v4, direction::EGRESS), Some("10.0.0.2".parse().expect("an address")));
        assert_eq!(at(&v4, direction::INGRESS), Some("10.0.0.1".parse().expect("an address")));
        let mut v6 = vec![0; 54];
        v6[14] = 0x60;
        v6[37] = 1;
        v6[53] = 2;
        assert_eq!(at(&v6, direction::EGRESS), Some("::2".parse().expect("an address")));
        assert_eq!(at(&v6, direction::INGRESS), Some("::1".parse().expect("an address")));
        assert_eq!(at(&[], direction::EGRESS), None);
    }

    #[test]
    fn ports_and_flags_are_read_where_they_are() {
        let mut frame = vec![0; 14 + 24 + 20];
        frame[14] = 0x46;
        frame[23] = TCP;
        frame[38..42].copy_from_slice(&[0x1f, 0x90, 0, 80]);
        frame[51] = 2;
        let event = describe(&frame);
        assert_eq!((event.source_port, event.destination_port, event.tcp_flags), (8080, 80, 2));
        for cut in 0..frame.len() {
            describe(&frame[..cut]);
        }
    }
}
