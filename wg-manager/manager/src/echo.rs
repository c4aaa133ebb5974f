//! Probes of a path: ICMP echo requests that may not be cut, and the answers to them.
//!
//! What is asked is one's own: a number and a secret of this process are in every request, and only an answer that
//! brings both back counts. So nobody who does not see the requests can make a path larger or smaller.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use countersign_wg_proto::Probe;
use nix::sys::socket::{setsockopt, sockopt};
use rand::Rng as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::limits::{LARGEST_PATH, PROBE_BUFFER, RETRY_FIRST};

/// IP headers, without options.
const HEADER4: usize = 20;
const HEADER6: usize = 40;
/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443).
const ICMP: usize = 8;
/// What follows: a secret of this process, and the probe's number.
const SECRET: usize = 8;
const NUMBER: usize = 4;

const REQUEST4: u8 = 8;
const REPLY4: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// An answer: from whom, and to which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) from: IpAddr,
    pub(crate) probe: Probe,
}

/// The sockets that probes leave by. Not both kinds of IP need be there.
#[derive(Debug)]
pub(crate) struct Echo {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    ours: Ours,
}

/// What tells our requests from others'.
#[derive(Debug, Clone, Copy)]
struct Ours {
    identifier: [u8; 2],
    secret: [u8; SECRET],
}

impl Echo {
    /// Must be called within a tokio runtime, on a thread in the network namespace of the paths.
    pub(crate) fn new() -> io::Result<Self> {
        let socket = |open: fn() -> io::Result<Socket>| {
            // Tokio has no type for them; what is sent and received is the same.
            let socket = open().and_then(|socket| UdpSocket::from_std(socket.into()));
            socket.inspect_err(|error| tracing::debug!(%error, "no probes of one kind of IP"))
        };
        let (v4, v6) = (socket(open4), socket(open6));
        if let (Err(error), Err(_)) = (&v4, &v6) {
            return Err(io::Error::new(error.kind(), error.to_string()));
        }
        let mut random = rand::rng();
        let ours = Ours { identifier: random.random(), secret: random.random() };
        Ok(Self { v4: v4.ok(), v6: v6.ok(), ours })
    }

    /// Sends a probe, if it can be sent whole and at once.
    pub(crate) fn send(&self, to: IpAddr, probe: Probe) -> io::Result<()> {
        let packet = self.ours.request(to, probe);
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?;
        socket.try_send_to(&packet, SocketAddr::new(to, 0)).map(drop)
    }

    /// The next answer.
    pub(crate) async fn answer(&self) -> Answer {
        tokio::select! {
            answer = self.answer_of(self.v4.as_ref()) => answer,
            answer = self.answer_of(self.v6.as_ref()) => answer,
        }
    }

    async fn answer_of(&self, socket: Option<&UdpSocket>) -> Answer {
        let Some(socket) = socket else { return std::future::pending().await };
        // Longer ones are no answers to us, and are cut off here.
        let mut buffer = vec![0; usize::from(LARGEST_PATH) + 1];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "answers to probes");
                    tokio::time::sleep(RETRY_FIRST).await;
                    continue;
                }
            };
            let packet = buffer.get(..length).unwrap_or_default();
            let answer = match from.ip() {
                IpAddr::V4(_) => self.ours.answer4(packet),
                IpAddr::V6(from) => self.ours.answer6(from, packet),
            };
            if let Some(answer) = answer {
                return answer;
            }
        }
    }
}

fn open4() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(Protocol::ICMPV4))?;
    // So that "may not be cut" is said in each packet, whatever the kernel believes of the path.
    socket.set_header_included_v4(true)?;
    socket.set_recv_buffer_size(PROBE_BUFFER)?;
    Ok(socket)
}

fn open6() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
    setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
    socket.set_recv_buffer_size(PROBE_BUFFER)?;
    Ok(socket)
}

