//! The UDP socket: datagrams of one size to one peer leave in one system call.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBufForce, SndBufForce};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt};
use tokio::io::Interest;

use crate::limits::{BATCH, MAX_SEGMENTS, MAX_SEND, SOCKET_BUFFER};
use crate::sources::Sources;
use crate::udp_recv::{Buffers, receive};

/// Opens [`Socket`]s, and keeps the last one: the core stops and starts anew when anything about the device
/// changes, and the port must not be lost in between (nor the datagrams that arrive then).
#[derive(Default)]
pub struct Factory {
    inner: UdpSocketFactory,
    last: Option<Socket>,
}

/// A socket for both IP versions.
#[derive(Clone)]
pub struct Socket {
    inner: UdpSocket,
    /// The path's interface can complete checksums of joined datagrams. Until it says otherwise.
    joins: Arc<AtomicBool>,
    sources: Sources,
}

impl UdpTransportFactory for Factory {
    type Send = Socket;
    type Recv = Socket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Socket, Socket)> {
        if let Some(socket) = self.last.as_ref().filter(|last| last.has_port(params.port)) {
            socket.set_fwmark(params.fwmark.unwrap_or(0))?;
            return Ok((socket.clone(), socket.clone()));
        }
        let (inner, _) = self.inner.bind(params).await?;
        // Beyond the system's limit, as root may; if not, the default has to do.
        let grown = setsockopt(&inner, RcvBufForce, &SOCKET_BUFFER)
            .and_then(|()| setsockopt(&inner, SndBufForce, &SOCKET_BUFFER));
        if let Err(error) = grown {
            tracing::debug!(%error, "socket buffers stay small");
        }
        // Without them peers are answered from whatever address the kernel chooses.
        let told = setsockopt(&inner, Ipv6RecvPacketInfo, &true)
            .or_else(|_| setsockopt(&inner, Ipv4PacketInfo, &true));
        if let Err(error) = told {
            tracing::debug!(%error, "the addresses that datagrams are sent to stay unknown");
        }
        let joins = Arc::new(AtomicBool::new(true));
        let socket = Socket { inner, joins, sources: Sources::default() };
        self.last = Some(socket.clone());
        Ok((socket.clone(), socket))
    }
}

impl UdpRecv for Socket {
    type RecvManyBuf = Buffers;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        self.inner.recv_from(pool).await
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        // An error the network reported about one datagram must not end the socket.
        let socket = self.inner.socket();
        let mut receive = || receive(socket.as_raw_fd(), buffer, pool, packets, &self.sources);
        while let Err(error) = socket.async_io(Interest::READABLE, &mut receive).await {
            match error.raw_os_error() {
                Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) | None => return Err(error),
                Some(_) => tracing::debug!(%error, "receiving"),
            }
        }
        Ok(())
    }
}

impl UdpSend for Socket {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.send_some(&[IoSlice::new(&packet)], None, destination).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH
    }

    async fn send_many_to(&self, (): &mut (), packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            let (run, after) = rest.split_at(run_length(rest));
            self.send_run(run).await;
            rest = after;
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSend::local_addr(&self.inner)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.inner.set_fwmark(mark)
    }
}

/// How many of the first datagrams can leave together: same destination, same size (the last may be
/// shorter).
fn run_length(packets: &[(Packet, SocketAddr)]) -> usize {
    let Some((first, destination)) = packets.first() else { return 0 };
    let size = first.len();
    let mut total = 0;
    for (at, (packet, to)) in packets.iter().enumerate() {
        total += packet.len();
        if to != destination || packet.len() > size || at == MAX_SEGMENTS || (at > 0 && total > MAX_SEND) {
            return at;
        }
        if packet.len() < size {
            return at + 1;
        }
    }
    packets.len()
}

/// The address is not this node's any more, or leads nowhere from there.
fn is_about_the_source(error: &io::Error) -> bool {
    let about = [libc::EINVAL, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENODEV];
    error.raw_os_error().is_some_and(|errno| about.contains(&errno))
}

fn v4_source(own: IpAddr) -> Option<libc::in_pktinfo> {
    let IpAddr::V4(own) = own else { return None };
    let address = |ip: Ipv4Addr| libc::in_addr { s_addr: u32::from(ip).to_be() };
    let nowhere = address(Ipv4Addr::UNSPECIFIED);
    Some(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address(own), ipi_addr: nowhere })
}

fn v6_source(own: IpAddr) -> Option<libc::in6_pktinfo> {
    let IpAddr::V6(own) = own else { return None };
    Some(libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: own.octets() }, ipi6_ifindex: 0 })
}

impl Socket {
    fn has_port(&self, port: u16) -> bool {
        self.inner.local_addr().is_ok_and(|address| address.port() == port)
    }

    /// Loses what cannot be sent, as UDP does.
    async fn send_run(&self, run: &[(Packet, SocketAddr)]) {
        if run.len() > 1 && self.joins.load(Ordering::Relaxed) {
            match self.send_joined(run).await {
                Ok(()) => return,
                Err(error) => self.not_joined(&error),
            }
        }
        for (packet, destination) in run {
            if let Err(error) = self.send_some(&[IoSlice::new(packet)], None, *destination).await {
                tracing::trace!(%error, "sending");
            }
        }
    }

    /// EIO: the interface cannot do checksums, and never will. Others (a smaller path MTU, no route) concern
    /// this run.
    fn not_joined(&self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EIO) {
            tracing::info!("the network interface cannot take joined datagrams; sending them one by one");
            self.joins.store(false, Ordering::Relaxed);
        }
    }

    async fn send_joined(&self, run: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let Some((first, destination)) = run.first() else { return Ok(()) };
        let size = u16::try_from(first.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let slices: Vec<IoSlice<'_>> = run.iter().map(|(packet, _)| IoSlice::new(packet)).collect();
        self.send_some(&slices, Some(size), *destination).await
    }

    /// One datagram, or several of `segment` bytes each: from the address that the peer has sent to, or else from
    /// any.
    async fn send_some(
        &self,
        slices: &[IoSlice<'_>],
        segment: Option<u16>,
        destination: SocketAddr,
    ) -> io::Result<()> {
        if let Some(own) = self.sources.of(destination) {
            match self.send_from(slices, segment, destination, Some(own)).await {
                Err(error) if is_about_the_source(&error) => self.sources.forget(destination),
                result => return result,
            }
        }
        self.send_from(slices, segment, destination, None).await
    }

    async fn send_from(
        &self,
        slices: &[IoSlice<'_>],
        segment: Option<u16>,
        destination: SocketAddr,
        own: Option<IpAddr>,
    ) -> io::Result<()> {
        let (v4, v6) = (own.and_then(v4_source), own.and_then(v6_source));
        let mut control = Vec::with_capacity(2);
        control.extend(segment.as_ref().map(ControlMessage::UdpGsoSegments));
        control.extend(v4.as_ref().map(ControlMessage::Ipv4PacketInfo));
        control.extend(v6.as_ref().map(ControlMessage::Ipv6PacketInfo));
        let (socket, to) = (self.inner.socket(), SockaddrStorage::from(destination));
        let send = || {
            let sent = sendmsg(socket.as_raw_fd(), slices, &control, MsgFlags::MSG_DONTWAIT, Some(&to));
            sent.map(|_| ()).map_err(io::Error::from)
        };
        socket.async_io(Interest::WRITABLE, send).await
    }
}
