//! From the network to the TUN device: a thread receives, opens, joins and writes. Where there are several, they
//! receive and write one after the other, and open side by side.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_wg_core::{Header, Kind, Session, receiver};

use crate::clock;
use crate::device::{Device, PeerCell, Slot};
use crate::limits::MAX_SEGMENTS;
use crate::line::Line;
use crate::offload::Joiner;
use crate::socket::Socket;
use crate::udp_recv::{Datagrams, Receiver};

/// A message that has authenticated.
struct Opened<'a> {
    counter: u64,
    /// Bytes of the whole message.
    length: usize,
    /// What was in it.
    packet: &'a mut [u8],
}

/// Messages of one session that came one after the other from one place.
struct Run<'a> {
    peer: Arc<PeerCell>,
    session: Arc<Session>,
    from: SocketAddr,
    opened: Vec<Opened<'a>>,
}

/// Carries messages until the socket is closed, or it is stopped.
pub fn run(device: &Device, socket: &Socket, line: &Line) {
    let (mut receiver, mut joiner) = (Receiver::new(), Joiner::default());
    while !socket.is_closed() && !device.is_stopped() {
        let received = line.enter(|| match receiver.receive(socket) {
            Ok(datagrams) => Some(datagrams),
            // Of one datagram that we have sent, or nothing came for a while.
            Err(error) => {
                tracing::trace!(%error, "receiving");
                None
            }
        });
        if let Some((datagrams, ticket)) = received {
            let runs = open_all(device, datagrams);
            line.leave(ticket, || pass_on(device, &mut joiner, runs));
        }
    }
}

/// What one system call has brought: data is opened, handshakes wait for their own thread.
fn open_all<'a>(device: &Device, datagrams: impl Iterator<Item = Datagrams<'a>>) -> Vec<Run<'a>> {
    let now = clock::boot();
    let mut runs: Vec<Run<'a>> = Vec::new();
    for datagrams in datagrams {
        for datagram in datagrams.bytes.chunks_mut(datagrams.segment) {
            match Kind::of(datagram) {
                Some(Kind::Data) => open(device, datagram, datagrams.from, now, &mut runs),
                Some(_) => device.queue.push(datagram, datagrams.from),
                None => {}
            }
        }
    }
    runs
}

fn pass_on(device: &Device, joiner: &mut Joiner, runs: Vec<Run<'_>>) {
    let mut packets = Vec::with_capacity(runs.iter().map(|run| run.opened.len()).sum());
    for run in runs {
        take(device, run, &mut packets);
    }
    device.tun.write(joiner, &mut packets);
}

fn open<'a>(device: &Device, datagram: &'a mut [u8], from: SocketAddr, now: u64, runs: &mut Vec<Run<'a>>) {
    let index = receiver(datagram);
    let same = |run: &&mut Run<'_>| Some(run.session.local) == index && run.from == from;
    let length = datagram.len();
    if let Some(run) = runs.last_mut().filter(same) {
        if let Ok((counter, packet)) = run.session.open(datagram) {
            run.opened.push(Opened { counter, length, packet });
        }
        return;
    }
    let Some(Slot::Session(peer, session)) = index.and_then(|index| device.slot(index)) else { return };
    if !session.is_within_time(now) {
        return;
    }
    if let Ok((counter, packet)) = session.open(datagram) {
        // As many as come in one piece.
        let mut opened = Vec::with_capacity(MAX_SEGMENTS);
        opened.push(Opened { counter, length, packet });
        runs.push(Run { peer, session, from, opened });
    }
}

/// What is new of a run is heard, and its packets are passed on if they are the peer's own.
fn take<'a>(device: &Device, run: Run<'a>, packets: &mut Vec<&'a mut [u8]>) {
    let Run { peer, session, from, opened } = run;
    let mut fresh = Vec::with_capacity(opened.len());
    session.accept(opened.iter().map(|message| message.counter), |new| fresh.push(new));
    let mut bytes = 0;
    let mut data = false;
    let mut checked: Option<IpAddr> = None;
    let table = device.table.load();
    for (message, new) in opened.into_iter().zip(fresh) {
        if !new {
            continue;
        }
        bytes += message.length;
        data |= !message.packet.is_empty();
        let Some(header) = Header::of(message.packet) else { continue };
        if checked != Some(header.source) {
            let owned = table.routes.owner(header.source).is_some_and(|owner| Arc::ptr_eq(owner, &peer));
            checked = owned.then_some(header.source);
        }
        if checked.is_some() {
            packets.push(&mut message.packet[..header.length]);
        }
    }
    if bytes == 0 {
        return;
    }
    peer.received.fetch_add(bytes as u64, Ordering::Relaxed);
    device.with(&peer, |core, world, out| {
        if peer.endpoint() != Some(from) {
            peer.set_endpoint(from);
        }
        core.received(&session, data, world, out);
    });
}
