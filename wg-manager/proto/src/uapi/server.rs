//! The end that is configured.

use std::net::SocketAddr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::client::line;
use super::{Budget, Line, UapiError, lines};
use crate::{Observed, PresharedKey, PrivateKey, PublicKey};

/// A request, parsed and within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Report everything.
    Get,
    /// Change something.
    Set(SetRequest),
}

/// What a `set=1` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetRequest {
    /// The new private key; `Some(None)` removes it.
    pub private_key: Option<Option<PrivateKey>>,
    /// The new port; 0 chooses one.
    pub listen_port: Option<u16>,
    /// The new firewall mark; 0 removes it.
    pub fwmark: Option<u32>,
    /// Remove all peers first.
    pub replace_peers: bool,
    /// Peer sections, in order. A peer may come more than once.
    pub peers: Vec<SetPeer>,
}

/// One peer section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPeer {
    /// Whom it is about.
    pub public_key: PublicKey,
    /// Remove the peer.
    pub remove: bool,
    /// Do nothing if the peer is not there.
    pub update_only: bool,
    /// The new preshared key; `Some(None)` removes it.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// The new endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The new keepalive interval in seconds; 0 switches it off.
    pub keepalive: Option<u16>,
    /// Drop all prefixes before those below are added.
    pub replace_allowed_ips: bool,
    /// Prefixes in order; `false` (written with a leading `-`) takes the prefix away.
    pub allowed_ips: Vec<(IpNet, bool)>,
}

impl SetPeer {
    /// A section that says nothing but whom it is about.
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One request.
pub fn parse_request(message: &str) -> Result<Request, UapiError> {
    let mut lines = lines(message)?;
    let first = lines.next().ok_or(UapiError::Incomplete)??;
    match (first.key, first.value) {
        ("get", "1") => match lines.next() {
            None => Ok(Request::Get),
            Some(_) => Err(UapiError::Syntax(2)),
        },
        ("set", "1") => parse_set(lines).map(Request::Set),
        _ => Err(UapiError::Syntax(1)),
    }
}

fn parse_set<'a>(lines: impl Iterator<Item = Result<Line<'a>, UapiError>>) -> Result<SetRequest, UapiError> {
    let mut request = SetRequest::default();
    let mut budget = Budget::default();
    for line in lines {
        let line = line?;
        if line.key == "public_key" {
            budget.peer()?;
            request.peers.push(SetPeer::new(line.public_key()?));
            continue;
        }
        match request.peers.last_mut() {
            None => device_line(&line, &mut request)?,
            Some(peer) => peer_line(&line, peer, &mut budget)?,
        }
    }
    Ok(request)
}

fn device_line(line: &Line<'_>, request: &mut SetRequest) -> Result<(), UapiError> {
    match line.key {
        "private_key" => request.private_key = Some(line.private_key()?),
        "listen_port" => request.listen_port = Some(line.number("listen_port")?),
        "fwmark" => request.fwmark = Some(fwmark(line)?),
        "replace_peers" => request.replace_peers = only_true(line, "replace_peers")?,
        _ => return Err(line.unknown()),
    }
    Ok(())
}

/// Decimal, or hexadecimal with `0x` as some tools write it; empty is 0.
fn fwmark(line: &Line<'_>) -> Result<u32, UapiError> {
    match line.value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).map_err(|_| line.bad("fwmark")),
        None if line.value.is_empty() => Ok(0),
        None => line.number("fwmark"),
    }
}

/// The protocol knows these keys with the value `true` only.
fn only_true(line: &Line<'_>, key: &'static str) -> Result<bool, UapiError> {
    if line.is_true(key)? { Ok(true) } else { Err(line.bad(key)) }
}

fn peer_line(line: &Line<'_>, peer: &mut SetPeer, budget: &mut Budget) -> Result<(), UapiError> {
    match line.key {
        "remove" => peer.remove = only_true(line, "remove")?,
        "update_only" => peer.update_only = only_true(line, "update_only")?,
        "preshared_key" => peer.preshared_key = Some(line.preshared_key()?),
        "endpoint" => peer.endpoint = Some(line.endpoint()?),
        "persistent_keepalive_interval" => {
            peer.keepalive = Some(line.number("persistent_keepalive_interval")?);
        }
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = only_true(line, "replace_allowed_ips")?;
            // What came before it is replaced as well.
            peer.allowed_ips.clear();
        }
        "allowed_ip" => {
            budget.allowed_ip()?;
            let (text, add) = match line.value.strip_prefix('-') {
                Some(text) => (text, false),
                None => (line.value.strip_prefix('+').unwrap_or(line.value), true),
            };
            peer.allowed_ips.push((line.prefix(text)?, add));
        }
        "protocol_version" if line.value == "1" => {}
        "protocol_version" => return Err(line.bad("protocol_version")),
        _ => return Err(line.unknown()),
    }
    Ok(())
}

/// The response to a get. Contains keys in the clear; wiped when dropped.
pub fn encode_get_reply(observed: &Observed) -> Zeroizing<String> {
    let prefixes: usize = observed.device.peers.values().map(|peer| peer.allowed_ips.len()).sum();
    // Enough for everything, so that no reallocation leaves a copy of a key behind.
    let capacity = 256 + observed.device.peers.len() * 512 + prefixes * 64;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    if let Some(key) = &observed.device.private_key {
        line(&mut text, "private_key", &*key.to_hex());
    }
    if observed.device.listen_port != 0 {
        line(&mut text, "listen_port", observed.device.listen_port);
    }
    if observed.fwmark != 0 {
        line(&mut text, "fwmark", observed.fwmark);
    }
    for key in observed.device.peers.keys() {
        encode_peer(&mut text, observed, key);
    }
    text.push_str("errno=0\n\n");
    text
}

fn encode_peer(text: &mut Zeroizing<String>, observed: &Observed, key: &PublicKey) {
    let Some(peer) = observed.device.peers.get(key) else { return };
    let stats = observed.stats.get(key).copied().unwrap_or_default();
    line(text, "public_key", key.to_hex());
    let none = PresharedKey::from_bytes([0; 32]);
    line(text, "preshared_key", &*peer.preshared_key.as_ref().unwrap_or(&none).to_hex());
    line(text, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        line(text, "endpoint", endpoint);
    }
    line(text, "last_handshake_time_sec", stats.last_handshake_unix.unwrap_or(0));
    line(text, "last_handshake_time_nsec", 0);
    line(text, "tx_bytes", stats.tx_bytes);
    line(text, "rx_bytes", stats.rx_bytes);
    line(text, "persistent_keepalive_interval", peer.keepalive);
    for prefix in &peer.allowed_ips {
        line(text, "allowed_ip", prefix);
    }
}

/// The response to a set: 0, or an errno.
pub fn encode_set_reply(errno: i32) -> String {
    format!("errno={errno}\n\n")
}
