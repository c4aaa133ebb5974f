//! Receiving: many datagrams in one system call, joined ones in one piece, and of each the address it was sent to.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};

use crate::limits::{MAX_PACKET, RECEIVES};
use crate::socket::Socket;

/// Space for one system call's datagrams.
pub struct Receiver {
    space: Vec<u8>,
    found: Vec<Found>,
}

/// Datagrams of one sender, each of `segment` bytes but the last.
pub struct Datagrams<'a> {
    pub bytes: &'a mut [u8],
    pub segment: usize,
    pub from: SocketAddr,
}

struct Found {
    length: usize,
    segment: usize,
    from: Option<SocketAddr>,
}

impl Receiver {
    pub fn new() -> Self {
        Self { space: vec![0; RECEIVES * MAX_PACKET], found: Vec::with_capacity(RECEIVES) }
    }

    /// Waits for something, and takes what is there.
    pub fn receive(&mut self, socket: &Socket) -> io::Result<impl Iterator<Item = Datagrams<'_>>> {
        self.found.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.space.chunks_exact_mut(MAX_PACKET).map(|buffer| [IoSliceMut::new(buffer)]).collect();
        // Made anew each time: the kernel leaves in them how much space it has used.
        let control = nix::cmsg_space!(i32, libc::in6_pktinfo);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(RECEIVES, Some(control));
        let waits = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, waits, None)?;
        let mut last = None;
        for message in received {
            let from = message.address.as_ref().and_then(address);
            let (mut segment, mut to) = (message.bytes.max(1), None);
            // The kernel says that the space was too small: what is missing is only help.
            if let Ok(controls) = message.cmsgs() {
                for control in controls {
                    match control {
                        ControlMessageOwned::UdpGroSegments(size) if size > 0 => segment = size as usize,
                        ControlMessageOwned::Ipv6PacketInfo(info) => {
                            to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                        }
                        ControlMessageOwned::Ipv4PacketInfo(info) => {
                            to = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
                        }
                        _ => {}
                    }
                }
            }
            // One peer's datagrams come one after the other.
            if last != Some((from, to)) {
                last = Some((from, to));
                if let (Some(from), Some(to)) = (from, to) {
                    socket.sources.learn(from, to);
                }
            }
            self.found.push(Found { length: message.bytes, segment, from });
        }
        let found = self.space.chunks_exact_mut(MAX_PACKET).zip(&self.found);
        Ok(found.filter_map(|(space, found)| {
            Some(Datagrams { bytes: &mut space[..found.length], segment: found.segment, from: found.from? })
        }))
    }
}

/// An IPv4 address that a socket of both versions shows in IPv6 is an IPv4 address.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::from(*v4));
    }
    let v6 = std::net::SocketAddrV6::from(*storage.as_sockaddr_in6()?);
    Some(match v6.ip().to_ipv4_mapped() {
        Some(v4) => SocketAddr::from((v4, v6.port())),
        None => SocketAddr::V6(v6),
    })
}
