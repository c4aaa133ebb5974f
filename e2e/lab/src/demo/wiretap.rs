//! What an eavesdropper between the nodes sees.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Lab;

/// `ETH_P_ALL` in network byte order, as packet sockets want it.
const EVERYTHING: i32 = 0x0300;

/// Counts of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// WireGuard: UDP 51871 and the three ports after it.
    pub(super) encrypted: u64,
    /// Handshakes between agents: TCP 4250.
    pub(super) handshakes: u64,
    /// ARP and IPv6 neighbour discovery.
    pub(super) neighbours: u64,
    /// Anything else.
    pub(super) other: u64,
    /// Packets with the marker in clear.
    pub(super) marked: u64,
}

/// Listens on the wire until it is stopped.
pub(super) struct Wiretap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Wiretap {
    /// Counts packets from now on, and those that show `marker`.
    pub(super) fn start(lab: &Lab, marker: &'static [u8]) -> Result<Self> {
        let socket = lab.inside("wire", || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING)));
            socket.context("listen on the wire")
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || listen(&socket, marker, &stopped));
        Ok(Self { stop, thread })
    }

    /// What was seen.
    pub(super) fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the wiretap panicked"))
    }
}

fn listen(mut socket: &Socket, marker: &[u8], stopped: &AtomicBool) -> Seen {
    let (mut seen, mut buffer) = (Seen::default(), vec![0; 64 << 10]);
    while !stopped.load(Ordering::Relaxed) {
        if let Ok(n) = socket.read(&mut buffer) {
            seen.count(&buffer[..n], marker);
        }
    }
    seen
}

impl Seen {
    fn count(&mut self, frame: &[u8], marker: &[u8]) {
        self.marked += u64::from(frame.windows(marker.len()).any(|window| window == marker));
        match classify(frame) {
            Some(Kind::Encrypted) => self.encrypted += 1,
            Some(Kind::Handshake) => self.handshakes += 1,
            Some(Kind::Neighbour) => self.neighbours += 1,
            None => self.other += 1,
        }
    }
}

enum Kind {
    Encrypted,
    Handshake,
    Neighbour,
}

/// What an Ethernet frame is, where it is something that belongs here.
fn classify(frame: &[u8]) -> Option<Kind> {
    let packet = frame.get(14..)?;
    let (protocol, transport) = match frame.get(12..14)? {
        [0x08, 0x06] => return Some(Kind::Neighbour),
        [0x08, 0x00] => (*packet.get(9)?, packet.get(usize::from(packet.first()? & 0xf) * 4..)?),
        [0x86, 0xdd] => (*packet.get(6)?, packet.get(40..)?),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    match protocol {
        17 if [port(0)?, port(2)?].iter().any(|port| (51871..=51874).contains(port)) => Some(Kind::Encrypted),
        6 if port(0)? == 4250 || port(2)? == 4250 => Some(Kind::Handshake),
        // Neighbour and router discovery, and multicast reports behind a hop-by-hop header.
        58 if (130..=137).contains(transport.first()?) => Some(Kind::Neighbour),
        0 if *transport.first()? == 58 => Some(Kind::Neighbour),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[0; 12], &ethertype.to_be_bytes()[..], packet].concat()
    }

    fn ipv4(protocol: u8, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        (packet[0], packet[9]) = (0x45, protocol);
        packet.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        packet.extend(payload);
        frame(0x0800, &packet)
    }

    #[test]
    fn what_belongs_on_the_wire_is_told_from_what_does_not() {
        let mut seen = Seen::default();
        seen.count(&ipv4(17, [51871, 9], b"secret"), b"open");
        seen.count(&ipv4(6, [40000, 4250], b""), b"open");
        seen.count(&ipv4(6, [40000, 80], b"this is open"), b"open");
        seen.count(&frame(0x0806, &[0; 28]), b"open");
        seen.count(&frame(0x86dd, &[[0; 6].as_slice(), &[58], &[0; 33], &[135]].concat()), b"open");
        seen.count(&[0; 5], b"open");
        let expected = Seen { encrypted: 1, handshakes: 1, neighbours: 2, other: 2, marked: 1 };
        assert_eq!(seen, expected);
    }
}
