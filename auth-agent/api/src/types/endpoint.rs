//! `countersign endpoint list`, `identity list`, and the address cache.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Answer to [`crate::Request::EndpointAdd`]: enforcement is in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointAdded {
    /// Slot of the endpoint.
    pub id: u16,
    /// Its identity.
    pub identity: u32,
}

/// One endpoint of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointEntry {
    /// Slot of the endpoint.
    pub id: u16,
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Security identity; 0 while it has none.
    pub identity: u32,
    /// Identity labels.
    pub labels: Vec<String>,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// MAC address of the pod's end.
    pub mac: String,
    /// Name of the host's end.
    pub interface: String,
    /// Whether a policy restricts what comes in.
    pub ingress_enforced: bool,
    /// Whether a policy restricts what goes out.
    pub egress_enforced: bool,
    /// Whether policies in audit mode would restrict what comes in, and none that is enforced does.
    pub ingress_audited: bool,
    /// The same of what goes out.
    pub egress_audited: bool,
    /// `enforce`, or `audit`: policies drop nothing at this endpoint.
    pub mode: String,
    /// Whether some rule asks for authentication.
    pub auth_required: bool,
    /// `ready`, `regenerating`, `waiting-for-identity`, …
    pub state: String,
    /// When its SVID expires; none without one.
    pub svid_expiry: Option<u64>,
    /// Why it has no SVID.
    pub svid_error: Option<String>,
}

/// One security identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentityEntry {
    /// Its number.
    pub id: u32,
    /// Labels it stands for.
    pub labels: Vec<String>,
    /// SPIFFE ID it proves itself with; empty for reserved ones.
    pub spiffe_id: String,
    /// Endpoints of this node that have it.
    pub local_endpoints: u64,
    /// When the SVID held for it expires; none where this node holds none.
    pub svid_expiry: Option<u64>,
}

/// One address or prefix and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpcacheEntry {
    /// Address, or first address of the prefix.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub prefix_len: u8,
    /// Security identity.
    pub identity: u32,
    /// Node it is on; empty where it is on none of ours.
    #[serde(default)]
    pub node: String,
    /// Whether traffic to it must be encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// Whether it is on this node.
    #[serde(default)]
    pub local: bool,
}
