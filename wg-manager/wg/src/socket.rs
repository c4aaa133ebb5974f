//! The UDP socket: datagrams of one size to one peer leave in one system call.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::sockopt::{
    Ipv4PacketInfo, Ipv6RecvPacketInfo, Mark, RcvBufForce, SndBufForce, UdpGroSegment,
};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt};
use socket2::{Domain, Protocol, Type};

use crate::limits::{SILENCE, SOCKET_BUFFER};
use crate::sources::Sources;

/// A socket for both IP versions, or for IPv4 where there is no other.
pub struct Socket {
    inner: socket2::Socket,
    port: u16,
    /// The path's interface can complete checksums of joined datagrams. Until it says otherwise.
    joins: AtomicBool,
    closed: AtomicBool,
    /// From where peers are answered.
    pub sources: Sources,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl Socket {
    /// Listens on the port; the kernel chooses one if it is 0.
    pub fn bind(port: u16, mark: u32) -> io::Result<Self> {
        let inner = both_versions(port).or_else(|error| match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => one_version(port),
            _ => Err(error),
        })?;
        Self::prepared(inner, mark)
    }

    /// A bound socket, made ready.
    pub fn prepared(inner: socket2::Socket, mark: u32) -> io::Result<Self> {
        // A thread that waits in it looks up from time to time.
        inner.set_read_timeout(Some(SILENCE))?;
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
        if let Err(error) = setsockopt(&inner, UdpGroSegment, &true) {
            tracing::debug!(%error, "datagrams come one by one");
        }
        let port = inner.local_addr()?.as_socket().map_or(0, |address| address.port());
        let (joins, closed) = (AtomicBool::new(true), AtomicBool::new(false));
        let socket = Self { inner, port, joins, closed, sources: Sources::default() };
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        Ok(socket)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The firewall mark of what is sent.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        Ok(setsockopt(&self.inner, Mark, &mark)?)
    }

    /// Whoever waits in it is to stop.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // It says that the socket is not connected, and wakes them up.
        let _ = self.inner.shutdown(std::net::Shutdown::Both);
    }

    /// It was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Messages of `size` bytes each, the last of which may be shorter. Loses what cannot be sent, as UDP does.
    pub fn send_run(&self, messages: &[u8], size: usize, to: SocketAddr) {
        if messages.len() > size && self.joins.load(Ordering::Relaxed) {
            match u16::try_from(size)
                .map_err(io::Error::other)
                .and_then(|size| self.send(messages, Some(size), to))
            {
                Ok(()) => return,
                Err(error) => self.not_joined(&error),
            }
        }
        for message in messages.chunks(size.max(1)) {
            if let Err(error) = self.send(message, None, to) {
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

    /// One datagram, or several of `segment` bytes each: from the address that the peer has sent to, or else from
    /// any.
    pub fn send(&self, bytes: &[u8], segment: Option<u16>, to: SocketAddr) -> io::Result<()> {
        if let Some(own) = self.sources.of(to) {
            match self.send_from(bytes, segment, to, Some(own)) {
                Err(error) if is_about_the_source(&error) => self.sources.forget(to),
                result => return result,
            }
        }
        self.send_from(bytes, segment, to, None)
    }

    fn send_from(
        &self,
        bytes: &[u8],
        segment: Option<u16>,
        to: SocketAddr,
        own: Option<IpAddr>,
    ) -> io::Result<()> {
        let (v4, v6) = (own.and_then(v4_source), own.and_then(v6_source));
        let messages = [
            segment.as_ref().map(ControlMessage::UdpGsoSegments),
            v4.as_ref().map(ControlMessage::Ipv4PacketInfo),
            v6.as_ref().map(ControlMessage::Ipv6PacketInfo),
        ];
        let control: Vec<_> = messages.into_iter().flatten().collect();
        let to = SockaddrStorage::from(to);
        let slices = [IoSlice::new(bytes)];
        sendmsg(self.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to))?;
        Ok(())
    }
}

fn both_versions(port: u16) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn one_version(port: u16) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
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
