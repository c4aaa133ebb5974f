//! Receiving: many datagrams in one system call, joined ones cut again, and of each the address it was sent to.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use gotatun::packet::{Packet, PacketBufPool};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};

use crate::limits::{MAX_PACKET, RECEIVES};
use crate::sources::Sources;

/// Space for one system call's datagrams.
pub struct Buffers(Vec<u8>);

impl Default for Buffers {
    fn default() -> Self {
        Self(vec![0; RECEIVES * MAX_PACKET])
    }
}

/// Takes what is there. `WouldBlock` if that is nothing.
pub fn receive(
    fd: RawFd,
    buffers: &mut Buffers,
    pool: &PacketBufPool,
    packets: &mut Vec<(Packet, SocketAddr)>,
    sources: &Sources,
) -> io::Result<()> {
    let space = nix::cmsg_space!(i32, libc::in6_pktinfo);
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(RECEIVES, Some(space));
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.0.chunks_exact_mut(MAX_PACKET).map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let received = recvmmsg(fd, &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
    let mut last = None;
    for message in received {
        let (Some(from), Some(bytes)) = (message.address.as_ref().and_then(address), message.iovs().next())
        else {
            continue;
        };
        let (mut segment, mut to) = (bytes.len().max(1), None);
        // The kernel says that the space was too small: what is missing is only help.
        if let Ok(messages) = message.cmsgs() {
            for control in messages {
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
            to.into_iter().for_each(|to| sources.learn(from, to));
        }
        for datagram in bytes.chunks(segment) {
            let mut packet = pool.get();
            packet.buf_mut().clear();
            packet.buf_mut().extend_from_slice(datagram);
            packets.push((packet, from));
        }
    }
    Ok(())
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
