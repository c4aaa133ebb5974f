//! Reserved security identities, and which identities can prove themselves.

/// Nothing is known about the address.
pub const UNKNOWN: u32 = 0;
/// This node.
pub const HOST: u32 = 1;
/// Outside of the cluster.
pub const WORLD: u32 = 2;
/// A pod that is not managed by us.
pub const UNMANAGED: u32 = 3;
/// Health checks.
pub const HEALTH: u32 = 4;
/// An endpoint whose labels are not known yet.
pub const INIT: u32 = 5;
/// Another node of the cluster.
pub const REMOTE_NODE: u32 = 6;
/// The API server.
pub const KUBE_APISERVER: u32 = 7;
/// The ingress proxy.
pub const INGRESS: u32 = 8;
/// The first identity that stands for labels of pods.
pub const FIRST_POD: u32 = 256;
/// The first identity that is not cluster-wide any more (CIDR identities are local to a node).
pub const FIRST_LOCAL: u32 = 1 << 24;

/// Whether an endpoint with this identity can have an SVID at all: only pods' identities can.
#[must_use]
#[inline(always)]
pub const fn can_authenticate(identity: u32) -> bool {
    identity >= FIRST_POD && identity < FIRST_LOCAL
}

/// Whether the identity is that of a node, whose agents' ports no pod may reach.
#[must_use]
#[inline(always)]
pub const fn is_node(identity: u32) -> bool {
    matches!(identity, HOST | REMOTE_NODE | KUBE_APISERVER)
}
