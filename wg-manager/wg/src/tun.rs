//! The TUN device: large packets in both directions.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Weak};
use std::vec::Drain;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::limits::{BATCH, LOOK_EVERY, MAX_PACKET, QUEUE_LENGTH, TUN_QUEUE, TUN_READS};
use crate::offload::{self, Features, Joiner, VnetHdr};
use crate::tun_sys;

/// A TUN device that exists as long as this value (or a clone) does.
#[derive(Clone)]
pub struct Tun {
    fd: Arc<AsyncFd<File>>,
    features: Features,
    mtu: MtuWatcher,
    gone: watch::Receiver<bool>,
    /// To the task that joins packets and writes them.
    writer: mpsc::Sender<Packet<Ip>>,
}

/// The reading end.
pub struct Reader {
    tun: Tun,
    ready: Vec<Packet<Ip>>,
}

impl Tun {
    /// Create the device. Must be called within a tokio runtime.
    pub fn create(name: &str, mtu: u16) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let features = tun_sys::attach(&file, name, false)?;
        tracing::debug!(?features, "the device is there");
        tun_sys::set_mtu(name, mtu)?;
        tun_sys::set_queue_length(name, QUEUE_LENGTH)?;
        no_link_local_address(name);
        // SAFETY: the File owns its descriptor, and is neither replaced nor given away while registered.
        let fd = Arc::new(unsafe { AsyncFd::register(file) }?);
        let (writer, packets) = mpsc::channel(TUN_QUEUE);
        tokio::spawn(write_packets(Arc::clone(&fd), features, packets));
        let (mtu, mtus) = watch::channel(mtu);
        let (gone, ends) = watch::channel(false);
        tokio::spawn(watch(Arc::downgrade(&fd), mtu, gone));
        Ok(Self { fd, features, mtu: MtuWatcher::from(mtus), gone: ends, writer })
    }

    /// Returns when somebody has deleted the device.
    pub async fn gone(&mut self) {
        // An error would mean that the task has ended, which it does only after saying so.
        let _ = self.gone.wait_for(|gone| *gone).await;
    }

    /// An end to read packets from. There should be one at a time.
    pub fn reader(&self) -> Reader {
        Reader { tun: self.clone(), ready: Vec::new() }
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

/// Looks at the device from time to time, and at once when it reports an error, as it does when it is deleted.
/// Until nobody wants to know any more.
async fn watch(fd: Weak<AsyncFd<File>>, mtu: watch::Sender<u16>, gone: watch::Sender<bool>) {
    while let Some(fd) = fd.upgrade() {
        // It may have been renamed.
        match tun_sys::name(fd.get_ref()) {
            Ok(name) => {
                // Fails when the device was moved to another namespace; then it stays as it was.
                if let Ok(now) = tun_sys::mtu(&name) {
                    mtu.send_if_modified(|mtu| std::mem::replace(mtu, now) != now);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the device is gone");
                gone.send_replace(true);
                return;
            }
        }
        let error = async {
            if let Ok(mut guard) = fd.ready(Interest::ERROR).await {
                guard.clear_ready();
            }
        };
        let _ = tokio::time::timeout(LOOK_EVERY, error).await;
    }
}

impl IpRecv for Reader {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        self.ready.clear();
        while self.ready.is_empty() {
            let mut guard = self.tun.fd.readable().await?;
            let read =
                guard.try_io(|fd| read_packets(fd.get_ref(), self.tun.features, pool, &mut self.ready));
            if let Ok(result) = read {
                result?;
            }
        }
        let all: Drain<'a, Packet<Ip>> = self.ready.drain(..);
        Ok(all)
    }

    fn mtu(&self) -> MtuWatcher {
        self.tun.mtu.clone()
    }
}

/// Reads until there is nothing more, or enough. `WouldBlock` only if nothing was read.
fn read_packets(
    mut file: &File,
    features: Features,
    pool: &PacketBufPool,
    ready: &mut Vec<Packet<Ip>>,
) -> io::Result<()> {
    let mut buffer = [0; VnetHdr::MAX + MAX_PACKET];
    for _ in 0..TUN_READS {
        let length = match file.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_empty() => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some((header, packet)) = buffer[..length].split_at_mut_checked(features.vnet_len()) else {
            continue;
        };
        let emitted = VnetHdr::decode(header).and_then(|header| {
            offload::split(header, packet, |header, payload| ready.extend(pooled(pool, header, payload)))
        });
        if emitted.is_err() {
            tracing::debug!(length, "the kernel handed over a packet that cannot be cut");
        }
    }
    Ok(())
}

fn pooled(pool: &PacketBufPool, header: &[u8], payload: &[u8]) -> Option<Packet<Ip>> {
    let mut packet = pool.get();
    let bytes = packet.buf_mut();
    bytes.clear();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(payload);
    packet.try_into_ip().ok()
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.writer.send(packet).await.map_err(gone)
    }
}

/// Takes what has gathered, joins it, and writes it.
async fn write_packets(fd: Arc<AsyncFd<File>>, features: Features, mut packets: mpsc::Receiver<Packet<Ip>>) {
    let mut gathered = Vec::with_capacity(BATCH);
    let mut joiner = Joiner::default();
    while packets.recv_many(&mut gathered, BATCH).await > 0 {
        let mut batch: Vec<Packet> = gathered.drain(..).map(Packet::into_bytes).collect();
        joiner.join(&mut batch, features, |slices| {
            // A TUN device takes every packet at once, or not at all.
            if let Err(error) = fd.get_ref().write_vectored(slices) {
                // The device is down, or the packet is not one: nobody waits for it.
                tracing::trace!(%error, "a packet could not be written to the device");
            }
        });
    }
}
