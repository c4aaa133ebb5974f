//! From the TUN device to the network: a thread reads, cuts, seals and sends, without a hand-over in between. Where
//! there are several, they read and send one after the other, and seal side by side.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_wg_core::{DATA_HEADER, Session, message_length, padded};

use crate::device::{Device, PeerCell};
use crate::limits::{GATHERED, MAX_SEGMENTS, MAX_SEND, TUN_READS};
use crate::line::Line;
use crate::socket::Socket;
use crate::tun::Tun;

/// Messages in one piece of memory, in the order in which their packets were read.
#[derive(Default)]
struct Batch {
    space: Vec<u8>,
    used: usize,
    /// Where each message is, and how long its packet is.
    messages: Vec<(Range<usize>, usize)>,
    /// Messages that follow each other and go to one peer.
    runs: Vec<(Arc<PeerCell>, Range<usize>)>,
    /// Packets of one flow come one after the other: whose the last one was.
    last: Option<(IpAddr, Arc<PeerCell>)>,
}

/// Messages that go to one peer, and what they are sealed with.
struct Job {
    peer: Arc<PeerCell>,
    session: Arc<Session>,
    first: u64,
    messages: Range<usize>,
}

/// Carries packets until it is stopped. An error: the device is gone.
pub fn run(device: &Device, line: &Line) -> io::Result<()> {
    let mut buffer = vec![0; Tun::BUFFER];
    let mut batch = Batch::default();
    let mut jobs = Vec::new();
    while !device.is_stopped() {
        let mut gathered = Ok(());
        let place = line.enter(|| {
            gathered = gather(device, &mut buffer, &mut batch);
            // Who waits for a session must wait in order, and counters are to rise in it.
            batch.assign(device, &mut jobs);
            (!jobs.is_empty()).then_some(())
        });
        gathered?;
        if let Some(((), ticket)) = place {
            jobs.retain(|job| batch.seal(job).is_some());
            line.leave(ticket, || jobs.drain(..).for_each(|job| batch.send(device, &job)));
        }
        batch.clear();
    }
    Ok(())
}

/// Reads what is there, but not more than one batch; waits if that is nothing.
fn gather(device: &Device, buffer: &mut [u8], batch: &mut Batch) -> io::Result<()> {
    let table = device.table.load();
    let mtu = device.tun.mtu();
    for _ in 0..TUN_READS {
        let read = device.tun.read(buffer, |header, payload| {
            let owner = |address| table.routes.owner(address).cloned();
            batch.push(header, payload, mtu, owner);
        });
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && batch.used > 0 => return Ok(()),
            // What has changed when there is something again counts.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return device.tun.wait(),
            Err(error) => return Err(error),
        }
        if batch.used >= GATHERED {
            return Ok(());
        }
    }
    Ok(())
}

impl Batch {
    /// A packet, if somebody owns its destination.
    fn push(
        &mut self,
        header: &[u8],
        payload: &[u8],
        mtu: usize,
        owner: impl Fn(IpAddr) -> Option<Arc<PeerCell>>,
    ) {
        let length = header.len() + payload.len();
        let first = if header.is_empty() { payload } else { header };
        let Some(to) = destination(first) else { return };
        if self.last.as_ref().is_none_or(|(last, _)| *last != to) {
            self.last = owner(to).map(|peer| (to, peer));
        }
        let Some((_, peer)) = &self.last else { return };
        let index = self.messages.len();
        match self.runs.last_mut() {
            Some((last, run)) if Arc::ptr_eq(last, peer) => run.end = index + 1,
            _ => self.runs.push((Arc::clone(peer), index..index + 1)),
        }
        let (at, whole) = (self.used, message_length(padded(length, mtu)));
        if self.space.len() < at + whole {
            self.space.resize((at + whole).max(2 * GATHERED), 0);
        }
        let (head, rest) = self.space[at + DATA_HEADER..at + whole].split_at_mut(header.len());
        head.copy_from_slice(header);
        rest[..payload.len()].copy_from_slice(payload);
        rest[payload.len()..].fill(0);
        self.messages.push((at..at + whole, length));
        self.used = at + whole;
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.messages.clear();
        self.last = None;
        self.used = 0;
    }

    /// A session and counters for each run; what has none waits for one.
    fn assign(&mut self, device: &Device, jobs: &mut Vec<Job>) {
        for (peer, messages) in self.runs.drain(..) {
            let session = device.with(&peer, |core, world, out| {
                let session = core.session(world.now).cloned();
                if session.is_some() {
                    core.sent(world, out);
                } else {
                    for (place, length) in &self.messages[messages.clone()] {
                        let packet = &self.space[place.start + DATA_HEADER..][..*length];
                        core.stage(packet.to_vec(), world, out);
                    }
                }
                session
            });
            let Some(session) = session.flatten() else { continue };
            let first = session.counters(messages.len() as u64);
            jobs.extend(first.map(|first| Job { peer, session, first, messages }));
        }
    }

    fn seal(&mut self, job: &Job) -> Option<()> {
        for (counter, (place, _)) in (job.first..).zip(&self.messages[job.messages.clone()]) {
            job.session.seal(counter, &mut self.space[place.clone()]).ok()?;
        }
        Some(())
    }

    fn send(&self, device: &Device, job: &Job) {
        let (Some(socket), Some(endpoint)) = (&*device.socket.load(), job.peer.endpoint()) else { return };
        let messages = &self.messages[job.messages.clone()];
        let bytes: usize = messages.iter().map(|(place, _)| place.len()).sum();
        job.peer.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.send_all(socket, endpoint, messages);
    }

    /// Messages of one length leave together.
    fn send_all(&self, socket: &Socket, endpoint: SocketAddr, mut messages: &[(Range<usize>, usize)]) {
        while let Some((first, _)) = messages.first() {
            let (run, rest) = messages.split_at(run_length(messages));
            let end = run.last().map_or(first.end, |(last, _)| last.end);
            socket.send_run(&self.space[first.start..end], first.len(), endpoint);
            messages = rest;
        }
    }
}

/// How many of the first messages can leave together: all as long as the first, but the last, which may be shorter.
fn run_length(messages: &[(Range<usize>, usize)]) -> usize {
    let Some((first, _)) = messages.first() else { return 0 };
    let (size, most) = (first.len(), (MAX_SEND / first.len().max(1)).clamp(1, MAX_SEGMENTS));
    for (at, (message, _)) in messages.iter().take(most).enumerate() {
        if message.len() > size {
            return at;
        }
        if message.len() < size {
            return at + 1;
        }
    }
    most.min(messages.len())
}

/// Whom a packet is for.
fn destination(header: &[u8]) -> Option<IpAddr> {
    match header.first()? >> 4 {
        4 => header.get(16..20)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        6 => header.get(24..40)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}
