//! The parking device: a TAP whose frames are packets that wait for a proof.
//!
//! TAP, not TUN, because the Ethernet header carries which endpoint and which peer a frame waits for. The
//! device is persistent, so its interface index outlives the agent and a redirect never meets another
//! interface; without a reader the kernel drops what is sent to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use nix::libc;
use nix::net::if_::if_nametoindex;

/// Frames the kernel holds for the agent; beyond it the newest is dropped. Four endpoints may use up what each
/// of them may park in a second (`PARK_SLOT_PACKETS` of the datapath) before the agent is scheduled.
const TX_QUEUE_LEN: libc::c_int = 16_384;
/// Whatever a pod's interface can send must fit: a redirect to a smaller device drops.
const MTU: libc::c_int = 65_521;

mod call {
    nix::ioctl_write_int!(tun_set_iff, b'T', 202);
    nix::ioctl_write_int!(tun_set_persist, b'T', 203);
}
use call::{tun_set_iff, tun_set_persist};

/// An open parking device.
#[derive(Debug)]
pub struct Tap {
    file: File,
    ifindex: u32,
}

impl Tap {
    /// Opens or creates the TAP `name` in this network namespace and brings it up.
    ///
    /// # Errors
    /// When the device cannot be made (no privileges, a device of the same name and another kind, in use).
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .context("opening /dev/net/tun (is the tun driver there?)")?;
        let request = interface_request(name, (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short)?;
        // SAFETY: `request` is a valid `ifreq` that lives across the call; the kernel only reads and fills it.
        unsafe { tun_set_iff(file.as_raw_fd(), (&raw const request) as u64) }
            .with_context(|| format!("creating the parking device {name} (is another agent running?)"))?;
        // SAFETY: the argument is a plain number.
        unsafe { tun_set_persist(file.as_raw_fd(), 1) }.context("keeping the parking device")?;
        quiet_ipv6(name);
        bring_up(name)?;
        let ifindex = if_nametoindex(name).context("index of the parking device")?;
        Ok(Self { file, ifindex })
    }

    /// Index of the device in this network namespace.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Reads one frame; [`io::ErrorKind::WouldBlock`] when none waits.
    ///
    /// # Errors
    /// What the read says.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one frame back: it enters the kernel as if it came in on the device.
    ///
    /// # Errors
    /// What the write says.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(|_| ())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn interface_request(name: &str, flags: libc::c_short) -> anyhow::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    anyhow::ensure!(!name.is_empty() && name.len() < libc::IFNAMSIZ, "interface name {name:?} is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    Ok(request)
}

/// The stack must not send router solicitations or multicast reports into the device.
fn quiet_ipv6(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if let Err(error) = std::fs::write(&path, "1") {
        tracing::debug!(%path, %error, "IPv6 stays on at the parking device");
    }
}

fn bring_up(name: &str) -> anyhow::Result<()> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", 0)))
        .context("a socket to set the parking device up with")?;
    let mut request = interface_request(name, 0)?;
    request.ifr_ifru.ifru_metric = TX_QUEUE_LEN;
    set(&socket, libc::SIOCSIFTXQLEN, &request).context("setting the parking device's queue length")?;
    request.ifr_ifru.ifru_mtu = MTU;
    set(&socket, libc::SIOCSIFMTU, &request).context("setting the parking device's MTU")?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_NOARP) as libc::c_short;
    set(&socket, libc::SIOCSIFFLAGS, &request).context("bringing the parking device up")
}

fn set(socket: &std::net::UdpSocket, call: libc::c_ulong, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: both calls read one `ifreq`, which lives across the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), call as _, request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
