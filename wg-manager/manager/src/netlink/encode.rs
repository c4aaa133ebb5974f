//! From operations to messages, each small enough for the kernel.
//!
//! A message is not carried out as a whole: the kernel does one attribute after the other. So a peer may be spread
//! over several, and an operation is never undone by a later part of it.

use countersign_wg_proto::{Op, Peer, PresharedKey, PublicKey};
use ipnet::IpNet;
use netlink_packet_core::{Emitable as _, Nla};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAllowedIpFlags,
    WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};

use super::Wiped;

/// How a peer loses a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// By `WGALLOWEDIP_F_REMOVE_ME`: Linux 6.16 and later.
    ByFlag,
    /// It moves to a peer that is nobody, in one step, and goes with that. To replace all prefixes that the peer
    /// has would take away for a moment those that it keeps, and they may be too many for one message.
    ByMoving,
}

/// No private key has this public key, so nobody is spoken to by it.
const NOBODY: PublicKey = PublicKey::from_bytes([0; 32]);

/// Whether a refusal with this number means that the kernel does not know the flag. Before 6.16 its policy ends
/// before the flags' attribute, and validation is strict (`EINVAL`); flags that it does not know are `EOPNOTSUPP`.
pub(super) fn means_no_such_flag(errno: i32) -> bool {
    errno == libc::EINVAL || errno == libc::EOPNOTSUPP
}

/// The messages that do `ops` to `device`, in order, none of them longer than `limit`.
pub(super) fn encode(device: &str, ops: &[Op], removal: Removal, limit: usize) -> Vec<Wiped> {
    let mut batch = Batch::new(device, limit);
    for op in ops {
        batch.op(op, removal);
    }
    batch.flush();
    batch.done
}

/// Messages in the making.
struct Batch<'a> {
    device: &'a str,
    limit: usize,
    done: Vec<Wiped>,
    /// What the device itself gets in the next message: the kernel does that before the peers.
    own: Vec<WireguardAttribute>,
    peers: Vec<WireguardPeer>,
    size: usize,
}

impl<'a> Batch<'a> {
    fn new(device: &'a str, limit: usize) -> Self {
        let mut batch = Self { device, limit, done: Vec::new(), own: Vec::new(), peers: Vec::new(), size: 0 };
        batch.size = batch.empty();
        batch
    }

    /// The size of a message with nothing in it: headers, the device's name, and the frame around the peers.
    fn empty(&self) -> usize {
        const HEADERS: usize = 16 + 4;
        HEADERS + nla_size(&WireguardAttribute::IfName(self.device.to_owned())) + 4
    }

