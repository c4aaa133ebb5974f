//! What a WireGuard device is made of, and what one operation does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::{PresharedKey, PrivateKey, PublicKey};

/// The configuration of a device, desired or observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// None: the device has no key yet and speaks to nobody.
    pub private_key: Option<PrivateKey>,
    /// UDP port; 0 lets the device choose.
    pub listen_port: u16,
    /// Peers by public key.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// The configuration of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Mixed into the next handshake.
    pub preshared_key: Option<PresharedKey>,
    /// Where to send to. Desired `None` means: leave whatever the device has learnt.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between persistent keepalives; 0 is off.
    pub keepalive: u16,
    /// Prefixes whose packets go to, and are accepted from, this peer. A prefix has one owner per device.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// What a device counts about a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Unix seconds of the last completed handshake.
    pub last_handshake_unix: Option<u64>,
    /// Bytes received, of all messages.
    pub rx_bytes: u64,
    /// Bytes sent, of all messages.
    pub tx_bytes: u64,
}

/// A device as it was read: configuration and counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The configuration.
    pub device: Device,
    /// The firewall mark of its sockets; 0 is none.
    pub fwmark: u32,
    /// Counters of every peer in `device`.
    pub stats: BTreeMap<PublicKey, PeerStats>,
}

/// One step from observed to desired. Each can be sent to a device by itself, and done twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Give the device this key. Ends all sessions.
    SetPrivateKey(PrivateKey),
    /// Listen on this port.
    SetListenPort(u16),
    /// Add a peer, with everything it has. Prefixes move to it from whoever has them.
    AddPeer {
        /// Who.
        key: PublicKey,
        /// What.
        peer: Peer,
    },
    /// Change an existing peer, only adding prefixes (which move to it from whoever has them).
    UpdatePeer {
        /// Who.
        key: PublicKey,
        /// The new preshared key; `Some(None)` removes it.
        preshared_key: Option<Option<PresharedKey>>,
        /// The new endpoint.
        endpoint: Option<SocketAddr>,
        /// The new keepalive interval in seconds; 0 switches it off.
        keepalive: Option<u16>,
        /// Prefixes to add.
        add_allowed_ips: BTreeSet<IpNet>,
    },
    /// Take prefixes from an existing peer. Said in two ways: devices take the one or the other.
    ShrinkAllowedIps {
        /// Who.
        key: PublicKey,
        /// What remains.
        keep: BTreeSet<IpNet>,
        /// What goes.
        gone: BTreeSet<IpNet>,
    },
    /// Remove a peer, its session and its prefixes.
    RemovePeer {
        /// Who.
        key: PublicKey,
    },
}

impl Device {
    /// The peer that packets to exactly this prefix go to.
    pub fn owner(&self, prefix: &IpNet) -> Option<&PublicKey> {
        self.peers.iter().find(|(_, peer)| peer.allowed_ips.contains(prefix)).map(|(key, _)| key)
    }

    /// Do what a WireGuard device does when told `op`: the model that plans are tested against.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetPrivateKey(key) => self.private_key = Some(key.clone()),
            Op::SetListenPort(port) => self.listen_port = *port,
            Op::AddPeer { key, peer } => self.add_peer(*key, peer),
            Op::UpdatePeer { key, preshared_key, endpoint, keepalive, add_allowed_ips } => {
                if !self.peers.contains_key(key) {
                    return;
                }
                self.disown(add_allowed_ips);
                let Some(peer) = self.peers.get_mut(key) else { return };
                if let Some(preshared_key) = preshared_key {
                    peer.preshared_key.clone_from(preshared_key);
                }
                peer.endpoint = endpoint.or(peer.endpoint);
                peer.keepalive = keepalive.unwrap_or(peer.keepalive);
                peer.allowed_ips.extend(add_allowed_ips);
            }
            Op::ShrinkAllowedIps { key, keep, gone: _ } => {
                self.disown(keep);
                if let Some(peer) = self.peers.get_mut(key) {
                    peer.allowed_ips.clone_from(keep);
                }
            }
            Op::RemovePeer { key } => {
                self.peers.remove(key);
            }
        }
    }

    fn add_peer(&mut self, key: PublicKey, new: &Peer) {
        self.disown(&new.allowed_ips);
        let peer = self.peers.entry(key).or_default();
        peer.preshared_key.clone_from(&new.preshared_key);
        peer.endpoint = new.endpoint.or(peer.endpoint);
        peer.keepalive = new.keepalive;
        peer.allowed_ips.clone_from(&new.allowed_ips);
    }

    fn disown(&mut self, prefixes: &BTreeSet<IpNet>) {
        for peer in self.peers.values_mut() {
            peer.allowed_ips.retain(|prefix| !prefixes.contains(prefix));
        }
    }
}
