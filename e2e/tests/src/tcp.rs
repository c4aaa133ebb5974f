//! Connections between pods, timed. Sockets are made inside the pods' namespaces and used from outside.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use countersign_lab::ns::Space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

/// How many accepted connections are kept: by then the client of the oldest has long reset it.
const KEPT: usize = 4096;

/// A listener in the pod's namespace on `port` of every address, both families.
///
/// # Errors
/// Those of entering the namespace and of binding.
pub fn listen(space: &Space, port: u16) -> Result<TcpListener> {
    space.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    })
}

/// A thread that accepts on all of its listeners until it is dropped. It never closes first: a packet of its
/// own after a flush of the authentications would make the next connection of that pair no longer the first.
#[derive(Debug)]
pub struct Acceptor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Starts accepting.
    #[must_use]
    pub fn start(listeners: Vec<TcpListener>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut kept = VecDeque::new();
            while !stopped.load(Ordering::Relaxed) {
                accept_ready(&listeners, &mut kept);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the acceptor would be shown by its own message.
            let _ = thread.join();
        }
    }
}

fn accept_ready(listeners: &[TcpListener], kept: &mut VecDeque<TcpStream>) {
    let mut polled: Vec<PollFd> =
        listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)).collect();
    if poll(&mut polled, PollTimeout::from(50_u8)).unwrap_or(0) == 0 {
        return;
    }
    let ready: Vec<bool> = polled.iter().map(|p| p.any() == Some(true)).collect();
    for (listener, _) in listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
        while let Ok((stream, _)) = listener.accept() {
            kept.push_back(stream);
        }
    }
}

/// `count` unconnected sockets in the pod's namespace for peers of the family of `to`.
///
/// # Errors
/// Those of entering the namespace and of making sockets.
pub fn sockets(space: &Space, to: SocketAddr, count: usize) -> Result<Vec<Socket>> {
    let made = |_| Ok(Socket::new(Domain::for_address(to), Type::STREAM, None)?);
    space.run(|| (0..count).map(made).collect())
}

/// How long `connect()` takes. The connection is reset at once, so that nothing of it lingers.
///
/// # Errors
/// `TimedOut` after `limit`, otherwise what the peer or the network answered.
pub fn timed_connect(socket: &Socket, to: SocketAddr, limit: Duration) -> io::Result<Duration> {
    let start = Instant::now();
    let connected = socket.connect_timeout(&to.into(), limit);
    let took = start.elapsed();
    socket.set_linger(Some(Duration::ZERO))?;
    connected.map(|()| took)
}
