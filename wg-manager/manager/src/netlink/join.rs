//! From the parts of a dump to the device that they are of.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use countersign_wg_proto::{Observed, Peer, PeerStats, PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardPeer, WireguardPeerAttribute,
};

use super::{Error, Wiped};

/// All parts of a dump. A peer whose prefixes do not fit into one goes on in the next with its key alone.
pub(super) fn join(parts: &[Wiped]) -> Result<Observed, Error> {
    let mut observed = Observed::default();
    for attribute in parts.iter().flat_map(|part| &part.0.attributes) {
        match attribute {
            WireguardAttribute::PrivateKey(key) => {
                let is_set = key.iter().any(|byte| *byte != 0);
                observed.device.private_key = is_set.then(|| PrivateKey::from_bytes(*key));
            }
            WireguardAttribute::ListenPort(port) => observed.device.listen_port = *port,
            WireguardAttribute::Fwmark(mark) => observed.fwmark = *mark,
            WireguardAttribute::Peers(peers) => {
                for peer in peers {
                    join_peer(peer, &mut observed.device.peers, &mut observed.stats)?;
                }
            }
            _ => {}
        }
    }
    Ok(observed)
}

fn join_peer(
    part: &WireguardPeer,
    peers: &mut BTreeMap<PublicKey, Peer>,
    stats: &mut BTreeMap<PublicKey, PeerStats>,
) -> Result<(), Error> {
    let key = part.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey::from_bytes(*key)),
        _ => None,
    });
    let key = key.ok_or_else(|| Error::Malformed("a peer without a key".to_owned()))?;
    let (peer, stats) = (peers.entry(key).or_default(), stats.entry(key).or_default());
    for attribute in part.iter() {
        match attribute {
            WireguardPeerAttribute::PresharedKey(key) => {
                let is_set = key.iter().any(|byte| *byte != 0);
                peer.preshared_key = is_set.then(|| PresharedKey::from_bytes(*key));
            }
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(without_flow(*endpoint)),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive = *seconds,
            WireguardPeerAttribute::LastHandshake(time) => {
                stats.last_handshake_unix = u64::try_from(time.seconds).ok().filter(|seconds| *seconds != 0);
            }
            WireguardPeerAttribute::RxBytes(bytes) => stats.rx_bytes = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => stats.tx_bytes = *bytes,
            WireguardPeerAttribute::AllowedIps(prefixes) => {
                for prefix in prefixes {
                    peer.allowed_ips.insert(net(prefix)?);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A flow label is no part of where a peer is.
fn without_flow(endpoint: SocketAddr) -> SocketAddr {
    match endpoint {
        SocketAddr::V6(mut endpoint) => {
            endpoint.set_flowinfo(0);
            endpoint.into()
        }
        v4 @ SocketAddr::V4(_) => v4,
    }
}

fn net(prefix: &WireguardAllowedIp) -> Result<IpNet, Error> {
    let (mut address, mut length) = (None, None);
    for attribute in prefix.iter() {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => length = Some(*bits),
            _ => {}
        }
    }
    let net = address.zip(length).and_then(|(address, length)| IpNet::new(address, length).ok());
    net.ok_or_else(|| Error::Malformed("an allowed IP that is none".to_owned()))
}
