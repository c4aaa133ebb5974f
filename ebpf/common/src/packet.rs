//! What a packet says: the facts a verdict is made of.

use crate::addr::{Addr, V4};
use crate::ct::{CtKey, role};
use crate::policy::direction;
use crate::proto;
use crate::proto::tcp;

/// What kind of thing the packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Belongs to a flow by its protocol and ports (0 where the protocol has none).
    #[default]
    Flow,
    /// An echo request; the source port is its identifier, the destination port its type.
    EchoRequest,
    /// An echo reply; ports as above.
    EchoReply,
    /// An ICMP error about another packet.
    Error,
    /// Neighbour or router discovery; the destination port is the type.
    Neighbour,
    /// Multicast group management.
    Group,
    /// A fragment that is not the first: its ports are yet to be found.
    LaterFragment,
}

/// The facts. Ports are big endian as in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Packet {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification of the datagram, if it is a fragment.
    pub fragment_id: u32,
    /// Where the transport header starts.
    pub transport: u32,
    /// Bytes from there to the end of the packet.
    pub available: u32,
    /// Offset of this fragment in its datagram, in bytes.
    pub fragment_offset: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// 4 or 6.
    pub family: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Time to live, hop limit.
    pub hops: u8,
    /// More fragments follow this one.
    pub more_fragments: bool,
    /// What kind of thing it is.
    pub kind: Kind,
}

impl Packet {
    /// It is the first fragment of several.
    #[must_use]
    #[inline(always)]
    pub const fn is_first_fragment(&self) -> bool {
        self.more_fragments && self.fragment_offset == 0
    }

    /// Asks to open a TCP connection.
    #[must_use]
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// The peer's address, seen from the endpoint.
    #[must_use]
    #[inline(always)]
    pub const fn remote(&self, direction: u8) -> Addr {
        if direction == direction::EGRESS { self.destination } else { self.source }
    }

    /// Whether it goes to more than one receiver.
    #[must_use]
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        let [first, ..] = self.destination.words[0].to_ne_bytes();
        // 255.255.255.255 is within the range above 224.0.0.0, as is the reserved class E.
        if self.family == V4 { first >= 224 } else { first == 0xff }
    }

    /// The flow it belongs to, oriented by the endpoint.
    #[must_use]
    #[inline(always)]
    pub const fn flow(&self, slot: u16, direction: u8) -> CtKey {
        let egress = direction == direction::EGRESS;
        let remote = self.remote(direction);
        let asks = match self.kind {
            Kind::EchoRequest => true,
            Kind::EchoReply => false,
            _ => {
                let (local_port, remote_port) = if egress {
                    (self.source_port, self.destination_port)
                } else {
                    (self.destination_port, self.source_port)
                };
                return CtKey {
                    remote,
                    local_port,
                    remote_port,
                    slot,
                    protocol: self.protocol,
                    role: role::NONE,
                };
            }
        };
        let role = if asks == egress { role::LOCAL_ASKS } else { role::REMOTE_ASKS };
        CtKey { remote, local_port: self.source_port, remote_port: 0, slot, protocol: self.protocol, role }
    }
}

/// The port that policy is asked about when a flow is opened in the direction: the opener's destination, or
/// the type of an echo request. Big endian.
#[must_use]
#[inline(always)]
pub const fn policy_port(key: &CtKey, family: u8, opened: u8) -> u16 {
    if key.role != role::NONE {
        return echo_request(family).to_be();
    }
    if opened == direction::EGRESS { key.remote_port } else { key.local_port }
}

/// Type of an echo request.
#[must_use]
#[inline(always)]
pub const fn echo_request(family: u8) -> u16 {
    if family == V4 { 8 } else { 128 }
}

/// Type of an echo reply.
#[must_use]
#[inline(always)]
pub const fn echo_reply(family: u8) -> u16 {
    if family == V4 { 0 } else { 129 }
}

/// Whether fragments of the protocol need the first one's ports.
#[must_use]
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP | proto::UDP_LITE | proto::ICMP | proto::ICMP6)
}
