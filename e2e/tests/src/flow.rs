//! Flows that go on while something happens to the nodes: numbered datagrams at a steady rate, and a TCP
//! connection that must never break.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use countersign_lab::ns::Space;

use crate::probe::{self, MARKER, Probe};
use crate::{tcp, udp};

/// Datagrams of one flow at a steady rate, sent by a thread until stopped.
#[derive(Debug)]
pub struct Datagrams {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: JoinHandle<u32>,
}

impl Datagrams {
    /// Starts to send flow `flow` from `socket` to `to`, `rate` per second.
    #[must_use]
    pub fn start(socket: UdpSocket, to: SocketAddr, flow: u32, rate: u32) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, counted) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let (start, mut number) = (probe::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                udp::sleep_until(start + Duration::from_secs(1) / rate * number);
                // A full send queue is a loss like any other: the number is used up, and missed by the receiver.
                let _ = socket.send_to(&Probe::now(flow, number).encode(), udp::mapped(to));
                number += 1;
                counted.store(number, Ordering::Relaxed);
            }
            number
        });
        Self { stop, sent, thread }
    }

    /// How many were sent so far.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, and says how many were sent.
    ///
    /// # Errors
    /// Where the sender panicked.
    pub fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the sender panicked"))
    }
}

/// A TCP connection that says something at every beat and wants to hear it back.
#[derive(Debug)]
pub struct Conversation {
    stop: Arc<AtomicBool>,
    breaks: Arc<AtomicU64>,
    beats: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Conversation {
    /// Starts one between two pods, on `to`'s port.
    ///
    /// # Errors
    /// Where a socket cannot be made inside a pod.
    pub fn start(
        client: &Space,
        server: &Space,
        to: SocketAddr,
        beat: Duration,
        silence: Duration,
    ) -> Result<Self> {
        let listener = tcp::listen(server, to.port())?;
        // Enough for every reconnection of a run: the thread stays out of the pod's namespace.
        let mut sockets = tcp::sockets(client, to, 64)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (breaks, beats) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let echo = {
            let stop = stop.clone();
            std::thread::spawn(move || echo(&listener, &stop))
        };
        let talk = {
            let (stop, breaks, beats) = (stop.clone(), breaks.clone(), beats.clone());
            std::thread::spawn(move || {
                while let (false, Some(socket)) = (stop.load(Ordering::Relaxed), sockets.pop()) {
                    let connected =
                        socket.connect_timeout(&to.into(), silence).map(|()| TcpStream::from(socket));
                    let ended = connected.and_then(|stream| talk(stream, beat, silence, &stop, &beats));
                    breaks.fetch_add(u64::from(ended.is_err()), Ordering::Relaxed);
                }
            })
        };
        Ok(Self { stop, breaks, beats, threads: vec![talk, echo] })
    }

    /// How often the connection broke so far.
    #[must_use]
    pub fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Relaxed)
    }

    /// How many beats were heard back so far.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Stops, and says how often the connection broke.
    ///
    /// # Errors
    /// Where one of its threads panicked.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a conversation panicked"))?;
        }
        Ok(self.breaks.load(Ordering::Relaxed))
    }
}

/// A TCP connection that carries as much as it may, in one direction, and is made again when it breaks.
#[derive(Debug)]
pub struct Bulk {
    stop: Arc<AtomicBool>,
    breaks: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// A bulk stream from which nothing was heard for that long is broken.
const BULK_SILENCE: Duration = Duration::from_secs(20);

impl Bulk {
    /// Starts one from `client` to `server` on `to`'s port, of at most `rate` bytes per second.
    ///
    /// # Errors
    /// Where a socket cannot be made inside a pod.
    pub fn start(client: &Space, server: &Space, to: SocketAddr, rate: u64) -> Result<Self> {
        let listener = tcp::listen(server, to.port())?;
        let mut sockets = tcp::sockets(client, to, 64)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (breaks, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let drain = {
            let (stop, bytes) = (stop.clone(), bytes.clone());
            std::thread::spawn(move || swallow(&listener, &stop, &bytes))
        };
        let pour = {
            let (stop, breaks) = (stop.clone(), breaks.clone());
            std::thread::spawn(move || {
                while let (false, Some(socket)) = (stop.load(Ordering::Relaxed), sockets.pop()) {
                    let connected = socket.connect_timeout(&to.into(), BULK_SILENCE);
                    let ended = connected.and_then(|()| pour(TcpStream::from(socket), rate, &stop));
                    breaks.fetch_add(u64::from(ended.is_err()), Ordering::Relaxed);
                }
            })
        };
        Ok(Self { stop, breaks, bytes, threads: vec![pour, drain] })
    }

    /// Stops, and says how many bytes arrived, and how often the connection broke.
    ///
    /// # Errors
    /// Where one of its threads panicked.
    pub fn stop(self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a bulk stream panicked"))?;
        }
        Ok((self.bytes.load(Ordering::Relaxed), self.breaks.load(Ordering::Relaxed)))
    }
}

fn pour(mut stream: TcpStream, rate: u64, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(BULK_SILENCE))?;
    let block = MARKER.repeat(16 * 1024 / MARKER.len());
    let mut due = probe::now();
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&block)?;
        // After a pause it does not make up for what it could not send.
        due = due.max(probe::now()) + Duration::from_secs_f64(block.len() as f64 / rate as f64);
        udp::sleep_until(due);
    }
    Ok(())
}

/// Reads what connections bring, one after the other, until stopped.
fn swallow(listener: &TcpListener, stop: &AtomicBool, bytes: &AtomicU64) {
    let mut buffer = vec![0; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        // To its end: who sends stops first.
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => drop(bytes.fetch_add(length as u64, Ordering::Relaxed)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let silent =
                        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                    if !silent || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
    }
}

fn talk(
    mut stream: TcpStream,
    beat: Duration,
    silence: Duration,
    stop: &AtomicBool,
    beats: &AtomicU64,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    let mut answer = [0; MARKER.len()];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(MARKER)?;
        stream.read_exact(&mut answer)?;
        beats.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(beat);
    }
    Ok(())
}

/// Serves one connection after the other until stopped; looks up now and then even if nobody comes.
fn echo(listener: &TcpListener, stop: &AtomicBool) {
    let pause = Duration::from_millis(200);
    // Only a listener that is gone refuses this.
    let _ = listener.set_nonblocking(true);
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(pause / 20);
            continue;
        };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(pause));
        echo_one(stream, stop);
    }
}

fn echo_one(mut stream: TcpStream, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
