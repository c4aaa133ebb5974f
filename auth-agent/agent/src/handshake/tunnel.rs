//! What two nodes' handshake gives to WireGuard: a preshared key that only these two, as their SVIDs say, can
//! have, bound to the very keys of the tunnel it is for.

use countersign_wg_proto::{PresharedKey, PublicKey};
use rustls::{ConnectionCommon, NamedGroup};
use zeroize::Zeroize as _;

use super::message::{MessageError, wire};

/// The exporter's label (RFC 8446, section 7.5; RFC 5705 reserves this beginning for private use).
const LABEL: &[u8] = b"EXPERIMENTAL countersign wireguard preshared key";

/// The tunnel that a key is for: what each of the nodes takes for its own and for the other's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The end of the node that asks.
    pub client: End,
    /// The end of the node that is asked.
    pub server: End,
}

/// One end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The node's WireGuard key.
    pub public_key: PublicKey,
    /// Its epoch.
    pub epoch: u64,
}

/// A preshared key out of a handshake.
#[derive(Debug)]
pub struct Exported {
    /// The key.
    pub key: PresharedKey,
    /// Whether the key exchange was hybrid.
    pub post_quantum: bool,
}

impl Tunnel {
    /// The key of a session that is through: both sides get the same one if they are the same two nodes and mean
    /// the same tunnel.
    pub(super) fn export<Data>(
        &self,
        session: &ConnectionCommon<Data>,
        nodes: [&str; 2],
    ) -> Result<Exported, rustls::Error> {
        let mut bytes = [0; 32];
        session.export_keying_material(&mut bytes, LABEL, Some(&self.context(nodes)))?;
        let key = PresharedKey::from_bytes(bytes);
        bytes.zeroize();
        let group = session.negotiated_key_exchange_group().map(|group| group.name());
        Ok(Exported { key, post_quantum: group == Some(NamedGroup::X25519MLKEM768) })
    }

    /// Both nodes' names, keys and epochs, the client's first. Names are at most 253 bytes.
    fn context(&self, nodes: [&str; 2]) -> Vec<u8> {
        let mut context = Vec::new();
        for (name, end) in nodes.into_iter().zip([self.client, self.server]) {
            context.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            context.extend_from_slice(name.as_bytes());
            context.extend_from_slice(end.public_key.as_bytes());
            context.extend_from_slice(&end.epoch.to_be_bytes());
        }
        context
    }

    pub(super) fn to_wire(&self) -> wire::Tunnel {
        wire::Tunnel {
            client_key: self.client.public_key.as_bytes().to_vec(),
            client_epoch: self.client.epoch,
            server_key: self.server.public_key.as_bytes().to_vec(),
            server_epoch: self.server.epoch,
        }
    }

    pub(super) fn from_wire(wire: &wire::Tunnel) -> Result<Self, MessageError> {
        let end = |key: &[u8], epoch| {
            let key = <[u8; 32]>::try_from(key).map_err(|_| MessageError::WireguardKey)?;
            Ok(End { public_key: PublicKey::from_bytes(key), epoch })
        };
        Ok(Self {
            client: end(&wire.client_key, wire.client_epoch)?,
            server: end(&wire.server_key, wire.server_epoch)?,
        })
    }
}
