//! What all threads share: the peers, who owns which index and which prefix, the socket and the TUN device.
//!
//! Locks, in the order in which they may be held together: a peer's, the indices'. Nobody waits for a peer while
//! holding the indices. What is read for every batch (routes, socket, own key) is swapped as a whole.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use countersign_wg_core::{Action, Context, Guard, Identity, Peer, Random, Routes, Session};
use countersign_wg_proto::PublicKey;

use crate::clock;
use crate::handshakes::Queue;
use crate::socket::Socket;
use crate::tun::Tun;

/// The device.
pub struct Device {
    /// Where packets come from and go to.
    pub tun: Tun,
    /// Where messages come from and go to; none without a key.
    pub socket: ArcSwapOption<Socket>,
    /// The device's own key, if it has one.
    pub own: ArcSwapOption<Identity>,
    /// What stands before the handshakes; there when the key is.
    pub guard: Mutex<Option<Guard>>,
    /// Handshake messages that wait.
    pub queue: Queue,
    /// The peers and their prefixes.
    pub table: ArcSwap<Table>,
    indices: RwLock<HashMap<u32, Slot>>,
    stopped: AtomicBool,
}

/// The peers. Never changed, but replaced.
#[derive(Default, Clone)]
pub struct Table {
    /// All of them.
    pub peers: BTreeMap<PublicKey, Arc<PeerCell>>,
    /// Whose packets are whose.
    pub routes: Routes<Arc<PeerCell>>,
}

/// What an index of ours stands for.
#[derive(Clone)]
pub enum Slot {
    /// A handshake that we have begun.
    Handshake(Arc<PeerCell>),
    /// A session.
    Session(Arc<PeerCell>, Arc<Session>),
}

/// A peer, and what is counted of it.
pub struct PeerCell {
    core: Mutex<Peer>,
    endpoint: Mutex<Option<SocketAddr>>,
    /// Bytes of authenticated messages.
    pub received: AtomicU64,
    /// Bytes of all messages sent.
    pub sent: AtomicU64,
    /// When its next timer is due; `u64::MAX` is never.
    due: AtomicU64,
}

impl PeerCell {
    /// A peer without a session.
    pub fn new(key: PublicKey) -> Self {
        Self {
            core: Mutex::new(Peer::new(key)),
            endpoint: Mutex::new(None),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
        }
    }

    /// The peer's own state.
    pub fn core(&self) -> MutexGuard<'_, Peer> {
        lock(&self.core)
    }

    /// Where it was heard last, or is said to be.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        *lock(&self.endpoint)
    }

    /// It is there now.
    pub fn set_endpoint(&self, endpoint: SocketAddr) {
        *lock(&self.endpoint) = Some(endpoint);
    }

    /// Something is due.
    pub fn is_due(&self, now: u64) -> bool {
        self.due.load(Ordering::Relaxed) <= now
    }
}

/// A thread that panicked has ended the process.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operating system's random source.
pub struct SystemSource;

impl Random for SystemSource {
    fn fill(&mut self, bytes: &mut [u8]) {
        // Keys out of anything else would be worse than none.
        if SystemRandom::new().fill(bytes).is_err() {
            tracing::error!("there is no randomness");
            std::process::abort();
        }
    }
}

/// So many unpredictable bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemSource.fill(&mut bytes);
    bytes
}

impl Device {
    /// A device without key and peers.
    pub fn new(tun: Tun) -> Self {
        Self {
            tun,
            socket: ArcSwapOption::empty(),
            own: ArcSwapOption::empty(),
            guard: Mutex::new(None),
            queue: Queue::default(),
            table: ArcSwap::default(),
            indices: RwLock::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// The threads are to end, each after what it is at.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The threads are to go on.
    pub fn start(&self) {
        self.stopped.store(false, Ordering::Relaxed);
        self.queue.open();
    }

    /// See [`stop`](Self::stop).
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Whose index that is.
    pub fn slot(&self, index: u32) -> Option<Slot> {
        self.indices.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    /// Lets the peer's state do something, and does what comes of it before anybody else may touch the peer.
    /// Nothing happens while the device has no key.
    pub fn with<R>(
        &self,
        peer: &Arc<PeerCell>,
        act: impl FnOnce(&mut Peer, &mut Context<'_>, &mut Vec<Action>) -> R,
    ) -> Option<R> {
        let own = self.own.load();
        let own = own.as_ref()?;
        let mut core = peer.core();
        let mut out = Vec::new();
        let mut world = Context {
            own,
            now: clock::boot(),
            unix: clock::unix(),
            mtu: self.tun.mtu(),
            random: &mut SystemSource,
            taken: &|index| self.slot(index).is_some(),
        };
        let result = act(&mut core, &mut world, &mut out);
        if !out.is_empty() {
            self.carry_out(peer, out);
        }
        peer.due.store(core.next_due().unwrap_or(u64::MAX), Ordering::Relaxed);
        Some(result)
    }

    /// Does what a peer's state wants done.
    pub fn carry_out(&self, peer: &Arc<PeerCell>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Transmit(message) => self.transmit(peer, &message),
                Action::Await(index) => self.give(index, Slot::Handshake(Arc::clone(peer))),
                Action::Install(session) => {
                    self.give(session.local, Slot::Session(Arc::clone(peer), Arc::clone(&session)));
                }
                Action::Retire(index) => {
                    self.indices.write().unwrap_or_else(PoisonError::into_inner).remove(&index);
                }
                Action::NewSource => {
                    if let (Some(socket), Some(endpoint)) = (&*self.socket.load(), peer.endpoint()) {
                        socket.sources.forget(endpoint);
                    }
                }
            }
        }
    }

    fn give(&self, index: u32, slot: Slot) {
        self.indices.write().unwrap_or_else(PoisonError::into_inner).insert(index, slot);
    }

    fn transmit(&self, peer: &PeerCell, message: &[u8]) {
        let (Some(socket), Some(endpoint)) = (&*self.socket.load(), peer.endpoint()) else { return };
        peer.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
        if let Err(error) = socket.send(message, None, endpoint) {
            tracing::debug!(%error, %endpoint, "sending");
        }
    }

    /// The peer is none any more.
    pub fn remove(&self, peer: &PeerCell) {
        let gone = peer.core().indices();
        let mut indices = self.indices.write().unwrap_or_else(PoisonError::into_inner);
        gone.iter().for_each(|index| drop(indices.remove(index)));
        drop(indices);
        *peer.core() = Peer::new(PublicKey::from_bytes([0; 32]));
    }

    /// Does what is due, of all peers.
    pub fn tick(&self) {
        let now = clock::boot();
        let table = self.table.load();
        for peer in table.peers.values().filter(|peer| peer.is_due(now)) {
            self.with(peer, |core, world, out| core.tick(world, out));
        }
    }
}
