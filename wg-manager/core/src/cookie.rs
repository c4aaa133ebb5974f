//! The two MACs of a handshake message (whitepaper, sections 5.3 and 5.4.4): the first shows that the sender knows
//! whom it speaks to, the second, asked for under load, that it hears what is sent to its address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use countersign_wg_proto::PublicKey;
use zeroize::Zeroizing;

use crate::crypto::{Key, equal, hash, mac, open_cookie, seal_cookie};
use crate::limits::{COOKIE_LIFE, SECOND, SOURCE_BURST, SOURCE_RATE, SOURCES};
use crate::message::{COOKIE_REPLY, Kind, field, sender};

/// Bytes of one MAC.
const MAC: usize = 16;

fn key(label: &[u8], of: &PublicKey) -> Key {
    Zeroizing::new(hash(&[label, of.as_bytes()]))
}

/// The handshake messages that are sent to one peer.
pub(crate) struct Outgoing {
    first: Key,
    replies: Key,
    /// Of the last message: a reply is an answer to it.
    last: Option<[u8; MAC]>,
    cookie: Option<([u8; MAC], u64)>,
}

impl Outgoing {
    pub fn to(peer: &PublicKey) -> Self {
        Self { first: key(b"mac1----", peer), replies: key(b"cookie--", peer), last: None, cookie: None }
    }

    /// Writes both MACs at the end of `message`.
    pub fn finish(&mut self, message: &mut [u8], now: u64) {
        let Some(end) = message.len().checked_sub(2 * MAC) else { return };
        let (body, macs) = message.split_at_mut(end);
        let first = mac(&*self.first, &[body]);
        self.last = Some(first);
        macs[..MAC].copy_from_slice(&first);
        let fresh = self.cookie.filter(|(_, since)| now.saturating_sub(*since) < COOKIE_LIFE);
        if let Some((cookie, _)) = fresh {
            macs[MAC..].copy_from_slice(&mac(&cookie, &[body, &first]));
        }
    }

    /// A reply to the last message. Whatever else is ignored.
    pub fn hear(&mut self, reply: &[u8; COOKIE_REPLY], now: u64) {
        let Some(last) = self.last.take() else { return };
        match open_cookie(&self.replies, &field(reply, 8), &last, &field(reply, 32)) {
            Ok(cookie) => self.cookie = Some((cookie, now)),
            // Somebody else's: ours may still come.
            Err(_) => self.last = Some(last),
        }
    }
}

/// What stands before the handshake: nobody makes us calculate much without having shown both.
pub struct Guard {
    first: Key,
    replies: Key,
    secret: Key,
    since: u64,
    sources: BTreeMap<IpAddr, Tokens>,
}

/// A bucket.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    /// In nanoseconds of the rate.
    filled: u64,
    at: u64,
}

/// One handshake of a source costs so many nanoseconds of its time.
const COST: u64 = SECOND / SOURCE_RATE;

impl Guard {
    /// Of the device with this key. `secret` is random.
    pub fn new(own: &PublicKey, secret: [u8; 32], now: u64) -> Self {
        Self {
            first: key(b"mac1----", own),
            replies: key(b"cookie--", own),
            secret: Zeroizing::new(secret),
            since: now,
            sources: BTreeMap::new(),
        }
    }

    /// The secret is old: give it another one.
    pub fn secret_is_old(&self, now: u64) -> bool {
        now.saturating_sub(self.since) >= COOKIE_LIFE
    }

    /// What was sent before is not good any more.
    pub fn renew(&mut self, secret: [u8; 32], now: u64) {
        self.secret = Zeroizing::new(secret);
        self.since = now;
    }

    /// The sender knows whose device this is.
    pub fn knows_us(&self, message: &[u8]) -> bool {
        let Some(end) = message.len().checked_sub(2 * MAC) else { return false };
        equal(&mac(&*self.first, &[&message[..end]]), &field(message, end))
    }

    /// The sender hears what is sent to its address.
    pub fn hears_us(&self, message: &[u8], source: SocketAddr) -> bool {
        let Some(end) = message.len().checked_sub(MAC) else { return false };
        let second = field(message, end);
        // Who has no cookie leaves it empty: a flood of those is not worth two more hashes each.
        second != [0; MAC] && equal(&mac(&self.cookie(source), &[&message[..end]]), &second)
    }

    fn cookie(&self, source: SocketAddr) -> [u8; MAC] {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
        }
    }

    /// A cookie for whoever sent `message` from there. `nonce` is random.
    pub fn reply(&self, message: &[u8], source: SocketAddr, nonce: &[u8; 24]) -> Option<[u8; COOKIE_REPLY]> {
        let first: [u8; MAC] = field(message, message.len().checked_sub(2 * MAC)?);
        let mut reply = [0; COOKIE_REPLY];
        reply[..4].copy_from_slice(&Kind::CookieReply.word());
        reply[4..8].copy_from_slice(&sender(message).to_le_bytes());
        reply[8..32].copy_from_slice(nonce);
        reply[32..].copy_from_slice(&seal_cookie(&self.replies, nonce, &first, &self.cookie(source))?);
        Some(reply)
    }

    /// One more handshake of this address (a /64, for IPv6), if it has not had too many.
    pub fn admits(&mut self, source: IpAddr, now: u64) -> bool {
        let source = match source {
            IpAddr::V4(_) => source,
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & !u128::from(u64::MAX)).to_be_bytes()),
        };
        let full = COST * SOURCE_BURST;
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES {
            // Those that would be full by now are as good as new.
            self.sources.retain(|_, tokens| tokens.filled + now.saturating_sub(tokens.at) < full);
            if self.sources.len() >= SOURCES {
                return false;
            }
        }
        let tokens = self.sources.entry(source).or_insert(Tokens { filled: full, at: now });
        let filled = (tokens.filled + now.saturating_sub(tokens.at)).min(full);
        let admitted = filled >= COST;
        *tokens = Tokens { filled: if admitted { filled - COST } else { filled }, at: now };
        admitted
    }
}
