//! Every pair of pods, protocol and port at once, with real packets.
//!
//! A probe is a TCP connection, a datagram, or the first packet of an SCTP association (crafted, so that it needs no
//! SCTP in the kernel). Denied ones are dropped in silence. Nobody waits for silence here: a round is over when every
//! probe has arrived or is among the packets that the programs have counted as dropped. What arrives after its round
//! is found in the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::probe::{LENGTH, Probe as Datagram};
use crate::world::Place;
use crate::{tcp, udp};

/// IANA's number of SCTP.
const SCTP: i32 = 132;
/// Where probes come from, where they have a port that is chosen.
const SOURCE_PORT: u16 = 40_000;
/// What must arrive has this long; nothing takes this long that is not lost.
const ARRIVAL: Duration = Duration::from_secs(8);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(1);

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
    /// An INIT.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As Kubernetes writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// One thing to try.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Pod, as `namespace/name`.
    pub from: String,
    /// Likewise.
    pub to: String,
    /// What is sent.
    pub protocol: Protocol,
    /// Where to.
    pub port: u16,
}

/// All ends of all probes.
#[derive(Debug)]
pub struct Matrix {
    ports: Vec<u16>,
    actors: BTreeMap<String, Actor>,
    round: u32,
}

/// One pod's sockets: made in its namespace, used from outside.
#[derive(Debug)]
struct Actor {
    place: Place,
    ip: IpAddr,
    sender: UdpSocket,
    sctp: Socket,
    receivers: Vec<(u16, UdpSocket)>,
    listeners: Vec<TcpListener>,
    accepted: Vec<TcpStream>,
}

impl Actor {
    /// Takes the connections that have come.
    fn accept(&mut self) {
        for listener in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                self.accepted.push(stream);
            }
        }
    }

    fn new(place: Place, ports: &[u16]) -> Result<Self> {
        let space = &place.space;
        let receivers =
            ports.iter().map(|port| Ok((*port, udp::socket(space, *port)?))).collect::<Result<_>>()?;
        let sctp = space.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(SCTP.into()))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        Ok(Self {
            ip: place.address(false)?,
            sender: udp::socket(space, SOURCE_PORT)?,
            sctp,
            receivers,
            listeners: ports.iter().map(|port| tcp::listen(space, *port)).collect::<Result<_>>()?,
            accepted: Vec::new(),
            place,
        })
    }
}

/// What a round has seen so far.
struct Round<'a> {
    number: u32,
    probes: &'a [Probe],
    arrived: Vec<bool>,
    connecting: Vec<(usize, Socket)>,
    connected: Vec<Socket>,
}

impl Matrix {
    /// With nobody in it, for probes to these ports.
    #[must_use]
    pub fn new(ports: &[u16]) -> Self {
        Self { ports: ports.to_vec(), actors: BTreeMap::new(), round: 0 }
    }

