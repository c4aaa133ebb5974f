//! Datagrams between pods: sockets are made inside the pods' namespaces and used from outside, so that one
//! thread can speak for a hundred pods.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use countersign_lab::ns::Space;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::probe::{self, LENGTH, Probe};
use crate::sequence::Ledger;

/// What a socket may hold back: enough for every pair's burst at once.
const BUFFER: usize = 4 << 20;
/// Sockets taken from one look.
const READY: usize = 64;

/// A socket in the pod's namespace, bound to `port` of every address, both families.
///
/// # Errors
/// Those of entering the namespace and of binding.
pub fn socket(space: &Space, port: u16) -> Result<UdpSocket> {
    space.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_only_v6(false)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
            .context("a large receive buffer (root is needed)")?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    })
}

/// `address` as a socket of both families takes it.
#[must_use]
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V6(_) => address,
    }
}

/// What receivers have noted so far.
#[derive(Debug, Default)]
pub struct Received {
    /// Which datagrams came.
    pub ledger: Ledger,
    /// From sending to arrival, of each first arrival, in order of arrival.
    pub latencies: Vec<Duration>,
    /// When the last new one came, by the probes' clock.
    pub last: Duration,
    /// When the first of a flow came, by the probes' clock.
    pub first_of_flow: BTreeMap<u32, Duration>,
}

/// A thread that reads all of its sockets until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    received: Arc<Mutex<Received>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts reading `sockets`.
    #[must_use]
    pub fn start(sockets: Vec<UdpSocket>) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (received.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let watch = Watch::new(&sockets);
            while !stopped.load(Ordering::Relaxed) {
                for socket in watch.readable() {
                    drain(socket, &shared);
                }
            }
        });
        Self { received, stop, thread: Some(thread) }
    }

    /// What has been noted so far.
    pub fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }

    /// Forgets everything, and returns it.
    pub fn take(&self) -> Received {
        std::mem::take(&mut *self.received())
    }

    /// Waits until something of `count` flows has come, `limit` at the longest.
    pub fn wait_flows(&self, count: usize, limit: Duration) {
        let end = probe::now() + limit;
        while self.received().first_of_flow.len() < count && probe::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `count` different datagrams have come, or nothing new has for `quiet`. Returns how many came.
    pub fn wait(&self, count: u64, quiet: Duration) -> u64 {
        let started = probe::now();
        loop {
            let (received, last) = {
                let received = self.received();
                (received.ledger.totals().received, received.last)
            };
            if received >= count || probe::now() > last.max(started) + quiet {
                return received;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the reader would be shown by its own message.
            let _ = thread.join();
        }
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    // Notes are complete after each datagram: a panicked holder leaves nothing half done.
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sockets, and who of them has something: the cost is that of those that have, however many there are.
struct Watch<'a> {
    sockets: &'a [UdpSocket],
    epoll: Epoll,
}

impl<'a> Watch<'a> {
    fn new(sockets: &'a [UdpSocket]) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll descriptor");
        for (index, socket) in (0_u64..).zip(sockets) {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, index)).expect("a socket to watch");
        }
        Self { sockets, epoll }
    }

    fn readable(&self) -> impl Iterator<Item = &'a UdpSocket> {
        let mut ready = [EpollEvent::empty(); READY];
        let count = self.epoll.wait(&mut ready, EpollTimeout::from(50_u8)).unwrap_or(0);
        let sockets = self.sockets;
        ready.into_iter().take(count).filter_map(|event| sockets.get(event.data() as usize))
    }
}

fn drain(socket: &UdpSocket, shared: &Mutex<Received>) {
    let mut buffer = [0; LENGTH + 1];
    while let Ok(length) = socket.recv(&mut buffer) {
        let Some(probe) = Probe::decode(&buffer[..length]) else { continue };
        let now = probe::now();
        let mut received = lock(shared);
        if received.ledger.record(probe.flow, probe.number) {
            received.latencies.push(now.saturating_sub(probe.sent));
            received.last = now;
            received.first_of_flow.entry(probe.flow).or_insert(now);
        }
    }
}

/// Sleeps until `deadline` of the probes' clock.
pub fn sleep_until(deadline: Duration) {
    std::thread::sleep(deadline.saturating_sub(probe::now()));
}
