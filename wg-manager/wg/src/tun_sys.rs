//! The system calls on a TUN device that no safe library offers.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use crate::offload::Features;

/// Longest interface name (`IFNAMSIZ` with the final zero).
pub const MAX_NAME: usize = libc::IFNAMSIZ - 1;
/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`: packets without checksums, and uncut TCP packets.
const TSO: libc::c_uint = 0x01 | 0x02 | 0x04;
/// `TUN_F_USO4 | TUN_F_USO6`: uncut UDP packets. Since Linux 6.2.
const USO: libc::c_uint = 0x20 | 0x40;
/// `TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM`: either of them inside a UDP tunnel. Since Linux 6.17.
const TUNNEL: libc::c_uint = 0x80 | 0x100;

/// Make `file` (an open `/dev/net/tun`) the device `name`, and have the kernel hand over packets as large as it can.
/// What that is, it says.
pub fn attach(file: &File, name: &str) -> io::Result<Features> {
    let mut request = request(name)?;
    // The flags all fit: the largest is 0x4000.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, for the duration of the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let mut refused = io::Error::from(io::ErrorKind::Unsupported);
    // In order: the most first.
    for features in [
        Features { tso: true, uso: true, tunnel: true },
        Features { tso: true, uso: true, tunnel: false },
        Features { tso: true, uso: false, tunnel: false },
        Features::default(),
    ] {
        match offer(file, features) {
            Ok(()) => return Ok(features),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Offers the kernel to take packets with `features`, and headers of their length.
fn offer(file: &File, features: Features) -> io::Result<()> {
    // The two numbers of the tunnel are little endian, the others are the machine's; nobody has tried that.
    if features.tunnel && cfg!(target_endian = "big") {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let flag = |wanted: bool, flags: libc::c_uint| if wanted { flags } else { 0 };
    let flags = flag(features.tso, TSO) | flag(features.uso, USO) | flag(features.tunnel, TUNNEL);
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })?;
    let length = features.vnet_len() as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which `length` is, for the duration of the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) })
}

/// Set the MTU of the device `name` of this network namespace.
pub fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
    let socket = any_socket()?;
    // SAFETY: SIOCSIFMTU reads one ifreq, which `request` is, for the duration of the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut request) })
}

/// Sets how many packets the kernel holds for us while we are not scheduled.
pub fn set_queue_length(name: &str, packets: libc::c_int) -> io::Result<()> {
    let socket = any_socket()?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_metric = packets;
    // SAFETY: the kernel only reads the request, which lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut request) })
}

/// The MTU of the device `name` of this network namespace.
pub fn mtu(name: &str) -> io::Result<u16> {
    let mut request = request(name)?;
    let socket = any_socket()?;
    // SAFETY: SIOCGIFMTU writes one ifreq, which `request` is, for the duration of the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) })?;
    // SAFETY: the call succeeded, so the kernel has filled in the MTU; any bits make a c_int.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u16::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// The name of the device that `file` is. An error, if it is none any more.
pub fn name(file: &File) -> io::Result<String> {
    let mut request = request("?")?;
    // SAFETY: TUNGETIFF writes one ifreq, which `request` is, for the duration of the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let name = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0);
    String::from_utf8(name.collect()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Device ioctls need some socket of the namespace.
fn any_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: ifreq is plain data; all zero is a valid value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
