//! `countersign encrypt status`.

use serde::{Deserialize, Serialize};

/// Encryption between this node and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncryptStatus {
    /// Name of the node.
    pub node: String,
    /// `Wireguard` or `Disabled`.
    pub mode: String,
    /// Network device; several, with commas between, while keys change or where nodes have changed theirs.
    pub device: String,
    /// What moves the packets: `countersign-wg (userspace)` or `kernel`.
    pub backend: String,
    /// UDP port it listens on, of the first device.
    pub listen_port: u16,
    /// This node's public key, base64.
    pub public_key: String,
    /// The other nodes.
    pub peers: Vec<EncryptPeer>,
    /// What is wrong on this node; empty is well.
    pub errors: Vec<String>,
    /// Plaintext packets of encrypted peers that were dropped.
    pub leaks_prevented: u64,
    /// The change of this node's key, while there is one.
    pub rotation: Option<KeyRotation>,
}

/// A node changes its key: the next one is there beside the one it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRotation {
    /// The next public key, base64.
    pub next_public_key: String,
    /// Since when it is there.
    pub since: u64,
    /// When the old key ends at the latest.
    pub until: u64,
    /// Nodes that still need the old key, as far as is known.
    pub waiting_for: Vec<String>,
}

/// Answer to [`crate::Request::RotateKey`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RotationBegun {
    /// Name of the node.
    pub node: String,
    /// Its public key until the end, base64.
    pub public_key: String,
    /// What takes its place, base64.
    pub next_public_key: String,
    /// The node was not changing its key already.
    pub is_new: bool,
}

impl EncryptStatus {
    /// Whether traffic of this node is encrypted to every peer, as far as the node knows.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.mode != "Disabled"
            && !self.mode.is_empty()
            && self.errors.is_empty()
            && self.peers.iter().all(|peer| peer.error.is_none())
    }
}

/// Another node, as this one's WireGuard sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncryptPeer {
    /// Name of the other node.
    pub node: String,
    /// Its public key, base64; empty while none is verified.
    pub public_key: String,
    /// The device it is a peer of.
    pub device: String,
    /// `address:port` that packets to it go to; empty while unknown.
    pub endpoint: String,
    /// Prefixes that are its.
    pub allowed_ips: Vec<String>,
    /// Last completed WireGuard handshake.
    pub last_handshake: Option<u64>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// SPIFFE ID whose SVID signed the key; empty where nobody did.
    pub attested_by: String,
    /// Until when the attestation holds.
    pub attested_until: Option<u64>,
    /// The preshared key of the tunnel; none while nothing is agreed on.
    pub preshared: Option<PresharedKey>,
    /// What the path there takes; none while nothing is known of it.
    pub path: Option<PathMtu>,
    /// Why there is no encryption to it; or, where there is a public key, why the one it announces now is refused.
    pub error: Option<String>,
}

/// How large a packet a path takes whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathMtu {
    /// In bytes, IP header included.
    pub mtu: u16,
    /// Whether probes of that size have arrived. If not, it is what the first hop takes.
    pub probed: bool,
}

/// What there is to say about a preshared key, which itself is secret. It comes out of a handshake between the two
/// nodes' SVIDs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PresharedKey {
    /// Since when it is in force.
    pub since: u64,
    /// Until when, unless another one takes its place.
    pub until: u64,
    /// Whether the key exchange it comes out of was hybrid (X25519MLKEM768); unknown for one from before the
    /// agent's start.
    pub post_quantum: Option<bool>,
}
