//! A kernel that does with messages what Linux does (`drivers/net/wireguard/netlink.c`), and a dump like its own.

use std::collections::{BTreeMap, BTreeSet};

use countersign_wg_proto::{Device, Peer, PeerStats, PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use netlink_packet_core::{
    DoneMessage, Emitable as _, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr as Allowed, WireguardAllowedIpFlags,
    WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute as Of,
    WireguardPeerFlags, WireguardTimeSpec,
};

use crate::netlink::{Error, Wiped, socket};

/// The number of the request that everything answers.
pub const SEQUENCE: u32 = 1;
const FAMILY: u16 = 0x2a;
const ACK: u16 = 4;

/// How a dump fails.
#[derive(Clone, Copy, PartialEq)]
pub enum Cut {
    No,
    /// From this message on it is of another state of the device.
    ChangedAt(usize),
    EndsWith(i32),
}

pub struct FakeKernel {
    device: Device,
    pub stats: BTreeMap<PublicKey, PeerStats>,
    pub fwmark: u32,
    /// Whether it is 6.16 or later.
    knows_flag: bool,
    pub refusals: u32,
    /// What must always be somebody's.
    pub kept: BTreeSet<IpNet>,
}

/// A message as it goes over the socket.
pub fn bytes(message: &Wiped) -> Vec<u8> {
    let mut question = GenlMessage::from_payload(message.0.clone());
    question.set_resolved_family_id(FAMILY);
    socket::encode(&question, ACK, SEQUENCE).to_vec()
}

impl FakeKernel {
    pub fn holding(device: &Device, knows_flag: bool) -> Self {
        let stats = BTreeMap::new();
        Self { device: device.clone(), stats, fwmark: 0, knows_flag, refusals: 0, kept: BTreeSet::new() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn remove_all(&mut self) {
        self.device.peers.clear();
    }

    pub fn set(&mut self, message: &Wiped, limit: usize) -> Result<(), Error> {
        let bytes = bytes(message);
        assert!(bytes.len() <= limit, "{} bytes where {limit} are allowed", bytes.len());
        let message = NetlinkMessage::<GenlMessage<WireguardMessage>>::deserialize(&bytes).unwrap();
        let NetlinkPayload::InnerMessage(message) = message.payload else { panic!("no request") };
        assert_eq!(message.payload.cmd, WireguardCmd::SetDevice);
        for attribute in &message.payload.attributes {
            match attribute {
                WireguardAttribute::IfName(name) => assert_eq!(name, super::DEVICE),
                WireguardAttribute::ListenPort(port) => self.device.listen_port = *port,
                WireguardAttribute::PrivateKey(key) => {
                    self.device.private_key = Some(PrivateKey::from_bytes(*key));
                }
                WireguardAttribute::Peers(peers) => {
                    for peer in peers {
                        self.set_peer(peer).inspect_err(|_| self.refusals += 1)?;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(())
    }

    fn set_peer(&mut self, of: &WireguardPeer) -> Result<(), Error> {
        let mut flags = WireguardPeerFlags::empty();
        let mut key = None;
        for attribute in of.iter() {
            match attribute {
                Of::PublicKey(bytes) => key = Some(PublicKey::from_bytes(*bytes)),
                Of::Flags(given) => flags = *given,
                _ => {}
            }
        }
        let key = key.unwrap();
        let is_there = self.device.peers.contains_key(&key);
        if !is_there && flags.intersects(WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly) {
            return Ok(());
        }
        if flags.contains(WireguardPeerFlags::RemoveMe) {
            let gone = self.device.peers.remove(&key);
            self.lose(gone.iter().flat_map(|peer| &peer.allowed_ips));
            return Ok(());
        }
        let mut replaced = BTreeSet::new();
        let peer = self.device.peers.entry(key).or_default();
        if flags.contains(WireguardPeerFlags::ReplaceAllowedIps) {
            replaced = std::mem::take(&mut peer.allowed_ips);
        }
        for attribute in of.iter() {
            match attribute {
                Of::PresharedKey(bytes) => {
                    let is_set = *bytes != [0; 32];
                    peer.preshared_key = is_set.then(|| PresharedKey::from_bytes(*bytes));
                }
                Of::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
                Of::PersistentKeepalive(seconds) => peer.keepalive = *seconds,
                _ => {}
            }
        }
        self.lose(&replaced);
        let prefixes = of.iter().filter_map(|attribute| match attribute {
            Of::AllowedIps(prefixes) => Some(prefixes),
            _ => None,
        });
        prefixes.flatten().try_for_each(|prefix| self.set_prefix(key, prefix))
    }

    fn set_prefix(&mut self, key: PublicKey, of: &WireguardAllowedIp) -> Result<(), Error> {
        let (mut address, mut bits, mut flags) = (None, None, WireguardAllowedIpFlags::empty());
        for attribute in of.iter() {
            match attribute {
                Allowed::IpAddr(ip) => address = Some(*ip),
                Allowed::Cidr(length) => bits = Some(*length),
                Allowed::Flags(_) if !self.knows_flag => {
                    return Err(Error::Refused { doing: "changing".to_owned(), errno: libc::EINVAL });
                }
                Allowed::Flags(given) => flags = *given,
                Allowed::Family(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let net = IpNet::new(address.unwrap(), bits.unwrap()).unwrap();
        if flags.contains(WireguardAllowedIpFlags::RemoveMe) {
            let had = self.device.peers.get_mut(&key).unwrap().allowed_ips.remove(&net);
            self.lose(had.then_some(&net));
        } else {
            for (other, peer) in &mut self.device.peers {
                if *other == key {
                    peer.allowed_ips.insert(net);
                } else {
                    peer.allowed_ips.remove(&net);
                }
            }
        }
        Ok(())
    }

    /// Prefixes that become nobody's.
    fn lose<'a>(&self, nets: impl IntoIterator<Item = &'a IpNet>) {
        for net in nets {
            assert!(!self.kept.contains(net), "{net} is nobody's for a moment");
        }
    }

    /// A dump in datagrams of some `room` bytes each, one message in each, and the end.
    pub fn dump(&self, room: usize, cut: Cut) -> Vec<Vec<u8>> {
        let mut parts = vec![self.own()];
        for (key, peer) in &self.device.peers {
            let mut left: Vec<&IpNet> = peer.allowed_ips.iter().collect();
            let mut head = self.head(key, peer);
            loop {
                let used = size(parts.last().unwrap()) + head.as_slice().buffer_len();
                let count = room.saturating_sub(used) / 48;
                if count == 0 && parts.last().unwrap().len() > usize::from(parts.len() == 1) * 4 {
                    parts.push(Vec::new());
                    continue;
                }
                let now = left.drain(..left.len().min(count.max(1))).map(allowed).collect();
                head.push(Of::AllowedIps(now));
                push(parts.last_mut().unwrap(), WireguardPeer(head));
                if left.is_empty() {
                    break;
                }
                parts.push(Vec::new());
                head = vec![Of::PublicKey(*key.as_bytes())];
            }
        }
        let count = parts.len();
        let changed = |at: usize| matches!(cut, Cut::ChangedAt(from) if from <= at);
        let flags = |at: usize| NLM_F_MULTIPART | if changed(at) { NLM_F_DUMP_INTR } else { 0 };
        let mut datagrams: Vec<Vec<u8>> = parts
            .into_iter()
            .enumerate()
            .map(|(at, attributes)| {
                let message = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
                let mut answer = GenlMessage::from_payload(message);
                answer.set_resolved_family_id(FAMILY);
                socket::encode(&answer, flags(at), SEQUENCE).to_vec()
            })
            .collect();
        let mut done = DoneMessage::default();
        if let Cut::EndsWith(code) = cut {
            done.code = code;
        }
        let mut header = NetlinkHeader::default();
        (header.sequence_number, header.flags) = (SEQUENCE, flags(count));
        let mut end =
            NetlinkMessage::<GenlMessage<WireguardMessage>>::new(header, NetlinkPayload::Done(done));
        end.finalize();
        let mut bytes = vec![0; end.buffer_len()];
        end.serialize(&mut bytes);
        datagrams.push(bytes);
        datagrams
    }

    fn own(&self) -> Vec<WireguardAttribute> {
        let key = self.device.private_key.as_ref();
        let mut own = vec![
            WireguardAttribute::ListenPort(self.device.listen_port),
            WireguardAttribute::Fwmark(self.fwmark),
            WireguardAttribute::IfIndex(7),
            WireguardAttribute::IfName(super::DEVICE.to_owned()),
        ];
        own.extend(key.map(|key| WireguardAttribute::PrivateKey(*key.expose())));
        own
    }

    fn head(&self, key: &PublicKey, peer: &Peer) -> Vec<Of> {
        let stats = self.stats.get(key).copied().unwrap_or_default();
        let seconds = stats.last_handshake_unix.unwrap_or_default() as i64;
        let mut head = vec![
            Of::PublicKey(*key.as_bytes()),
            Of::PresharedKey(peer.preshared_key.as_ref().map_or([0; 32], |key| *key.expose())),
            Of::LastHandshake(WireguardTimeSpec { seconds, nano_seconds: 5 }),
            Of::PersistentKeepalive(peer.keepalive),
            Of::TxBytes(stats.tx_bytes),
            Of::RxBytes(stats.rx_bytes),
            Of::ProtocolVersion(1),
        ];
        head.extend(peer.endpoint.map(Of::Endpoint));
        head
    }
}

fn push(part: &mut Vec<WireguardAttribute>, peer: WireguardPeer) {
    match part.last_mut() {
        Some(WireguardAttribute::Peers(peers)) => peers.push(peer),
        _ => part.push(WireguardAttribute::Peers(vec![peer])),
    }
}

fn size(part: &[WireguardAttribute]) -> usize {
    part.buffer_len()
}

fn allowed(net: &IpNet) -> WireguardAllowedIp {
    let family = match net {
        IpNet::V4(_) => WireguardAddressFamily::Ipv4,
        IpNet::V6(_) => WireguardAddressFamily::Ipv6,
    };
    let bits = Allowed::Cidr(net.prefix_len());
    WireguardAllowedIp(vec![bits, Allowed::Family(family), Allowed::IpAddr(net.network())])
}
