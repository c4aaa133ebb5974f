//! The handshakes' own thread: what they cost is not taken from the packets of those who have a session, and what
//! waits for them is bounded.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use countersign_wg_core::{COOKIE_REPLY, INITIATION, Kind, RESPONSE, receive, receiver};

use crate::clock;
use crate::device::{Device, PeerCell, Slot, lock, random};
use crate::limits::{AT_ONCE, HANDSHAKES, LOADED, LOADED_FOR, MAX_SEGMENTS};

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

    /// The next few, in their order, and how many wait behind them. Nothing, when there will be none.
    fn pop(&self, some: &mut Vec<Message>) -> Option<usize> {
        let mut waiting = lock(&self.waiting);
        while waiting.messages.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let count = waiting.messages.len().min(AT_ONCE);
        some.extend(waiting.messages.drain(..count));
        Some(waiting.messages.len())
    }
}

/// Answers, until the queue is closed.
pub fn run(device: &Device) {
    let mut loaded_until = 0;
    let (mut some, mut replies) = (Vec::with_capacity(AT_ONCE), Replies::default());
    while let Some(waiting) = device.queue.pop(&mut some) {
        let now = clock::boot();
        if waiting >= LOADED {
            loaded_until = now + LOADED_FOR;
        }
        for message in some.drain(..) {
            handle(device, &message, now < loaded_until, now, &mut replies);
        }
        replies.send(device);
    }
}

/// Cookies on their way to one address: a flood from there is answered in few system calls.
#[derive(Default)]
struct Replies {
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
    /// Random bytes not used yet: asking for many at once costs little more than for a few.
    nonces: Vec<[u8; NONCE]>,
}

/// Bytes of a cookie reply's nonce.
const NONCE: usize = 24;

impl Replies {
    fn nonce(&mut self) -> [u8; NONCE] {
        if self.nonces.is_empty() {
            let bytes: [u8; NONCE * AT_ONCE] = random();
            self.nonces.extend(bytes.chunks_exact(NONCE).filter_map(|nonce| nonce.first_chunk()));
        }
        self.nonces.pop().unwrap_or_else(random)
    }

    fn push(&mut self, device: &Device, reply: &[u8; COOKIE_REPLY], to: SocketAddr) {
        if self.to != Some(to) {
            self.send(device);
            self.to = Some(to);
        }
        self.bytes.extend_from_slice(reply);
    }

    fn send(&mut self, device: &Device) {
        if let (Some(to), Some(socket)) = (self.to.take(), &*device.socket.load()) {
            for run in self.bytes.chunks(MAX_SEGMENTS * COOKIE_REPLY) {
                socket.send_run(run, COOKIE_REPLY, to);
            }
        }
        self.bytes.clear();
    }
}

fn handle(device: &Device, message: &Message, loaded: bool, now: u64, replies: &mut Replies) {
    let kind = Kind::of(&message.bytes);
    if kind == Some(Kind::CookieReply) {
        return hear_cookie(device, &message.bytes, now);
    }
    let mut guard = lock(&device.guard);
    let Some(guard) = guard.as_mut() else { return };
    if !guard.knows_us(&message.bytes) {
        return;
    }
    if loaded && !guard.hears_us(&message.bytes, message.from) {
        if guard.secret_is_old(now) {
            guard.renew(random(), now);
        }
        let reply = guard.reply(&message.bytes, message.from, &replies.nonce());
        reply.iter().for_each(|reply| replies.push(device, reply, message.from));
    } else if !loaded || guard.admits(message.from.ip(), now) {
        match kind {
            Some(Kind::Initiation) => answer(device, message),
            Some(Kind::Response) => finish(device, message),
            _ => {}
        }
    }
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
