//! The device's configuration, and the crate's device that carries it out.
//!
//! The configuration kept here is the one that counts: the crate's device exists only while there is a
//! private key, and does not move prefixes between peers by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_wg_proto::uapi::{SetPeer, SetRequest};
use countersign_wg_proto::{Device as Config, Observed, Peer, PeerStats, PrivateKey, PublicKey};
use gotatun::device::configure::{DeviceWrite, PeerMut};
use gotatun::device::{self, Device};
use gotatun::x25519;
use ipnet::IpNet;
use ipnetwork::IpNetwork;
use tokio::time::timeout;

use crate::limits::PUSH_TIMEOUT;
use crate::tun::{Reader, Tun};
use crate::udp::Factory;

type Transports = (Factory, Tun, Reader);

/// The device.
pub struct Plane {
    tun: Tun,
    config: Config,
    fwmark: u32,
    running: Option<Device<Transports>>,
    /// Unix seconds of every peer's last handshake that was seen.
    handshakes: BTreeMap<PublicKey, u64>,
}

/// Why a configuration could not be set, as an errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Plane {
    /// A device without key and peers.
    pub fn new(tun: Tun) -> Self {
        Self { tun, config: Config::default(), fwmark: 0, running: None, handshakes: BTreeMap::new() }
    }

    /// Stop carrying packets.
    pub async fn stop(&mut self) {
        if let Some(device) = self.running.take() {
            device.stop().await;
        }
    }

    /// Do what was asked. All of it takes effect between two packets.
    pub async fn set(&mut self, request: SetRequest) -> Result<(), Errno> {
        let before = self.config.clone();
        let mut after = before.clone();
        if let Some(key) = &request.private_key {
            after.private_key.clone_from(key);
        }
        if let Some(port) = request.listen_port {
            after.listen_port = port;
        }
        let fwmark = request.fwmark.unwrap_or(self.fwmark);
        set_peers(&mut after, &request);
        let changed = self.carry_out(&before, &after, fwmark, &request).await;
        if changed.is_ok() {
            self.config = after;
            self.fwmark = fwmark;
        }
        self.handshakes.retain(|key, _| self.config.peers.contains_key(key));
        changed
    }

    /// Starts the crate's device with the first key, stops it when the key goes, changes it otherwise.
    async fn carry_out(
        &mut self,
        before: &Config,
        after: &Config,
        fwmark: u32,
        request: &SetRequest,
    ) -> Result<(), Errno> {
        let Some(key) = &after.private_key else {
            self.stop().await;
            return Ok(());
        };
        let (device, before, mark) = match self.running.take() {
            Some(device) => (device, before, self.fwmark),
            None => (self.start().await?, &Config::default(), 0),
        };
        if let Err(error) = write(&device, before, after, (mark, fwmark), request).await {
            tracing::warn!(%error, "the device could not be configured");
            if before.private_key.is_some() {
                self.restore(device, before.listen_port).await;
            }
            return Err(errno(&error));
        }
        self.running = Some(device);
        tracing::debug!(public_key = %key.public(), "configured");
        Ok(())
    }

    /// The port could not be had, and the sockets are closed: open them where they were.
    async fn restore(&mut self, device: Device<Transports>, port: u16) {
        let restored = device.write(async |device| device.set_listen_port(port)).await;
        if let Err(error) = restored {
            tracing::error!(%error, port, "the old port cannot be had either");
        }
        self.running = Some(device);
    }

    async fn start(&self) -> Result<Device<Transports>, Errno> {
        let builder =
            device::build().with_udp(Factory::default()).with_ip_pair(self.tun.clone(), self.tun.reader());
        builder.build().await.map_err(|error| {
            tracing::error!(%error, "the device could not be started");
            errno(&error)
        })
    }

    /// Everything there is to know.
    pub async fn get(&mut self) -> Observed {
        let mut observed =
            Observed { device: self.config.clone(), fwmark: self.fwmark, stats: BTreeMap::new() };
        let Some(running) = &self.running else { return observed };
        let (port, peers) = running.read(async |device| (device.listen_port(), device.peers().await)).await;
        observed.device.listen_port = port;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for live in peers {
            let key = PublicKey::from_bytes(live.peer.public_key.to_bytes());
            let Some(peer) = observed.device.peers.get_mut(&key) else { continue };
            peer.endpoint = live.peer.endpoint;
            if let Some(age) = live.stats.last_handshake {
                remember(self.handshakes.entry(key).or_default(), now.saturating_sub(age));
            }
            observed.stats.insert(
                key,
                PeerStats {
                    last_handshake_unix: self.handshakes.get(&key).copied(),
                    rx_bytes: live.stats.rx_bytes as u64,
                    tx_bytes: live.stats.tx_bytes as u64,
                },
            );
        }
        observed
    }

    /// Start a handshake with every peer that should have a session and has none.
    pub async fn push(&self) {
        let Some(device) = &self.running else { return };
        for live in device.peers().await {
            let kept = live.peer.keepalive.is_some_and(|seconds| seconds > 0);
            if kept && live.peer.endpoint.is_some() && live.stats.last_handshake.is_none() {
                // Sends the first message, if none is under way, and then waits for the end: not needed.
                let _ = timeout(PUSH_TIMEOUT, device.force_handshake(&live.peer.public_key)).await;
            }
        }
    }
}

