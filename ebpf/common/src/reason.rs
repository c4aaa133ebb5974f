//! Why a packet was dropped (or not): one byte, with the field's numbers below 220 and ours from there on.

/// Not dropped.
pub const FORWARDED: u8 = 0;
/// The source MAC is not the endpoint's.
pub const INVALID_SOURCE_MAC: u8 = 130;
/// The destination MAC is not the host's.
pub const INVALID_DESTINATION_MAC: u8 = 131;
/// The source address is not the endpoint's.
pub const INVALID_SOURCE_IP: u8 = 132;
/// No rule allows it.
pub const POLICY_DENIED: u8 = 133;
/// Not a packet at all: lengths or versions contradict each other.
pub const INVALID_PACKET: u8 = 134;
/// The transport header is cut off.
pub const TRUNCATED: u8 = 135;
/// A transport protocol that is not understood.
pub const UNKNOWN_L4: u8 = 142;
/// An `ICMP` type that is not understood.
pub const UNKNOWN_ICMP4_TYPE: u8 = 144;
/// An `ICMPv6` type that is not understood.
pub const UNKNOWN_ICMP6_TYPE: u8 = 146;
/// No local endpoint has the destination address.
pub const STALE_OR_UNROUTABLE: u8 = 151;
/// The connection table took no entry.
pub const CT_INSERT_FAILED: u8 = 155;
/// An IPv6 extension header that is forbidden, in the wrong place, or one too many.
pub const INVALID_EXTENSION_HEADER: u8 = 156;
/// A fragment where there can be none.
pub const FRAG_NOSUPPORT: u8 = 157;
/// The programs have no configuration yet.
pub const NO_CONFIG: u8 = 165;
/// A link-layer protocol other than IPv4, IPv6 and ARP.
pub const UNSUPPORTED_L2: u8 = 166;
/// The identity cannot be used for this.
pub const INVALID_IDENTITY: u8 = 171;
/// A fragment whose first fragment has not been seen.
pub const FRAG_NOT_FOUND: u8 = 175;
/// Neighbour discovery or router messages that an endpoint may not send.
pub const FORBIDDEN_ICMP6: u8 = 176;
/// A rule denies it.
pub const POLICY_DENY: u8 = 181;
/// A VLAN tag.
pub const VLAN: u8 = 182;
/// The pair has not proved itself.
pub const AUTH_REQUIRED: u8 = 189;
/// Pod traffic in the clear.
pub const UNENCRYPTED_TRAFFIC: u8 = 195;
/// Over a rate limit.
pub const RATE_LIMITED: u8 = 198;
/// No endpoint is known behind the interface.
pub const EP_NOT_READY: u8 = 203;
/// Multicast or broadcast; pods make it all the time, so it is counted and never reported.
pub const MULTICAST: u8 = 220;
/// A fragment made to deceive: too small for its transport header, or laid over it (RFC 1858).
pub const FRAG_INVALID: u8 = 221;
/// An ICMP error about no live flow of the endpoint.
pub const ICMP_UNRELATED: u8 = 222;
/// Not dropped: waiting in the agent for its pair's proof.
pub const PARKED: u8 = 223;
/// As [`AUTH_REQUIRED`], and the pair or the endpoint has used up its places.
pub const PARK_FULL: u8 = 224;
/// As [`AUTH_REQUIRED`], and the pair's last handshake failed a short while ago.
pub const AUTH_BACKOFF: u8 = 225;
/// A pod reached for the node agents' own ports.
pub const AGENT_PORT: u8 = 226;
/// As [`AUTH_REQUIRED`], and nothing that anybody does could prove it.
pub const AUTH_IMPOSSIBLE: u8 = 227;
/// A frame on the parking device that we did not park.
pub const PARK_INVALID: u8 = 228;
/// As [`AUTH_REQUIRED`], and the packet has been parked too often already.
pub const PARK_AGAIN: u8 = 229;
/// ARP for an address that is not the endpoint's.
pub const ARP_SPOOF: u8 = 230;