    fn flush(&mut self) {
        if self.own.is_empty() && self.peers.is_empty() {
            return;
        }
        let mut attributes = vec![WireguardAttribute::IfName(self.device.to_owned())];
        attributes.append(&mut self.own);
        if !self.peers.is_empty() {
            attributes.push(WireguardAttribute::Peers(std::mem::take(&mut self.peers)));
        }
        self.done.push(Wiped(WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }));
        self.size = self.empty();
    }

    fn op(&mut self, op: &Op, removal: Removal) {
        match op {
            Op::SetPrivateKey(key) => self.own(WireguardAttribute::PrivateKey(*key.expose())),
            Op::SetListenPort(port) => self.own(WireguardAttribute::ListenPort(*port)),
            Op::AddPeer { key, peer } => {
                self.peer(key, new_peer(key, peer), &prefixes(&peer.allowed_ips, None));
            }
            Op::UpdatePeer { key, preshared_key, endpoint, keepalive, add_allowed_ips } => {
                let mut head = existing(key);
                head.extend(preshared_key.as_ref().map(|key| preshared(key.as_ref())));
                head.extend(endpoint.map(WireguardPeerAttribute::Endpoint));
                head.extend(keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
                self.peer(key, head, &prefixes(add_allowed_ips, None));
            }
            Op::ShrinkAllowedIps { key, gone, .. } => match removal {
                Removal::ByFlag => {
                    let flags = Some(WireguardAllowedIpFlags::RemoveMe);
                    self.peer(key, existing(key), &prefixes(gone, flags));
                }
                Removal::ByMoving => {
                    self.peer(&NOBODY, vec![public(&NOBODY)], &prefixes(gone, None));
                    self.remove(&NOBODY);
                }
            },
            Op::RemovePeer { key } => self.remove(key),
        }
    }

    fn own(&mut self, attribute: WireguardAttribute) {
        // In its place among the operations: peers of one message come after all of these.
        let twice = self.own.iter().any(|other| other.kind() == attribute.kind());
        if twice || !self.peers.is_empty() {
            self.flush();
        }
        self.size += nla_size(&attribute);
        self.own.push(attribute);
    }

    fn remove(&mut self, key: &PublicKey) {
        self.peer(key, vec![public(key), flags(WireguardPeerFlags::RemoveMe)], &[]);
    }

    /// A peer, in as many parts as it needs. What `head` says is said once; a peer that is removed in between by
    /// somebody else does not come back with half its prefixes.
    fn peer(
        &mut self,
        key: &PublicKey,
        mut head: Vec<WireguardPeerAttribute>,
        mut prefixes: &[WireguardAllowedIp],
    ) {
        loop {
            // The frames around the peer and around its prefixes.
            let frame = 4 + head.as_slice().buffer_len() + if prefixes.is_empty() { 0 } else { 4 };
            let room = self.limit.saturating_sub(self.size + frame);
            let fitting = fitting(prefixes, room);
            let holds = self.size + frame <= self.limit && (fitting > 0 || prefixes.is_empty());
            let is_empty = self.peers.is_empty() && self.own.is_empty();
            if !holds && !is_empty {
                self.flush();
                continue;
            }
            // A message of its own holds at least one, whatever the limit.
            let (now, later) = prefixes.split_at(fitting.max(1).min(prefixes.len()));
            if !now.is_empty() {
                head.push(WireguardPeerAttribute::AllowedIps(now.to_vec()));
            }
            let peer = WireguardPeer(head);
            self.size += nla_size(&peer);
            self.peers.push(peer);
            if later.is_empty() {
                return;
            }
            self.flush();
            (head, prefixes) = (existing(key), later);
        }
    }
}

/// How many of the first prefixes fit into `room`.
fn fitting(prefixes: &[WireguardAllowedIp], room: usize) -> usize {
    let mut left = room;
    let fits = |prefix: &&WireguardAllowedIp| {
        let size = nla_size(*prefix);
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    prefixes.iter().take_while(fits).count()
}

/// An attribute's header is four bytes, and its end a multiple of four.
fn nla_size(attribute: &impl Nla) -> usize {
    4 + attribute.value_len().next_multiple_of(4)
}

fn public(key: &PublicKey) -> WireguardPeerAttribute {
    WireguardPeerAttribute::PublicKey(*key.as_bytes())
}

fn flags(flags: WireguardPeerFlags) -> WireguardPeerAttribute {
    WireguardPeerAttribute::Flags(flags)
}

/// Names a peer that is to be changed only if it is still there.
fn existing(key: &PublicKey) -> Vec<WireguardPeerAttribute> {
    head(key, WireguardPeerFlags::UpdateOnly)
}

/// With room for all there may be: what grows leaves copies of keys behind.
fn head(key: &PublicKey, of: WireguardPeerFlags) -> Vec<WireguardPeerAttribute> {
    let mut head = Vec::with_capacity(8);
    head.extend([public(key), flags(of)]);
    head
}

fn new_peer(key: &PublicKey, peer: &Peer) -> Vec<WireguardPeerAttribute> {
    let mut head = head(key, WireguardPeerFlags::ReplaceAllowedIps);
    head.push(preshared(peer.preshared_key.as_ref()));
    head.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
    head.push(WireguardPeerAttribute::PersistentKeepalive(peer.keepalive));
    head
}

/// All zeros is no key.
fn preshared(key: Option<&PresharedKey>) -> WireguardPeerAttribute {
    WireguardPeerAttribute::PresharedKey(key.map_or([0; 32], |key| *key.expose()))
}

fn prefixes<'a>(
    nets: impl IntoIterator<Item = &'a IpNet>,
    flags: Option<WireguardAllowedIpFlags>,
) -> Vec<WireguardAllowedIp> {
    let prefix = |net: &IpNet| {
        let family = match net {
            IpNet::V4(_) => WireguardAddressFamily::Ipv4,
            IpNet::V6(_) => WireguardAddressFamily::Ipv6,
        };
        let mut attributes = vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(net.network()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ];
        attributes.extend(flags.map(WireguardAllowedIpAttr::Flags));
        WireguardAllowedIp(attributes)
    };
    nets.into_iter().map(prefix).collect()
}
