//! The device's configuration, and how the threads that carry packets come to know it.
//!
//! The configuration kept here is the one that counts; the threads see of it what they need, always whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use countersign_wg_core::{Guard, Identity};
use countersign_wg_proto::uapi::{SetPeer, SetRequest, encode_get_reply, parse_get};
use countersign_wg_proto::{Device as Config, Observed, Peer, PeerStats, PrivateKey, PublicKey};
use ipnet::IpNet;

use crate::clock;
use crate::device::{Device, PeerCell, Table, lock, random};
use crate::hand_over::{self, State};
use crate::socket::Socket;
use crate::workers::Workers;

/// The device's configuration.
pub struct Plane {
    device: Arc<Device>,
    workers: Workers,
    config: Config,
    fwmark: u32,
}

/// Why a configuration could not be set, as an errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Plane {
    /// A device without key and peers.
    pub fn new(device: Arc<Device>, threads: usize) -> io::Result<Self> {
        let workers = Workers::start(&device, threads)?;
        Ok(Self { device, workers, config: Config::default(), fwmark: 0 })
    }

    /// What the device of another process is, by its own word.
    pub fn understand(state: &State) -> anyhow::Result<Observed> {
        parse_get(&state.device).context("the predecessor's configuration")
    }

    /// Goes on where another process has stopped. `observed` is what it was [understood](Self::understand) to be.
    pub fn inherited(
        device: Arc<Device>,
        threads: usize,
        observed: Observed,
        state: State,
        socket: Option<OwnedFd>,
    ) -> anyhow::Result<Self> {
        let config = Config { listen_port: state.port, ..observed.device };
        if let Some(socket) = socket {
            // It has its mark.
            let socket = Socket::prepared(socket2::Socket::from(socket), 0)?;
            device.socket.store(Some(Arc::new(socket)));
        }
        let workers = Workers::stopped(&device, threads)?;
        let mut plane = Self { device, workers, config, fwmark: observed.fwmark };
        // Without an own key nothing is sent yet.
        plane.set_table(&Config::default(), &SetRequest::default());
        plane.set_own();
        let table = plane.device.table.load_full();
        for (key, stats) in &observed.stats {
            let Some(cell) = table.peers.get(key) else { continue };
            cell.received.store(stats.rx_bytes, Ordering::Relaxed);
            cell.sent.store(stats.tx_bytes, Ordering::Relaxed);
        }
        for peer in state.peers {
            let Some(cell) = table.peers.get(&peer.public()) else { continue };
            plane.device.with(cell, |core, world, out| core.resume(peer, world, out));
        }
        plane.workers.go_on();
        Ok(plane)
    }

    /// Gives everything to another process, the sockets that others connect to included. If this is an error, nothing
    /// has changed.
    pub fn give(&mut self, successor: UnixStream, listeners: [RawFd; 2]) -> anyhow::Result<()> {
        self.workers.stop();
        let socket = self.device.socket.load_full();
        let mut fds = vec![self.device.tun.as_raw_fd()];
        fds.extend(listeners);
        fds.extend(socket.map(|socket| socket.as_raw_fd()));
        let peers = self.device.table.load().peers.values().map(|cell| cell.core().state()).collect();
        let (features, port) = (self.device.tun.features(), self.config.listen_port);
        let state = State { features, device: encode_get_reply(&self.get()), port, peers };
        let given = hand_over::give(successor, &state, &fds);
        if given.is_err() {
            self.workers.go_on();
        }
        given
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
    fn set_socket(&mut self, after: &Config, fwmark: u32) -> io::Result<()> {
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
        self.workers.listen(&socket)?;
        self.device.socket.store(Some(socket));
        old.iter().for_each(|old| old.close());
        Ok(())
    }

    /// What was agreed on under another key ends.
    fn set_identity(&self) {
        self.device.own.store(None);
        let table = self.device.table.load_full();
        for peer in table.peers.values() {
            let mut out = Vec::new();
            peer.core().forget_identity(&mut out);
            self.device.carry_out(peer, out);
        }
        self.set_own();
        for (key, peer) in &table.peers {
            if self.config.peers.get(key).is_some_and(|peer| peer.keepalive > 0) {
                self.device.with(peer, |core, world, out| core.keep_alive(world, out));
            }
        }
    }

    fn set_own(&self) {
        let own = self.config.private_key.as_ref().map(Identity::new);
        *lock(&self.device.guard) = own.as_ref().map(|own| Guard::new(own.public(), random(), clock::boot()));
        self.device.own.store(own.map(Arc::new));
    }

    /// The peers are those of the configuration.
    fn set_table(&self, before: &Config, request: &SetRequest) {
        let fresh = fresh(request);
        let old = self.device.table.load_full();
        // A cluster's preshared keys come one by one: they change nobody's prefixes.
        let same = before.peers.len() == self.config.peers.len()
            && before.peers.iter().zip(&self.config.peers).all(|((old, before), (key, after))| {
                old == key && before.allowed_ips == after.allowed_ips && !fresh(key)
            });
        let table = if same { old } else { self.replace_table(&old, &fresh) };
        let endpoints: BTreeMap<PublicKey, SocketAddr> = request
            .peers
            .iter()
            .filter_map(|section| Some((section.public_key, section.endpoint?)))
            .collect();
        for (key, cell) in &table.peers {
            let known = before.peers.get(key).filter(|_| !fresh(key));
            self.set_peer(cell, known, &self.config.peers[key], endpoints.get(key).copied());
        }
    }

    fn replace_table(&self, old: &Table, fresh: &impl Fn(&PublicKey) -> bool) -> Arc<Table> {
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
        table
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
