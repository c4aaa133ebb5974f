//! The cross-platform configuration protocol (<https://www.wireguard.com/xplatform/>), both ends.
//!
//! A message is lines of `key=value`, ended by an empty line. A request begins with `get=1` or `set=1`;
//! a response ends with `errno=N`. Everything is bounded by [`crate::limits`].

mod client;
mod server;

pub use client::{encode_get, encode_set, parse_get, parse_set_reply};
pub use server::{Request, SetPeer, SetRequest, encode_get_reply, encode_set_reply, parse_request};

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::limits::{MAX_ALLOWED_IPS, MAX_PEERS, MAX_UAPI_LINE, MAX_UAPI_MESSAGE};
use crate::{PresharedKey, PrivateKey, PublicKey};

/// Why a message was not understood. Never contains a value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UapiError {
    /// The message, or a list in it, is longer than [`crate::limits`] allows.
    #[error("more {0} than this implementation takes")]
    TooLarge(&'static str),
    /// A line is not `key=value`, or not where it may be.
    #[error("line {0} is not key=value of this protocol")]
    Syntax(usize),
    /// The key is not known.
    #[error("line {line}: key {key:?} is not known")]
    UnknownKey {
        /// Line number, from 1.
        line: usize,
        /// The key, at most 32 characters.
        key: String,
    },
    /// The key is known, the value is not one of its.
    #[error("line {line}: the value of {key} cannot be used")]
    BadValue {
        /// Line number, from 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// The other end answered with an error number.
    #[error("the device answered errno {0}")]
    Errno(i32),
    /// The message ended before `errno=` (a response) or `get=1`/`set=1` (a request).
    #[error("the message is incomplete")]
    Incomplete,
}

/// One `key=value` line with its number.
struct Line<'a> {
    number: usize,
    key: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn bad(&self, key: &'static str) -> UapiError {
        UapiError::BadValue { line: self.number, key }
    }

    fn unknown(&self) -> UapiError {
        UapiError::UnknownKey { line: self.number, key: self.key.chars().take(32).collect() }
    }

    fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, UapiError> {
        let digits = !self.value.is_empty() && self.value.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return Err(self.bad(key));
        }
        self.value.parse().map_err(|_| self.bad(key))
    }

    fn is_true(&self, key: &'static str) -> Result<bool, UapiError> {
        match self.value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.bad(key)),
        }
    }

    fn public_key(&self) -> Result<PublicKey, UapiError> {
        PublicKey::from_hex(self.value).map_err(|_| self.bad("public_key"))
    }

    /// All zero means none.
    fn private_key(&self) -> Result<Option<PrivateKey>, UapiError> {
        // The raw bytes decide: a clamped key is never all zero.
        let raw = PresharedKey::from_hex(self.value).map_err(|_| self.bad("private_key"))?;
        Ok((!raw.is_zero()).then(|| PrivateKey::from_bytes(*raw.expose())))
    }

    /// All zero means none.
    fn preshared_key(&self) -> Result<Option<PresharedKey>, UapiError> {
        let key = PresharedKey::from_hex(self.value).map_err(|_| self.bad("preshared_key"))?;
        Ok((!key.is_zero()).then_some(key))
    }

    fn endpoint(&self) -> Result<SocketAddr, UapiError> {
        self.value.parse().map_err(|_| self.bad("endpoint"))
    }

    fn prefix(&self, text: &str) -> Result<IpNet, UapiError> {
        text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| self.bad("allowed_ip"))
    }
}

/// The lines up to the first empty one.
fn lines(message: &str) -> Result<impl Iterator<Item = Result<Line<'_>, UapiError>>, UapiError> {
    if message.len() > MAX_UAPI_MESSAGE {
        return Err(UapiError::TooLarge("bytes"));
    }
    let numbered = message.split('\n').take_while(|line| !line.is_empty()).enumerate();
    Ok(numbered.map(|(index, line)| {
        let number = index.saturating_add(1);
        if line.len() > MAX_UAPI_LINE {
            return Err(UapiError::Syntax(number));
        }
        let (key, value) = line.split_once('=').ok_or(UapiError::Syntax(number))?;
        Ok(Line { number, key, value })
    }))
}

/// Counts what a message may hold only so much of.
#[derive(Default)]
struct Budget {
    peers: usize,
    allowed_ips: usize,
}

impl Budget {
    fn peer(&mut self) -> Result<(), UapiError> {
        self.peers = self.peers.saturating_add(1);
        if self.peers > MAX_PEERS { Err(UapiError::TooLarge("peers")) } else { Ok(()) }
    }

    fn allowed_ip(&mut self) -> Result<(), UapiError> {
        self.allowed_ips = self.allowed_ips.saturating_add(1);
        if self.allowed_ips > MAX_ALLOWED_IPS { Err(UapiError::TooLarge("allowed IPs")) } else { Ok(()) }
    }
}
