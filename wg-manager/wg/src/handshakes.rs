//! The handshakes' own thread: what they cost is not taken from the packets of those who have a session, and what
//! waits for them is bounded.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use countersign_wg_core::{Guard, INITIATION, Kind, RESPONSE, receive, receiver};

use crate::clock;
use crate::device::{Device, PeerCell, Slot, lock, random};
use crate::limits::{HANDSHAKES, LOADED, LOADED_FOR};

/// A handshake message, and who sent it.
struct Message {
    bytes: Vec<u8>,
    from: SocketAddr,
}

/// Messages that wait. When it is full, newer ones are lost, as on the way.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    closed: bool,
}

impl Queue {
    /// One more.
    pub fn push(&self, bytes: &[u8], from: SocketAddr) {
        let mut waiting = lock(&self.waiting);
        if waiting.messages.len() < HANDSHAKES {
            waiting.messages.push_back(Message { bytes: bytes.to_vec(), from });
            drop(waiting);
            self.news.notify_one();
        }
    }

    /// Whoever waits for more is to end when there is none.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
        self.news.notify_all();
    }

    /// There will be more.
    pub fn open(&self) {
        lock(&self.waiting).closed = false;
    }

    /// The next one, and how many wait behind it. Nothing, when there will be none.
    fn pop(&self) -> Option<(Message, usize)> {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(message) = waiting.messages.pop_front() {
                return Some((message, waiting.messages.len()));
            }
            if waiting.closed {
                return None;
            }
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Answers, until the queue is closed.
pub fn run(device: &Device) {
    let mut loaded_until = 0;
    while let Some((message, waiting)) = device.queue.pop() {
        let now = clock::boot();
        if waiting >= LOADED {
            loaded_until = now + LOADED_FOR;
        }
        handle(device, &message, now < loaded_until, now);
    }
}

fn handle(device: &Device, message: &Message, loaded: bool, now: u64) {
    let kind = Kind::of(&message.bytes);
    if kind == Some(Kind::CookieReply) {
        return hear_cookie(device, &message.bytes, now);
    }
    let mut guard = lock(&device.guard);
    let Some(guard) = guard.as_mut() else { return };
    if guard.knows_us(&message.bytes) && (!loaded || admitted(device, guard, message, now)) {
        match kind {
            Some(Kind::Initiation) => answer(device, message),
            Some(Kind::Response) => finish(device, message),
            _ => {}
        }
    }
}

/// Under load: only who hears us, and not too often.
fn admitted(device: &Device, guard: &mut Guard, message: &Message, now: u64) -> bool {
    if guard.secret_is_old(now) {
        guard.renew(random(), now);
    }
    if guard.hears_us(&message.bytes, message.from) {
        return guard.admits(message.from.ip(), now);
    }
    let reply = guard.reply(&message.bytes, message.from, &random());
    if let (Some(reply), Some(socket)) = (reply, &*device.socket.load())
        && let Err(error) = socket.send(&reply, None, message.from)
    {
        tracing::trace!(%error, "sending a cookie");
    }
    false
}

fn answer(device: &Device, message: &Message) {
    let own = device.own.load();
    let (Some(own), Ok(bytes)) = (own.as_ref(), <&[u8; INITIATION]>::try_from(message.bytes.as_slice()))
    else {
        return;
    };
    let Ok(received) = receive(own, bytes) else { return };
    let Some(peer) = device.table.load().peers.get(&received.public).cloned() else { return };
    device.with(&peer, |core, world, out| {
        if core.answer(received, bytes, world, out).is_ok() {
            heard(&peer, message);
        }
    });
}

fn finish(device: &Device, message: &Message) {
    let index = receiver(&message.bytes);
    let Some(Slot::Handshake(peer)) = index.and_then(|index| device.slot(index)) else { return };
    let Ok(bytes) = <&[u8; RESPONSE]>::try_from(message.bytes.as_slice()) else { return };
    device.with(&peer, |core, world, out| {
        if core.finish(bytes, world, out).is_ok() {
            heard(&peer, message);
        }
    });
}

fn hear_cookie(device: &Device, bytes: &[u8], now: u64) {
    let slot = receiver(bytes).and_then(|index| device.slot(index));
    let (Some(Slot::Handshake(peer) | Slot::Session(peer, _)), Ok(reply)) = (slot, bytes.try_into()) else {
        return;
    };
    peer.core().hear_cookie(reply, now);
}

/// The message has authenticated: the peer is where it came from.
fn heard(peer: &Arc<PeerCell>, message: &Message) {
    peer.set_endpoint(message.from);
    peer.received.fetch_add(message.bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
}