    /// Says who is there; `place` says where those are that were not.
    ///
    /// # Errors
    /// Where sockets cannot be made.
    pub fn set_pods<'a>(
        &mut self,
        pods: impl Iterator<Item = &'a str>,
        place: impl Fn(&str) -> Result<Place>,
    ) -> Result<()> {
        let wanted: BTreeSet<&str> = pods.collect();
        self.actors.retain(|pod, _| wanted.contains(pod.as_str()));
        for pod in wanted {
            if !self.actors.contains_key(pod) {
                self.actors.insert(pod.to_owned(), Actor::new(place(pod)?, &self.ports)?);
            }
        }
        Ok(())
    }

    /// Sends every probe once; says which arrived. `expected` are those that are waited for; `dropped` says how many
    /// packets have been dropped by policy so far.
    ///
    /// # Errors
    /// Where a probe cannot be sent, one of an earlier round arrives, or some are neither here nor dropped.
    pub fn round(
        &mut self,
        probes: &[Probe],
        expected: &[bool],
        dropped: impl Fn() -> Result<u64>,
    ) -> Result<Vec<bool>> {
        self.round += 1;
        let before = dropped()?;
        let mut round = Round {
            number: self.round,
            probes,
            arrived: vec![false; probes.len()],
            connecting: Vec::new(),
            connected: Vec::new(),
        };
        self.send(&mut round)?;
        let started = Instant::now();
        let accounted = |round: &Round<'_>| -> Result<bool> {
            let arrived = round.arrived.iter().filter(|arrived| **arrived).count();
            Ok(arrived as u64 + (dropped()? - before) >= probes.len() as u64)
        };
        loop {
            self.look(&mut round)?;
            let waited_for = expected.iter().zip(&round.arrived).any(|(wanted, is)| *wanted && !is);
            if !waited_for && accounted(&round)? {
                break;
            }
            if started.elapsed() > ARRIVAL {
                ensure!(accounted(&round)?, "some probes are neither here nor dropped by policy");
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let arrived = std::mem::take(&mut round.arrived);
        self.hang_up(round)?;
        Ok(arrived)
    }

    fn actor(&self, pod: &str) -> Result<&Actor> {
        self.actors.get(pod).with_context(|| format!("no pod {pod}"))
    }

    fn send(&self, round: &mut Round<'_>) -> Result<()> {
        let mut sockets = self.tcp_sockets(round.probes)?;
        for (index, probe) in round.probes.iter().enumerate() {
            let (from, to) =
                (self.actor(&probe.from)?, SocketAddr::new(self.actor(&probe.to)?.ip, probe.port));
            match probe.protocol {
                Protocol::Udp => {
                    let datagram = Datagram::now(round.number, u32::try_from(index)?).encode();
                    from.sender.send_to(&datagram, udp::mapped(to))?;
                }
                Protocol::Sctp => {
                    let init = init(probe.port, round.number, u32::try_from(index)?);
                    from.sctp.send_to(&init, &SocketAddr::new(to.ip(), 0).into())?;
                }
                Protocol::Tcp => {
                    let socket =
                        sockets.get_mut(&probe.from).and_then(Vec::pop).context("a socket too few")?;
                    socket.set_nonblocking(true)?;
                    match socket.connect(&to.into()) {
                        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                            bail!("{probe:?}: {error}")
                        }
                        _ => round.connecting.push((index, socket)),
                    }
                }
            }
        }
        Ok(())
    }

    /// As many sockets in each pod as it has connections to try.
    fn tcp_sockets(&self, probes: &[Probe]) -> Result<BTreeMap<String, Vec<Socket>>> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for probe in probes.iter().filter(|probe| probe.protocol == Protocol::Tcp) {
            *counts.entry(&probe.from).or_default() += 1;
        }
        let mut made = BTreeMap::new();
        for (pod, count) in counts {
            let actor = self.actor(pod)?;
            made.insert(
                pod.to_owned(),
                tcp::sockets(&actor.place.space, SocketAddr::new(actor.ip, 0), count)?,
            );
        }
        Ok(made)
    }

    /// Takes in whatever has come.
    fn look(&mut self, round: &mut Round<'_>) -> Result<()> {
        for (pod, actor) in &mut self.actors {
            actor.accept();
            let mut buffer = [0; 2048];
            for (port, socket) in &actor.receivers {
                while let Ok(length) = socket.recv(&mut buffer[..=LENGTH]) {
                    let Some(datagram) = Datagram::decode(&buffer[..length]) else { continue };
                    round.note(datagram.flow, datagram.number, pod, Protocol::Udp, *port)?;
                }
            }
            while let Ok(length) = (&actor.sctp).read(&mut buffer) {
                let Some((port, number, index)) = read_init(&buffer[..length]) else { continue };
                round.note(number, index, pod, Protocol::Sctp, port)?;
            }
        }
        round.look_at_connections()
    }

    /// Ends every connection, and waits until the other side knows: nothing of a round is on its way after it.
    fn hang_up(&mut self, round: Round<'_>) -> Result<()> {
        let connected = round.connected.len();
        for socket in round.connected {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        drop(round.connecting);
        let started = Instant::now();
        let mut ended = 0;
        while ended < connected {
            for actor in self.actors.values_mut() {
                actor.accept();
                let before = actor.accepted.len();
                actor.accepted.retain_mut(is_open);
                ended += before - actor.accepted.len();
            }
            ensure!(started.elapsed() < ARRIVAL, "{} connections do not end", connected - ended);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Round<'_> {
    fn note(&mut self, round: u32, index: u32, pod: &str, protocol: Protocol, port: u16) -> Result<()> {
        let index = index as usize;
        ensure!(
            round == self.number,
            "probe {index} of round {round} arrived in round {}, after it was given up",
            self.number
        );
        let probe = self.probes.get(index).with_context(|| format!("probe {index} was never sent"))?;
        let here = probe.to == pod && probe.protocol == protocol && probe.port == port;
        ensure!(here, "{probe:?} arrived at {pod} {} {port}", protocol.name());
        self.arrived[index] = true;
        Ok(())
    }

    fn look_at_connections(&mut self) -> Result<()> {
        let mut polled: Vec<PollFd> = self
            .connecting
            .iter()
            .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        poll(&mut polled, PollTimeout::ZERO)?;
        let ready: Vec<bool> = polled.iter().map(|polled| polled.any() == Some(true)).collect();
        let mut ready = ready.into_iter();
        let (done, waiting) =
            std::mem::take(&mut self.connecting).into_iter().partition(|_| ready.next() == Some(true));
        self.connecting = waiting;
        let done: Vec<(usize, Socket)> = done;
        for (index, socket) in done {
            if let Some(error) = socket.take_error()? {
                bail!("{:?}: {error}: neither through nor silently dropped", self.probes[index]);
            }
            self.arrived[index] = true;
            self.connected.push(socket);
        }
        Ok(())
    }
}

/// Whether a connection that its client has reset does not know it yet.
fn is_open(stream: &mut TcpStream) -> bool {
    let waits = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    // What was accepted does not inherit that it must not block.
    stream.set_nonblocking(true).is_ok() && stream.read(&mut [0]).is_err_and(|error| waits(&error))
}

/// An INIT (RFC 9260, section 3.3.2) that says which probe it is. Its checksum is left out: the pods' kernels have
/// nothing that would look at it.
fn init(port: u16, round: u32, index: u32) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(SOURCE_PORT.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(round.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(index.to_be_bytes());
    packet
}

/// Port, round and index of an INIT behind its IPv4 header.
fn read_init(packet: &[u8]) -> Option<(u16, u32, u32)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let sctp = packet.get(header..).filter(|sctp| sctp.get(12) == Some(&1))?;
    let word = |at: usize| Some(u32::from_be_bytes(sctp.get(at..at + 4)?.try_into().ok()?));
    Some((u16::from_be_bytes([*sctp.get(2)?, *sctp.get(3)?]), word(16)?, word(28)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_says_which_probe_it_is() {
        let packet = [&[0x45; 20][..], &init(81, 7, 300)].concat();
        assert_eq!(read_init(&packet), Some((81, 7, 300)));
        assert!((0..packet.len()).all(|length| read_init(&packet[..length]).is_none()));
        assert_eq!(read_init(&[0x45; 60]), None);
    }
}