/// The clocks' rounding must not make an old handshake look like a new one.
fn remember(last: &mut u64, at: Duration) {
    let at = (at + Duration::from_millis(500)).as_secs();
    if at.abs_diff(*last) > 1 {
        *last = at;
    }
}

/// What the peer sections of a request do to the configuration. A prefix has one owner: adding it to a peer
/// takes it from the one that had it.
fn set_peers(config: &mut Config, request: &SetRequest) {
    if request.replace_peers {
        config.peers.clear();
    }
    let own = config.private_key.as_ref().map(PrivateKey::public);
    if let Some(own) = own {
        config.peers.remove(&own);
    }
    let mut owners: BTreeMap<IpNet, PublicKey> = BTreeMap::new();
    for (key, peer) in &config.peers {
        owners.extend(peer.allowed_ips.iter().map(|net| (*net, *key)));
    }
    for section in &request.peers {
        let known = config.peers.contains_key(&section.public_key);
        if section.remove {
            let gone = config.peers.remove(&section.public_key).unwrap_or_default();
            owners.retain(|net, _| !gone.allowed_ips.contains(net));
        } else if Some(section.public_key) != own && (known || !section.update_only) {
            set_peer(config, &mut owners, section);
        }
    }
}

/// One peer section: made if need be, changed where it says so.
fn set_peer(config: &mut Config, owners: &mut BTreeMap<IpNet, PublicKey>, section: &SetPeer) {
    let peer = config.peers.entry(section.public_key).or_default();
    if let Some(preshared_key) = &section.preshared_key {
        peer.preshared_key.clone_from(preshared_key);
    }
    peer.endpoint = section.endpoint.or(peer.endpoint);
    peer.keepalive = section.keepalive.unwrap_or(peer.keepalive);
    if section.replace_allowed_ips {
        let all = std::mem::take(&mut peer.allowed_ips);
        owners.retain(|net, _| !all.contains(net));
    }
    for (net, add) in &section.allowed_ips {
        let owner = owners.get(net).copied();
        if *add {
            if let Some(other) = owner.and_then(|owner| config.peers.get_mut(&owner)) {
                other.allowed_ips.remove(net);
            }
            owners.insert(*net, section.public_key);
            config.peers.entry(section.public_key).or_default().allowed_ips.insert(*net);
        } else if owner == Some(section.public_key) {
            owners.remove(net);
            config.peers.entry(section.public_key).or_default().allowed_ips.remove(net);
        }
    }
}

