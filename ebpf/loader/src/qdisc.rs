//! Which qdisc an interface has where its clsact should be (`RTM_GETQDISC`).
//!
//! Both `clsact` and the older `ingress` sit in the same place, and the older one takes filters meant for the
//! way out without a word and runs them on the way in. So the kind is looked at before anything is attached.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Where both kinds sit.
const PARENT: u32 = 0xffff_fff1;
/// Attribute with the qdisc's name (`TCA_KIND`).
const KIND: u16 = 1;
/// Bytes of a netlink header, and of the `tcmsg` behind it.
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// Whether the interface has a clsact qdisc.
pub(crate) fn is_clsact(ifindex: u32) -> io::Result<bool> {
    let socket = open()?;
    let mut request = Vec::new();
    request.extend(((HEADER + TCMSG) as u32).to_ne_bytes());
    request.extend(libc::RTM_GETQDISC.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.resize(HEADER + TCMSG, 0);
    // SAFETY: the buffer has as many bytes as are said, and lives through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    loop {
        let part = receive(&socket)?;
        match find(&part, ifindex) {
            Found::Kind(kind) => return Ok(kind == b"clsact"),
            Found::End => return Ok(false),
            Found::More => {}
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: a plain socket call.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 32 * 1024];
    // SAFETY: the buffer has as many bytes as are said, and lives through the call.
    let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(length);
    Ok(buffer)
}

enum Found<'a> {
    Kind(&'a [u8]),
    More,
    End,
}

/// Walks the messages of one part of the answer.
fn find(mut part: &[u8], ifindex: u32) -> Found<'_> {
    while let Some((length, kind)) = u32_at(part, 0).zip(u16_at(part, 4)) {
        let length = length as usize;
        let ends = kind == libc::NLMSG_DONE as u16 || kind == libc::NLMSG_ERROR as u16;
        let Some(message) = part.get(HEADER..length).filter(|_| !ends) else { return Found::End };
        let here = u32_at(message, 4) == Some(ifindex) && u32_at(message, 12) == Some(PARENT);
        if let Some(name) = message.get(TCMSG..).filter(|_| here).and_then(name) {
            return Found::Kind(name);
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Found::More
}

/// The qdisc's name among the attributes, without its zero byte.
fn name(mut attributes: &[u8]) -> Option<&[u8]> {
    while let Some((length, kind)) = u16_at(attributes, 0).zip(u16_at(attributes, 2)) {
        let value = attributes.get(4..length.into())?;
        if kind == KIND {
            return value.strip_suffix(&[0]).or(Some(value));
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
