//! The threads that carry packets: started, and, for another process to go on with their work, stopped.

use std::io;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, park_timeout, sleep};
use std::time::Duration;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::device::Device;
use crate::limits::TICK;
use crate::line::Line;
use crate::socket::Socket;
use crate::{handshakes, receive, transmit};

/// Makes a thread return from the system call that it waits in.
const WAKE: Signal = Signal::SIGUSR1;
/// How long a thread may take to do so, before it is woken again: it may not have waited yet.
const WAKE_AGAIN: Duration = Duration::from_micros(200);

/// All of them.
pub struct Workers {
    device: Arc<Device>,
    /// Those that packets wait for.
    carriers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    /// For each direction.
    threads: usize,
}

extern "C" fn nothing(_: libc::c_int) {}

impl Workers {
    /// Starts all; the one that waits in a socket, if there is one.
    pub fn start(device: &Arc<Device>, threads: usize) -> io::Result<Self> {
        let mut workers = Self::stopped(device, threads)?;
        workers.resume()?;
        Ok(workers)
    }

    /// Starts nobody yet.
    pub fn stopped(device: &Arc<Device>, threads: usize) -> io::Result<Self> {
        let wake = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is allowed at any moment.
        unsafe { sigaction(WAKE, &wake) }?;
        Ok(Self { device: Arc::clone(device), carriers: Vec::new(), others: Vec::new(), threads })
    }

    fn resume(&mut self) -> io::Result<()> {
        self.device.start();
        let [messages, timers] = [0; 2].map(|_| Arc::clone(&self.device));
        let thread = |name: &str| Builder::new().name(name.to_owned());
        let line = Arc::new(Line::default());
        for _ in 0..self.threads {
            let (device, line) = (Arc::clone(&self.device), Arc::clone(&line));
            self.carriers.push(thread("transmit").spawn(move || {
                if let Err(error) = transmit::run(&device, &line) {
                    tracing::debug!(%error, "reading the device");
                    device.tun.lost();
                }
            })?);
        }
        self.others.push(thread("handshakes").spawn(move || handshakes::run(&messages))?);
        self.others.push(thread("timers").spawn(move || {
            while !timers.is_stopped() {
                park_timeout(TICK);
                timers.tick();
            }
        })?);
        let socket = self.device.socket.load_full();
        socket.map_or(Ok(()), |socket| self.listen(&socket))
    }

    /// Starts those that wait in this socket. Those that have waited in another end when that is closed.
    pub fn listen(&mut self, socket: &Arc<Socket>) -> io::Result<()> {
        let line = Arc::new(Line::default());
        for _ in 0..self.threads {
            let (device, socket, line) = (Arc::clone(&self.device), Arc::clone(socket), Arc::clone(&line));
            let thread = Builder::new().name("receive".to_owned());
            self.carriers.push(thread.spawn(move || receive::run(&device, &socket, &line))?);
        }
        self.carriers.retain(|thread| !thread.is_finished());
        Ok(())
    }

    /// Ends all of them, each after what it is at. Packets wait in the kernel meanwhile.
    pub fn stop(&mut self) {
        self.device.stop();
        while self.carriers.iter().any(|thread| !thread.is_finished()) {
            for thread in self.carriers.iter().filter(|thread| !thread.is_finished()) {
                // One that has ended meanwhile is not joined yet: its name is still its own.
                let _ = pthread_kill(thread.as_pthread_t(), WAKE);
            }
            sleep(WAKE_AGAIN);
        }
        // What was received is answered.
        self.device.queue.close();
        for thread in self.carriers.drain(..).chain(self.others.drain(..)) {
            thread.thread().unpark();
            // A thread that panics ends the process.
            drop(thread.join());
        }
    }

    /// Goes on.
    pub fn go_on(&mut self) {
        if let Err(error) = self.resume() {
            tracing::error!(%error, "the threads cannot be started again");
            std::process::abort();
        }
    }
}
