//! What there is to say about the device, for people and metrics. No secrets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use countersign_wg_proto::{Goal, Observed, PublicKey};
use ipnet::IpNet;

use crate::backend::Backend;
use crate::paths::PathSize;

/// The device and its peers, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Name of the device, or of all of them, with commas between.
    pub device: String,
    /// What carries the packets.
    pub backend: Backend,
    /// This node's public key.
    pub public_key: Option<PublicKey>,
    /// The port the (first) device listens on; 0 while it is not there.
    pub listen_port: u16,
    /// Peers, by node name.
    pub peers: Vec<PeerStatus>,
    /// How often the device or a route was not what it had been made, and was repaired.
    pub repairs: u64,
    /// What is wrong now, one sentence each.
    pub errors: Vec<String>,
}

/// One peer, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The node; empty for a peer that somebody else added and that has not been removed yet.
    pub node: String,
    /// The device it is a peer of.
    pub device: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Where it was heard last.
    pub endpoint: Option<SocketAddr>,
    /// The prefixes that are its.
    pub allowed_ips: Vec<IpNet>,
    /// Unix seconds of the last completed handshake.
    pub last_handshake_unix: Option<u64>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Whether a preshared key is set.
    pub preshared_key: bool,
    /// The SPIFFE ID that signed the key's announcement.
    pub attested_by: String,
    /// Until when (Unix seconds).
    pub attested_until: u64,
    /// What is known of the path there.
    pub path: Option<PathSize>,
}

/// The peers of `observed`, with the names that `goal` has for them, and what is known of the paths to them.
pub(crate) fn peers(
    device: &str,
    observed: &Observed,
    goal: &Goal,
    paths: &BTreeMap<IpAddr, PathSize>,
) -> Vec<PeerStatus> {
    let path = |peer: &PeerStatus| paths.get(&peer.endpoint?.ip()).copied();
    let peers = observed.device.peers.keys().map(|key| peer(device, key, observed, goal));
    peers.map(|peer| PeerStatus { path: path(&peer), ..peer }).collect()
}

fn peer(device: &str, key: &PublicKey, observed: &Observed, goal: &Goal) -> PeerStatus {
    let configured = observed.device.peers.get(key).cloned().unwrap_or_default();
    let stats = observed.stats.get(key).copied().unwrap_or_default();
    let attested = goal.names.get(key);
    PeerStatus {
        node: attested.map_or_else(String::new, |key| key.node().to_owned()),
        device: device.to_owned(),
        public_key: *key,
        endpoint: configured.endpoint,
        allowed_ips: configured.allowed_ips.into_iter().collect(),
        last_handshake_unix: stats.last_handshake_unix,
        rx_bytes: stats.rx_bytes,
        tx_bytes: stats.tx_bytes,
        preshared_key: configured.preshared_key.is_some(),
        attested_by: attested.map_or_else(String::new, |key| key.signer().to_string()),
        attested_until: attested.map_or(0, |key| key.not_after()),
        path: None,
    }
}
