//! The device's configuration, and how the threads that carry packets come to know it.
//!
//! The configuration kept here is the one that counts; the threads see of it what they need, always whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use countersign_wg_core::{Guard, Identity};
use countersign_wg_proto::uapi::{SetPeer, SetRequest};
use countersign_wg_proto::{Device as Config, Observed, Peer, PeerStats, PrivateKey, PublicKey};
use ipnet::IpNet;

use crate::clock;
use crate::device::{Device, PeerCell, Table, lock, random};
use crate::receive;
use crate::socket::Socket;

/// The device's configuration.
pub struct Plane {
    device: Arc<Device>,
    config: Config,
    fwmark: u32,
}

/// Why a configuration could not be set, as an errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Plane {
    /// A device without key and peers.
    pub fn new(device: Arc<Device>) -> Self {
        Self { device, config: Config::default(), fwmark: 0 }
    }

    /// Do what was asked. Where that fails, nothing has changed.
    pub fn set(&mut self, request: &SetRequest) -> Result<(), Errno> {
        let mut after = self.config.clone();
        if let Some(key) = &request.private_key {
            after.private_key.clone_from(key);
        }
        if let Some(port) = request.listen_port {
            after.listen_port = port;
        }
        let fwmark = request.fwmark.unwrap_or(self.fwmark);
        set_peers(&mut after, request);
        self.set_socket(&after, fwmark).map_err(|error| {
            tracing::warn!(%error, port = after.listen_port, "the device could not be configured");
            Errno(error.raw_os_error().unwrap_or(libc::EIO))
        })?;
        let before = std::mem::replace(&mut self.config, after);
        self.fwmark = fwmark;
        if before.private_key != self.config.private_key {
            self.set_identity();
        }
        self.set_table(&before, request);
        Ok(())
    }

    /// Without a key nobody listens.
    fn set_socket(&self, after: &Config, fwmark: u32) -> io::Result<()> {
        let old = self.device.socket.load_full();
        if after.private_key.is_none() {
            self.device.socket.store(None);
            old.iter().for_each(|old| old.close());
            return Ok(());
        }
        if let Some(old) = old.as_ref().filter(|old| {
            after.listen_port == old.port() || (after.listen_port == 0 && self.config.listen_port == 0)
        }) {
            return if fwmark == self.fwmark { Ok(()) } else { old.set_mark(fwmark) };
        }
        let socket = Arc::new(Socket::bind(after.listen_port, fwmark)?);
        let (device, listening) = (Arc::clone(&self.device), Arc::clone(&socket));
        thread::Builder::new().name("receive".to_owned()).spawn(move || receive::run(&device, &listening))?;
        self.device.socket.store(Some(socket));
        old.iter().for_each(|old| old.close());
        Ok(())
    }

    /// What was agreed on under another key ends.
    fn set_identity(&self) {
        let identity = self.config.private_key.as_ref().map(Identity::new);
        *lock(&self.device.guard) =
            identity.as_ref().map(|own| Guard::new(own.public(), random(), clock::boot()));
        self.device.own.store(None);
        for peer in self.device.table.load().peers.values() {
            let mut out = Vec::new();
            peer.core().forget_identity(&mut out);
            self.device.carry_out(peer, out);
        }
        self.device.own.store(identity.map(Arc::new));
        for (key, peer) in &self.device.table.load().peers {
            if self.config.peers.get(key).is_some_and(|peer| peer.keepalive > 0) {
                self.device.with(peer, |core, world, out| core.keep_alive(world, out));
            }
        }
    }

    /// The peers are those of the configuration.
    fn set_table(&self, before: &Config, request: &SetRequest) {
        let old = self.device.table.load_full();
        let fresh = fresh(request);
        let mut table = Table::default();
        for (key, peer) in &self.config.peers {
            let kept = old.peers.get(key).filter(|_| !fresh(key));
            let cell = kept.cloned().unwrap_or_else(|| Arc::new(PeerCell::new(*key)));
            peer.allowed_ips.iter().for_each(|prefix| table.routes.insert(prefix, Arc::clone(&cell)));
            table.peers.insert(*key, cell);
        }
        let table = Arc::new(table);
        self.device.table.store(Arc::clone(&table));
        for (key, cell) in &old.peers {
            if table.peers.get(key).is_none_or(|now| !Arc::ptr_eq(now, cell)) {
                self.device.remove(cell);
            }
        }
        for (key, cell) in &table.peers {
            let known = before.peers.get(key).filter(|_| !fresh(key));
            self.set_peer(cell, known, &self.config.peers[key], request_endpoint(request, key));
        }
    }

    /// What is not in the table. A keepalive begins when the peer has its place and its key.
    fn set_peer(&self, cell: &Arc<PeerCell>, before: Option<&Peer>, after: &Peer, named: Option<SocketAddr>) {
        if let Some(endpoint) = named.or(after.endpoint.filter(|_| before.is_none())) {
            cell.set_endpoint(endpoint);
        }
        if before.map(|peer| &peer.preshared_key) != Some(&after.preshared_key) {
            cell.core().set_preshared(after.preshared_key.as_ref());
        }
        let was = before.map_or(0, |peer| peer.keepalive);
        if was != after.keepalive {
            cell.core().set_keepalive(after.keepalive);
            if was == 0 {
                self.device.with(cell, |core, world, out| core.keep_alive(world, out));
            }
        }
    }

    /// Everything there is to know.
    pub fn get(&self) -> Observed {
        let mut observed =
            Observed { device: self.config.clone(), fwmark: self.fwmark, stats: BTreeMap::new() };
        if let Some(socket) = &*self.device.socket.load() {
            observed.device.listen_port = socket.port();
        }
        for (key, cell) in &self.device.table.load().peers {
            let Some(peer) = observed.device.peers.get_mut(key) else { continue };
            peer.endpoint = cell.endpoint();
            let handshake = cell.core().last_handshake();
            observed.stats.insert(
                *key,
                PeerStats {
                    last_handshake_unix: handshake.map(|at| at.as_secs()),
                    rx_bytes: cell.received.load(Ordering::Relaxed),
                    tx_bytes: cell.sent.load(Ordering::Relaxed),
                },
            );
        }
        observed
    }
}

/// A peer that was removed and added again in one request loses its session, as in the kernel.
fn fresh(request: &SetRequest) -> impl Fn(&PublicKey) -> bool {
    let removed: BTreeSet<PublicKey> =
        request.peers.iter().filter(|section| section.remove).map(|section| section.public_key).collect();
    let all = request.replace_peers;
    move |key| all || removed.contains(key)
}

/// The endpoint a request names for a peer: that of its last section that has one.
fn request_endpoint(request: &SetRequest, key: &PublicKey) -> Option<SocketAddr> {
    let sections = request.peers.iter().filter(|section| section.public_key == *key);
    sections.filter_map(|section| section.endpoint).next_back()
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