/// Bring the crate's device from `before` to `after`, under one lock.
async fn write(
    device: &Device<Transports>,
    before: &Config,
    after: &Config,
    (old_mark, new_mark): (u32, u32),
    request: &SetRequest,
) -> Result<(), device::Error> {
    let marked = device.write(async |device| {
        if before.private_key != after.private_key
            && let Some(key) = &after.private_key
        {
            device.set_private_key(x25519::StaticSecret::from(*key.expose())).await;
        }
        if request.listen_port.is_some() || before.listen_port != after.listen_port {
            device.set_listen_port(after.listen_port);
        }
        write_peers(device, before, after, request).await;
        if old_mark == new_mark { Ok(()) } else { device.set_fwmark(new_mark) }
    });
    marked.await?
}

async fn write_peers(
    device: &mut DeviceWrite<'_, Transports>,
    before: &Config,
    after: &Config,
    request: &SetRequest,
) {
    // A peer that was removed and added again in one request loses its session, as in the kernel.
    let dropped: BTreeSet<PublicKey> =
        request.peers.iter().filter(|section| section.remove).map(|section| section.public_key).collect();
    let fresh = |key: &PublicKey| request.replace_peers || dropped.contains(key);
    for key in before.peers.keys().filter(|key| fresh(key) || !after.peers.contains_key(key)) {
        device.remove_peer(&x25519::PublicKey::from(*key.as_bytes())).await;
    }
    let named: BTreeSet<PublicKey> = request.peers.iter().map(|section| section.public_key).collect();
    for (key, peer) in &after.peers {
        match before.peers.get(key).filter(|_| !fresh(key)) {
            // Named again: its endpoint is set again, also if the peer has roamed since.
            Some(old) if old != peer || named.contains(key) => {
                let key = x25519::PublicKey::from(*key.as_bytes());
                let endpoint = request_endpoint(request, &key);
                device.modify_peer(&key, |modify| change(modify, old, peer, endpoint)).await;
            }
            Some(_) => {}
            None => {
                device.add_peer(new_peer(key, peer));
            }
        }
    }
}

/// The endpoint a request names for a peer: that of its last section that has one.
fn request_endpoint(request: &SetRequest, key: &x25519::PublicKey) -> Option<std::net::SocketAddr> {
    let sections = request.peers.iter().filter(|section| section.public_key.as_bytes() == key.as_bytes());
    sections.filter_map(|section| section.endpoint).next_back()
}

/// Only what differs: setting a value anew is not free of effects in the core.
fn change(modify: &mut PeerMut, old: &Peer, new: &Peer, endpoint: Option<std::net::SocketAddr>) {
    if old.preshared_key != new.preshared_key {
        modify.set_preshared_key(new.preshared_key.as_ref().map(|key| *key.expose()));
    }
    if old.keepalive != new.keepalive {
        modify.set_keepalive(Some(new.keepalive));
    }
    if endpoint.is_some() {
        modify.set_endpoint(endpoint);
    }
    if old.allowed_ips != new.allowed_ips {
        modify.clear_allowed_ips();
        modify.add_allowed_ips(new.allowed_ips.iter().map(network));
    }
}

fn new_peer(key: &PublicKey, peer: &Peer) -> device::Peer {
    let mut new = device::Peer::new(x25519::PublicKey::from(*key.as_bytes()));
    new.endpoint = peer.endpoint;
    new.preshared_key = peer.preshared_key.as_ref().map(|key| *key.expose());
    new.keepalive = (peer.keepalive > 0).then_some(peer.keepalive);
    new.with_allowed_ips(peer.allowed_ips.iter().map(network))
}

/// The core's type for a prefix. Lengths are valid in both.
fn network(net: &IpNet) -> IpNetwork {
    match net {
        IpNet::V4(net) => IpNetwork::V4(
            ipnetwork::Ipv4Network::new_checked(net.network(), net.prefix_len())
                .unwrap_or_else(|| net.network().into()),
        ),
        IpNet::V6(net) => IpNetwork::V6(
            ipnetwork::Ipv6Network::new_checked(net.network(), net.prefix_len())
                .unwrap_or_else(|| net.network().into()),
        ),
    }
}

/// What the tools print: the system's own reason where there is one.
fn errno(error: &device::Error) -> Errno {
    let io = match error {
        device::Error::Bind(error, _) | device::Error::IoError(error) => error.raw_os_error(),
        _ => None,
    };
    Errno(io.unwrap_or(libc::EIO))
}
