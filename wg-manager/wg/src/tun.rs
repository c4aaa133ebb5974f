//! The TUN device: large packets in both directions.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::watch;

use crate::limits::{LOOK_EVERY, MAX_PACKET, QUEUE_LENGTH};
use crate::offload::{self, Features, Joiner, Malformed, VnetHdr};
use crate::tun_sys;

/// A TUN device that exists as long as this value (or a clone) does.
#[derive(Clone)]
pub struct Tun {
    file: Arc<File>,
    features: Features,
    mtu: Arc<AtomicU16>,
    gone: Arc<watch::Sender<bool>>,
}

impl Tun {
    /// Bytes that a read may need.
    pub const BUFFER: usize = VnetHdr::MAX + MAX_PACKET;

    /// Create the device. Must be called within a tokio runtime.
    pub fn create(name: &str, mtu: u16) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let features = tun_sys::attach(&file, name)?;
        tracing::debug!(?features, "the device is there");
        tun_sys::set_mtu(name, mtu)?;
        tun_sys::set_queue_length(name, QUEUE_LENGTH)?;
        no_link_local_address(name);
        Ok(Self::of(file, features, mtu))
    }

    /// A device that another process has made. Must be called within a tokio runtime.
    pub fn inherited(fd: OwnedFd, features: Features) -> io::Result<Self> {
        let file = File::from(fd);
        let mtu = tun_sys::name(&file).and_then(|name| tun_sys::mtu(&name))?;
        Ok(Self::of(file, features, mtu))
    }

    /// What the kernel does for it.
    pub fn features(&self) -> Features {
        self.features
    }

    /// A device that is there.
    fn of(file: File, features: Features, mtu: u16) -> Self {
        let file = Arc::new(file);
        let mtu = Arc::new(AtomicU16::new(mtu));
        tokio::spawn(look(Arc::downgrade(&file), Arc::clone(&mtu)));
        Self { file, features, mtu, gone: Arc::new(watch::Sender::new(false)) }
    }

    /// Returns when somebody has deleted the device.
    pub async fn gone(&self) {
        // The other end is ours: it does not go away.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Reading it has failed: there is none any more.
    pub fn lost(&self) {
        self.gone.send_replace(true);
    }

    /// Its MTU, as it was a moment ago.
    pub fn mtu(&self) -> usize {
        usize::from(self.mtu.load(Ordering::Relaxed))
    }

    /// Reads once, and gives the packets that this was cut into to `emit`, each as header and payload. `buffer` has
    /// [`Self::BUFFER`] bytes.
    pub fn read(&self, buffer: &mut [u8], emit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let length = (&*self.file).read(buffer)?;
        let parts = buffer[..length].split_at_mut_checked(self.features.vnet_len());
        let cut = parts
            .ok_or(Malformed)
            .and_then(|(header, packet)| offload::split(VnetHdr::decode(header)?, packet, emit));
        if cut.is_err() {
            tracing::debug!(length, "the kernel handed over a packet that cannot be cut");
        }
        Ok(())
    }

    /// Until there is something to read.
    pub fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => Ok(()),
            result => Ok(result.map(|_| ())?),
        }
    }

    /// Joins what belongs together, and writes it. What the device does not take is lost, as on any link.
    pub fn write(&self, joiner: &mut Joiner, packets: &mut [&mut [u8]]) {
        joiner.join(packets, self.features, |slices| {
            if let Err(error) = (&*self.file).write_vectored(slices) {
                // The device is down, or the packet is not one: nobody waits for it.
                tracing::trace!(%error, "a packet could not be written to the device");
            }
        });
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The kernel would give the device an IPv6 link-local address and send solicitations into it; WireGuard
/// devices have none.
fn no_link_local_address(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
    if let Err(error) = std::fs::write(path, "1") {
        tracing::debug!(%error, "the device will have a link-local address");
    }
}

/// Looks at the device from time to time: somebody may have given it another MTU, or another name.
async fn look(file: Weak<File>, mtu: Arc<AtomicU16>) {
    while let Some(file) = file.upgrade() {
        // Fails when the device was moved to another namespace; then it stays as it was.
        if let Ok(now) = tun_sys::name(&file).and_then(|name| tun_sys::mtu(&name)) {
            mtu.store(now, Ordering::Relaxed);
        }
        drop(file);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
