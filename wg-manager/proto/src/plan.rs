//! From observed to desired, make before break.
//!
//! Order: the device's own settings, then peers and prefixes that appear (a prefix moves from its old
//! owner to its new one in one step, so it is never without), then prefixes that go, then peers that go.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{Device, Op, Peer, PublicKey};

/// Whether anything may be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrink {
    /// The desired state is complete: what it does not name goes.
    Allowed,
    /// The desired state is still being gathered (start-up): only add.
    Forbidden,
}

/// The operations that lead from `observed` to `desired`, in the order in which to do them.
///
/// A desired listen port of 0 and a desired endpoint of `None` accept whatever the device has. The
/// device's own public key is never made a peer of itself.
pub fn plan(desired: &Device, observed: &Device, shrink: Shrink) -> Vec<Op> {
    let mut ops = own_settings(desired, observed);
    let own = desired.private_key.as_ref().map(|key| key.public());
    let wanted = || desired.peers.iter().filter(|(key, _)| Some(**key) != own);
    for (key, peer) in wanted() {
        ops.extend(grow(*key, peer, observed.peers.get(key)));
    }
    if shrink == Shrink::Forbidden {
        return ops;
    }
    let moved: BTreeSet<IpNet> = wanted().flat_map(|(_, peer)| &peer.allowed_ips).copied().collect();
    for (key, peer) in wanted() {
        let Some(seen) = observed.peers.get(key) else { continue };
        ops.extend(drop_prefixes(*key, peer, seen, &moved));
    }
    let gone = observed.peers.keys().filter(|key| Some(**key) == own || !desired.peers.contains_key(key));
    ops.extend(gone.map(|key| Op::RemovePeer { key: *key }));
    ops
}

fn own_settings(desired: &Device, observed: &Device) -> Vec<Op> {
    let mut ops = Vec::new();
    if let Some(key) = &desired.private_key
        && observed.private_key.as_ref() != Some(key)
    {
        ops.push(Op::SetPrivateKey(key.clone()));
    }
    if desired.listen_port != 0 && desired.listen_port != observed.listen_port {
        ops.push(Op::SetListenPort(desired.listen_port));
    }
    ops
}

fn grow(key: PublicKey, peer: &Peer, seen: Option<&Peer>) -> Option<Op> {
    let Some(seen) = seen else { return Some(Op::AddPeer { key, peer: peer.clone() }) };
    let preshared_key = (peer.preshared_key != seen.preshared_key).then(|| peer.preshared_key.clone());
    let endpoint = peer.endpoint.filter(|endpoint| seen.endpoint != Some(*endpoint));
    let keepalive = (peer.keepalive != seen.keepalive).then_some(peer.keepalive);
    let add_allowed_ips: BTreeSet<IpNet> = peer.allowed_ips.difference(&seen.allowed_ips).copied().collect();
    let same = preshared_key.is_none() && endpoint.is_none() && keepalive.is_none();
    if same && add_allowed_ips.is_empty() {
        return None;
    }
    Some(Op::UpdatePeer { key, preshared_key, endpoint, keepalive, add_allowed_ips })
}

/// What the peer has too much. Prefixes in `moved` have left it already, by having been added elsewhere.
fn drop_prefixes(key: PublicKey, peer: &Peer, seen: &Peer, moved: &BTreeSet<IpNet>) -> Option<Op> {
    let surplus = seen.allowed_ips.difference(&peer.allowed_ips);
    let gone: BTreeSet<IpNet> = surplus.filter(|prefix| !moved.contains(prefix)).copied().collect();
    (!gone.is_empty()).then(|| Op::ShrinkAllowedIps { key, keep: peer.allowed_ips.clone(), gone })
}
