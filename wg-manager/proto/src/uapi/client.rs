//! The end that configures.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{Budget, Line, UapiError, lines};
use crate::{Observed, Op, Peer, PeerStats, PresharedKey, PublicKey};

/// The request to read everything.
pub const fn encode_get() -> &'static str {
    "get=1\n\n"
}

/// One request that does `ops` in their order. Contains keys in the clear; wiped when dropped.
pub fn encode_set(ops: &[Op]) -> Zeroizing<String> {
    // Enough for everything, so that no reallocation leaves a copy of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(ops.iter().map(size).sum::<usize>() + 16));
    text.push_str("set=1\n");
    for op in ops {
        encode_op(&mut text, op);
    }
    text.push('\n');
    text
}

fn size(op: &Op) -> usize {
    let prefixes = match op {
        Op::SetPrivateKey(_) | Op::SetListenPort(_) | Op::RemovePeer { .. } => 0,
        Op::AddPeer { peer, .. } => peer.allowed_ips.len(),
        Op::UpdatePeer { add_allowed_ips, .. } => add_allowed_ips.len(),
        Op::ShrinkAllowedIps { keep, .. } => keep.len(),
    };
    512 + prefixes * 64
}

fn encode_op(text: &mut Zeroizing<String>, op: &Op) {
    match op {
        Op::SetPrivateKey(key) => line(text, "private_key", &*key.to_hex()),
        Op::SetListenPort(port) => line(text, "listen_port", port),
        Op::AddPeer { key, peer } => encode_new_peer(text, key, peer),
        Op::UpdatePeer { key, preshared_key, endpoint, keepalive, add_allowed_ips } => {
            existing(text, key);
            if let Some(preshared_key) = preshared_key {
                encode_preshared(text, preshared_key.as_ref());
            }
            if let Some(endpoint) = endpoint {
                line(text, "endpoint", endpoint);
            }
            if let Some(keepalive) = keepalive {
                line(text, "persistent_keepalive_interval", keepalive);
            }
            encode_allowed(text, add_allowed_ips);
        }
        Op::ShrinkAllowedIps { key, keep, .. } => {
            existing(text, key);
            line(text, "replace_allowed_ips", "true");
            encode_allowed(text, keep);
        }
        Op::RemovePeer { key } => {
            line(text, "public_key", key.to_hex());
            line(text, "remove", "true");
        }
    }
}

/// Names a peer that is to be changed only if it is still there: one that was removed in the meantime must
/// not come back with half its settings.
fn existing(text: &mut Zeroizing<String>, key: &PublicKey) {
    line(text, "public_key", key.to_hex());
    line(text, "update_only", "true");
}

fn encode_new_peer(text: &mut Zeroizing<String>, key: &PublicKey, peer: &Peer) {
    line(text, "public_key", key.to_hex());
    encode_preshared(text, peer.preshared_key.as_ref());
    if let Some(endpoint) = peer.endpoint {
        line(text, "endpoint", endpoint);
    }
    line(text, "persistent_keepalive_interval", peer.keepalive);
    line(text, "replace_allowed_ips", "true");
    encode_allowed(text, &peer.allowed_ips);
}

fn encode_preshared(text: &mut Zeroizing<String>, key: Option<&PresharedKey>) {
    match key {
        Some(key) => line(text, "preshared_key", &*key.to_hex()),
        None => line(text, "preshared_key", &*PresharedKey::from_bytes([0; 32]).to_hex()),
    }
}

fn encode_allowed(text: &mut Zeroizing<String>, prefixes: &BTreeSet<IpNet>) {
    for prefix in prefixes {
        line(text, "allowed_ip", prefix);
    }
}

pub(super) fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}={value}");
}

/// The response to a set.
pub fn parse_set_reply(message: &str) -> Result<(), UapiError> {
    for line in lines(message)? {
        let line = line?;
        if line.key == "errno" {
            return errno(&line);
        }
    }
    Err(UapiError::Incomplete)
}

fn errno(line: &Line<'_>) -> Result<(), UapiError> {
    match line.value.parse::<i32>() {
        Ok(0) => Ok(()),
        Ok(number) => Err(UapiError::Errno(number)),
        Err(_) => Err(line.bad("errno")),
    }
}

/// The response to a get. Keys that are not known are skipped: implementations add some of their own.
pub fn parse_get(message: &str) -> Result<Observed, UapiError> {
    let mut observed = Observed::default();
    let mut current = None;
    let mut budget = Budget::default();
    for line in lines(message)? {
        let line = line?;
        match (line.key, current) {
            ("errno", _) => return errno(&line).map(|()| observed),
            ("public_key", _) => {
                budget.peer()?;
                let key = line.public_key()?;
                observed.device.peers.entry(key).or_default();
                observed.stats.entry(key).or_default();
                current = Some(key);
            }
            (_, None) => device_line(&line, &mut observed)?,
            (_, Some(key)) => {
                let peer = observed.device.peers.entry(key).or_default();
                let stats = observed.stats.entry(key).or_default();
                peer_line(&line, peer, stats, &mut budget)?;
            }
        }
    }
    Err(UapiError::Incomplete)
}

fn device_line(line: &Line<'_>, observed: &mut Observed) -> Result<(), UapiError> {
    match line.key {
        "private_key" => observed.device.private_key = line.private_key()?,
        "listen_port" => observed.device.listen_port = line.number("listen_port")?,
        "fwmark" => observed.fwmark = line.number("fwmark")?,
        _ => {}
    }
    Ok(())
}

fn peer_line(
    line: &Line<'_>,
    peer: &mut Peer,
    stats: &mut PeerStats,
    budget: &mut Budget,
) -> Result<(), UapiError> {
    match line.key {
        "preshared_key" => peer.preshared_key = line.preshared_key()?,
        "endpoint" => peer.endpoint = Some(line.endpoint()?),
        "persistent_keepalive_interval" => {
            peer.keepalive = line.number("persistent_keepalive_interval")?;
        }
        "allowed_ip" => {
            budget.allowed_ip()?;
            peer.allowed_ips.insert(line.prefix(line.value)?);
        }
        "last_handshake_time_sec" => {
            let seconds: u64 = line.number("last_handshake_time_sec")?;
            stats.last_handshake_unix = (seconds != 0).then_some(seconds);
        }
        "rx_bytes" => stats.rx_bytes = line.number("rx_bytes")?,
        "tx_bytes" => stats.tx_bytes = line.number("tx_bytes")?,
        _ => {}
    }
    Ok(())
}