impl Ours {
    /// A whole packet, its IP header included where the socket wants one.
    fn request(&self, to: IpAddr, probe: Probe) -> Vec<u8> {
        let header = if to.is_ipv4() { HEADER4 } else { HEADER6 };
        let mut icmp = vec![0; usize::from(probe.size).saturating_sub(header).max(ICMP + SECRET + NUMBER)];
        icmp[0] = if to.is_ipv4() { REQUEST4 } else { REQUEST6 };
        icmp[4..6].copy_from_slice(&self.identifier);
        icmp[6..8].copy_from_slice(&probe.number.to_be_bytes()[2..]);
        icmp[8..16].copy_from_slice(&self.secret);
        icmp[16..20].copy_from_slice(&probe.number.to_be_bytes());
        let IpAddr::V4(to) = to else { return icmp };
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        // Length, identification, checksum and source are the kernel's to fill in (raw(7)). 0x40: may not be cut.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, libc::IPPROTO_ICMP as u8, 0, 0, 0, 0, 0, 0];
        packet.extend(to.octets());
        packet.extend(icmp);
        packet
    }

    fn answer4(&self, packet: &[u8]) -> Option<Answer> {
        let header = usize::from(packet.first()? & 0xf) * 4;
        let from = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
        self.answer(REPLY4, from.into(), packet.get(header..)?, packet.len())
    }

    fn answer6(&self, from: Ipv6Addr, icmp: &[u8]) -> Option<Answer> {
        self.answer(REPLY6, from.into(), icmp, icmp.len() + HEADER6)
    }

    fn answer(&self, kind: u8, from: IpAddr, icmp: &[u8], size: usize) -> Option<Answer> {
        let ours =
            *icmp.first()? == kind && icmp.get(4..6)? == self.identifier && icmp.get(8..16)? == self.secret;
        let number = u32::from_be_bytes(*icmp.get(16..)?.first_chunk::<4>()?);
        let probe = Probe { size: u16::try_from(size).ok()?, number };
        ours.then_some(Answer { from, probe })
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = pairs.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Ours = Ours { identifier: [7, 8], secret: [9; 8] };

    fn reply(mut packet: Vec<u8>, header: usize, kind: u8) -> Vec<u8> {
        packet[header] = kind;
        // The kernel fills that in.
        if header > 0 {
            packet[12..16].copy_from_slice(&[10, 0, 0, 9]);
        }
        packet
    }

    #[test]
    fn a_request_is_as_long_as_asked_and_its_answer_is_known() {
        let probe = Probe { size: 1_400, number: 0x01_0203 };
        let to: IpAddr = "10.0.0.9".parse().unwrap();
        let request = OURS.request(to, probe);
        assert_eq!((request.len(), request[6] & 0x40), (1_400, 0x40));
        assert_eq!(checksum(&request[HEADER4..]), 0);
        assert_eq!(OURS.answer4(&request), None, "our own request is no answer");
        assert_eq!(OURS.answer4(&reply(request, HEADER4, REPLY4)), Some(Answer { from: to, probe }));
        let to: Ipv6Addr = "fd00::9".parse().unwrap();
        let request = OURS.request(to.into(), probe);
        assert_eq!(request.len() + HEADER6, 1_400);
        let answer = OURS.answer6(to, &reply(request.clone(), 0, REPLY6));
        assert_eq!(answer, Some(Answer { from: to.into(), probe }));
        let others = Ours { secret: [8; 8], ..OURS };
        assert_eq!(others.answer6(to, &reply(request, 0, REPLY6)), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_no_answers(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(OURS.answer4(&bytes), None);
            prop_assert_eq!(OURS.answer6(Ipv6Addr::LOCALHOST, &bytes), None);
        }

        /// Every piece of an answer is read, or nothing is.
        #[test]
        fn a_piece_of_an_answer_is_no_other_answer(length in 0..200_usize) {
            let probe = Probe { size: 100, number: 5 };
            let whole = reply(OURS.request(IpAddr::from([10, 0, 0, 9]), probe), HEADER4, REPLY4);
            let piece = whole.get(..length).unwrap_or(&whole);
            if let Some(answer) = OURS.answer4(piece) {
                prop_assert_eq!(usize::from(answer.probe.size), piece.len());
            }
        }
    }
}
