//! Parked frames: from the device into the queue, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use countersign_auth_proto::{Admission, DiscardReason, Full, Pair, Source};
use countersign_ebpf_common::park::Parked;
use countersign_ebpf_common::policy::direction;
use tokio::io::unix::AsyncFdReadyGuard;

use super::Node;
use crate::clock;
use crate::limits;
use crate::tap::Tap;

impl Node {
    /// Takes in what waits at the device, up to a turn's worth.
    pub(super) fn read_parked(&mut self, mut ready: AsyncFdReadyGuard<'_, Tap>) {
        let now = clock::boot_ns();
        let mut buffer = vec![0; limits::MAX_FRAME];
        for _ in 0..limits::FRAMES_PER_TURN {
            match ready.try_io(|tap| tap.get_ref().read(&mut buffer)) {
                Ok(Ok(length)) => self.park(&buffer[..length], now),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "reading the parking device");
                    return;
                }
                Err(_would_block) => return,
            }
        }
    }

    fn park(&mut self, frame: &[u8], now: u64) {
        // Anything else on the device is its own chatter.
        let Some((pair, source, remote)) = self.waiting_for(frame) else { return };
        match self.machine.admit(pair, remote, now) {
            Admission::Pass => self.write_back(frame),
            Admission::Park => {
                self.metrics.parked(1);
                if let Err(full) = self.parking.push(pair, source, frame.to_vec(), frame.len(), now) {
                    self.count_discarded(full_name(full), 1);
                }
            }
            Admission::Drop(why) => {
                self.count_discarded(why.as_str(), 1);
                self.record_drop(pair, why.as_str(), 1);
                self.back_off(pair, why);
            }
        }
    }

    /// Which proof the frame waits for, whose place it takes, and the address at the other end.
    fn waiting_for(&self, frame: &[u8]) -> Option<(Pair, Source, Option<IpAddr>)> {
        let header = Parked::decode(frame.first_chunk::<12>()?)?;
        let endpoint = self.endpoints.get(header.slot)?;
        let pair = Pair::new(endpoint.identity, header.remote, header.node);
        let outgoing = header.direction == direction::EGRESS;
        let source = if outgoing {
            Source::Pod(header.slot)
        } else {
            Source::Remote { identity: header.remote, node: header.node }
        };
        Some((pair, source, remote_address(frame, outgoing)))
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
        let mut released = 0;
        for parked in self.parking.release(pair) {
            released += 1;
            self.write_back(&parked.frame);
        }
        self.metrics.released(released);
    }

    pub(super) fn discard(&mut self, pair: Pair, why: DiscardReason) {
        let tally = self.parking.discard(pair);
        if tally.frames > 0 {
            self.count_discarded(why.as_str(), tally.frames);
            self.record_drop(pair, why.as_str(), tally.frames);
        }
        self.back_off(pair, why);
    }

    pub(super) fn expire_parked(&mut self, now: u64) {
        if self.parking.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        for (pair, tally) in self.parking.expire(now) {
            tracing::debug!(?pair, frames = tally.frames, "parked too long");
            self.count_discarded("deadline", tally.frames);
            self.record_drop(pair, "parked too long", tally.frames);
        }
    }

    fn write_back(&self, frame: &[u8]) {
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

fn full_name(full: Full) -> &'static str {
    match full {
        Full::Pair => "full_pair",
        Full::Source => "full_source",
        Full::All => "full_all",
    }
}

/// Source or destination of the packet in a frame. The programs have examined it before they parked it.
fn remote_address(frame: &[u8], outgoing: bool) -> Option<IpAddr> {
    let packet = frame.get(14..)?;
    match packet.first()? >> 4 {
        4 => {
            let at = if outgoing { 16 } else { 12 };
            let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(bytes)))
        }
        6 => {
            let at = if outgoing { 24 } else { 8 };
            let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_read_from_either_family() {
        let mut v4 = vec![0; 34];
        v4[14] = 0x45;
        v4[26..30].copy_from_slice(&[10, 0, 0, 1]);
        v4[30..34].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(remote_address(&v4, true), Some("10.0.0.2".parse().expect("an address")));
        assert_eq!(remote_address(&v4, false), Some("10.0.0.1".parse().expect("an address")));
        let mut v6 = vec![0; 54];
        v6[14] = 0x60;
        v6[37] = 1;
        v6[53] = 2;
        assert_eq!(remote_address(&v6, true), Some("::2".parse().expect("an address")));
        assert_eq!(remote_address(&v6, false), Some("::1".parse().expect("an address")));
        for cut in 0..34 {
            assert_eq!(remote_address(&v4[..cut], true), None);
        }
        assert_eq!(remote_address(&[], true), None);
    }
}
