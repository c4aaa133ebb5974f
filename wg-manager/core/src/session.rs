//! A session: sealing and opening data messages. Several threads may do that at once; what must be in one place,
//! the counter and the replay window, is atomic or behind a lock that is taken once for a batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::crypto::{Cipher, Forged, Key, TAG};
use crate::handshake::SessionKeys;
use crate::limits::{
    PADDING, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
};
use crate::message::{DATA_HEADER, DATA_OVERHEAD, Kind, field};
use crate::replay::Replay;

/// What both sides agreed on in one handshake.
pub struct Session {
    /// Messages to us have this index.
    pub local: u32,
    /// Messages to the other side have this one.
    pub remote: u32,
    /// Boot clock, nanoseconds.
    pub born: u64,
    /// We have sent the first message of its handshake.
    pub initiator: bool,
    seal: Cipher,
    open: Cipher,
    keys: SessionKeys,
    next: AtomicU64,
    replay: Mutex<Replay>,
}

impl Session {
    /// A session without a message yet.
    pub fn new(local: u32, remote: u32, born: u64, initiator: bool, keys: SessionKeys) -> Self {
        let (seal, open) = (Cipher::new(&keys.send), Cipher::new(&keys.receive));
        let (next, replay) = (AtomicU64::new(0), Mutex::default());
        Self { local, remote, born, initiator, seal, open, keys, next, replay }
    }

    /// Not too old for anything.
    pub fn is_within_time(&self, now: u64) -> bool {
        now.saturating_sub(self.born) < REJECT_AFTER_TIME
    }

    /// May still be sent with.
    pub fn lives(&self, now: u64) -> bool {
        self.is_within_time(now) && self.next.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// The side that began it should ask for another one.
    pub fn is_old(&self, now: u64) -> bool {
        self.next.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES
            || (self.initiator && now.saturating_sub(self.born) >= REKEY_AFTER_TIME)
    }

    /// The first of `count` counters that nobody else gets.
    pub fn counters(&self, count: u64) -> Option<u64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        if first.saturating_add(count) >= REJECT_AFTER_MESSAGES {
            // It must not come round, however often it is tried.
            self.next.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return None;
        }
        Some(first)
    }

    /// Makes `message` a data message: 16 bytes for the header, the padded packet, 16 bytes for the tag.
    pub fn seal(&self, counter: u64, message: &mut [u8]) -> Result<(), Forged> {
        let (header, text) = message.split_first_chunk_mut::<DATA_HEADER>().ok_or(Forged)?;
        header[..4].copy_from_slice(&Kind::Data.word());
        header[4..8].copy_from_slice(&self.remote.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        self.seal.seal(counter, &[], text)
    }

    /// A data message around a packet of its own, padded, but not beyond the MTU.
    pub fn message(&self, packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
        let counter = self.counters(1)?;
        let mut message = vec![0; DATA_OVERHEAD + padded(packet.len(), mtu)];
        message[DATA_HEADER..DATA_HEADER + packet.len()].copy_from_slice(packet);
        self.seal(counter, &mut message).ok()?;
        Some(message)
    }

    /// What is in a data message, in its place, and its counter, which is still to be [`accept`](Self::accept)ed.
    pub fn open<'a>(&self, message: &'a mut [u8]) -> Result<(u64, &'a mut [u8]), Forged> {
        if message.len() < DATA_OVERHEAD {
            return Err(Forged);
        }
        let counter = u64::from_le_bytes(field(message, 8));
        let text = message.get_mut(DATA_HEADER..).ok_or(Forged)?;
        Ok((counter, self.open.open(counter, &[], text)?))
    }

    /// Of messages that have authenticated: which are seen for the first time.
    pub fn accept(&self, counters: impl Iterator<Item = u64>, mut verdict: impl FnMut(bool)) {
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        counters.for_each(|counter| verdict(replay.accept(counter)));
    }

    /// Everything there is to know, to go on in another process.
    pub(crate) fn parts(&self) -> ((&Key, &Key), u64, Replay) {
        let replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ((&self.keys.send, &self.keys.receive), self.next.load(Ordering::Relaxed), replay)
    }

    /// A session that was [`parts`](Self::parts) before.
    pub(crate) fn go_on(mut self, next: u64, replay: Replay) -> Self {
        self.next = AtomicU64::new(next);
        self.replay = Mutex::new(replay);
        self
    }
}

/// The length that a packet is padded to: a multiple of 16, so that lengths tell less, but not beyond the MTU.
pub fn padded(length: usize, mtu: usize) -> usize {
    let last = if mtu > 0 && length > mtu { length % mtu } else { length };
    let padded = last.next_multiple_of(PADDING);
    length - last + if mtu > 0 { padded.min(mtu.max(last)) } else { padded }
}

/// Bytes that a message of a packet with `length` padded bytes has.
pub const fn message_length(padded: usize) -> usize {
    DATA_HEADER + padded + TAG
}