/// Not dropped: went by parked packets of its pair, because there was no place behind them.
pub const OVERTOOK: u8 = 231;

/// Not dropped: policy in audit mode would have.
pub const AUDITED: u8 = 232;

/// The peer's address is one of another node's pods, and nobody has said whose.
pub const ADDRESS_UNKNOWN: u8 = 233;

/// The number the field knows the reason by: ours that are kinds of one of the field's become that.
#[must_use]
#[inline(always)]
pub const fn field_number(reason: u8) -> u8 {
    match reason {
        PARKED | PARK_FULL | AUTH_BACKOFF | AUTH_IMPOSSIBLE | PARK_AGAIN => AUTH_REQUIRED,
        _ => reason,
    }
}

/// Turns a reason that a step gave into a way out.
#[inline(always)]
pub const fn check(reason: u8) -> Result<(), u8> {
    if reason == FORWARDED { Ok(()) } else { Err(reason) }
}

/// All reasons with the words the field uses for them, in the order of their numbers.
pub const ALL: &[(u8, &str)] = &[
    (FORWARDED, "Forwarded"),
    (INVALID_SOURCE_MAC, "Invalid source mac"),
    (INVALID_DESTINATION_MAC, "Invalid destination mac"),
    (INVALID_SOURCE_IP, "Invalid source ip"),
    (POLICY_DENIED, "Policy denied"),
    (INVALID_PACKET, "Invalid packet"),
    (TRUNCATED, "CT: Truncated or invalid header"),
    (UNKNOWN_L4, "Unknown L4 protocol"),
    (UNKNOWN_ICMP4_TYPE, "Unknown ICMPv4 type"),
    (UNKNOWN_ICMP6_TYPE, "Unknown ICMPv6 type"),
    (STALE_OR_UNROUTABLE, "Stale or unroutable IP"),
    (CT_INSERT_FAILED, "CT: Map insertion failed"),
    (INVALID_EXTENSION_HEADER, "Invalid IPv6 extension header"),
    (FRAG_NOSUPPORT, "IP fragmentation not supported"),
    (NO_CONFIG, "No configuration available to perform policy decision"),
    (UNSUPPORTED_L2, "Unsupported L2 protocol"),
    (INVALID_IDENTITY, "Invalid identity"),
    (FRAG_NOT_FOUND, "First logical datagram fragment not found"),
    (FORBIDDEN_ICMP6, "Forbidden ICMPv6 message"),
    (POLICY_DENY, "Policy denied by denylist"),
    (VLAN, "VLAN traffic disallowed by VLAN filter"),
    (AUTH_REQUIRED, "Authentication required"),
    (UNENCRYPTED_TRAFFIC, "Traffic is unencrypted"),
    (RATE_LIMITED, "Rate limited"),
    (EP_NOT_READY, "Endpoint policy program not available"),
    (MULTICAST, "Multicast or broadcast from a pod"),
    (FRAG_INVALID, "Malformed fragment"),
    (ICMP_UNRELATED, "ICMP error unrelated to a live flow"),
    (PARKED, "Parked until authenticated"),
    (PARK_FULL, "Authentication required: parking is full"),
    (AUTH_BACKOFF, "Authentication required: the last handshake failed"),
    (AGENT_PORT, "Node agent's port is closed to pods"),
    (AUTH_IMPOSSIBLE, "Authentication required: the peer cannot authenticate"),
    (PARK_INVALID, "Not a parked frame"),
    (PARK_AGAIN, "Authentication required: parked too often"),
    (ARP_SPOOF, "ARP for another's address"),
    (OVERTOOK, "Went by parked packets of its pair"),
    (AUDITED, "Let through: dropped if policies in audit mode were enforced"),
    (ADDRESS_UNKNOWN, "Address of another node's pod, and not known whose"),
];

/// The field's words for a reason; `"Unknown"` for a number that is none.
#[must_use]
pub fn text(reason: u8) -> &'static str {
    ALL.iter().find(|(number, _)| *number == reason).map_or("Unknown", |(_, text)| text)
}
