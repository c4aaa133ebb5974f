//! From one process to the next, without losing a packet: the successor gets the TUN device, the sockets and the
//! sessions; what arrives in between waits in the kernel.
//!
//! No counter of a session may be used twice, so at no moment may both believe to have them. The predecessor stops,
//! sends everything, and waits for `taken`; only then it says `go`, and never touches anything again. Without
//! `taken` it goes on, and the successor, without `go`, ends.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use countersign_wg_core::PeerState;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits::{HAND_OVER, MAX_STATE};
use crate::offload::Features;
use crate::server::DIRECTORY;

const TAKEN: &[u8; 6] = b"taken\n";
const GO: &[u8; 3] = b"go\n";

/// Everything but the descriptors.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// What the kernel does for the TUN device.
    pub features: Features,
    /// The configuration and the counters, as the configuration socket tells them.
    pub device: Zeroizing<String>,
    /// The port that was asked for: 0 if the kernel has chosen.
    pub port: u16,
    /// The sessions.
    pub peers: Vec<PeerState>,
}

/// What a successor gets.
pub struct Inheritance {
    /// Everything but the descriptors.
    pub state: State,
    /// The TUN device.
    pub tun: OwnedFd,
    /// The configuration socket, which listens.
    pub listener: OwnedFd,
    /// Where successors ask.
    pub successors: OwnedFd,
    /// The UDP socket, if the device has a key.
    pub socket: Option<OwnedFd>,
}

/// Where successors of the device's process ask. No name that `wg` takes for a device's.
fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!(".{name}.successor"))
}

/// Waits for successors; root only may come.
pub fn listen(name: &str) -> io::Result<UnixListener> {
    let (path, hidden) =
        (path(name), Path::new(DIRECTORY).join(format!(".{name}.{}.next", std::process::id())));
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Nobody waits any more.
pub fn forget(name: &str) {
    let _ = std::fs::remove_file(path(name));
}

/// Gives everything away. If this is an error, nothing was.
pub fn give(successor: UnixStream, state: &State, fds: &[RawFd]) -> anyhow::Result<()> {
    let mut stream = prepared(successor)?;
    // Keys in the clear: wiped, and never moved by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(size(state)));
    serde_json::to_writer(&mut *text, state).context("writing the sessions down")?;
    let length = (text.len() as u64).to_le_bytes();
    let rights = [ControlMessage::ScmRights(fds)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], &rights, MsgFlags::empty(), None)?;
    if sent != length.len() {
        bail!("the successor took only a part");
    }
    stream.write_all(&text)?;
    let mut word = [0; TAKEN.len()];
    stream.read_exact(&mut word).context("waiting for the successor")?;
    if &word != TAKEN {
        bail!("the successor says something else");
    }
    // From here on it is the successor's, whether it hears this or not.
    if let Err(error) = stream.write_all(GO) {
        tracing::error!(%error, "the successor has gone with everything it had");
    }
    Ok(())
}

/// An upper bound of what the state is written down as: a session is two keys and a window of numbers.
fn size(state: &State) -> usize {
    let staged = |peer: &PeerState| peer.staged_bytes() * 4;
    state.device.len() * 2 + state.peers.iter().map(|peer| 16 * 1024 + staged(peer)).sum::<usize>() + 1024
}

fn prepared(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HAND_OVER))?;
    stream.set_write_timeout(Some(HAND_OVER))?;
    Ok(stream)
}

/// Asks the process that has the device for everything. It has stopped when this returns; nothing of what was
/// given may be used before [`Offer::take`].
pub fn ask(name: &str) -> anyhow::Result<Offer> {
    let stream =
        UnixStream::connect(path(name)).with_context(|| format!("no process has the device {name}"))?;
    let mut stream = prepared(stream)?;
    let mut length = [0; 8];
    let mut fds = receive_fds(&stream, &mut length).context("waiting for the predecessor")?.into_iter();
    let length = usize::try_from(u64::from_le_bytes(length)).ok().filter(|length| *length <= MAX_STATE);
    let Some(length) = length else { bail!("the predecessor has more than {MAX_STATE} bytes of state") };
    let mut text = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut text)?;
    let state: State = serde_json::from_slice(&text).context("reading the predecessor's sessions")?;
    let (Some(tun), Some(listener), Some(successors)) = (fds.next(), fds.next(), fds.next()) else {
        bail!("the predecessor gave no device");
    };
    Ok(Offer { stream, inheritance: Inheritance { state, tun, listener, successors, socket: fds.next() } })
}

fn receive_fds(stream: &UnixStream, length: &mut [u8; 8]) -> io::Result<Vec<OwnedFd>> {
    use std::os::fd::FromRawFd as _;
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(length)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let message = recvmsg::<()>(stream.as_fd().as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.bytes < 8 { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(fds) }
}

/// What a predecessor has sent.
pub struct Offer {
    stream: UnixStream,
    inheritance: Inheritance,
}

impl Offer {
    /// What is in it, to see whether it can be used.
    pub fn state(&self) -> &State {
        &self.inheritance.state
    }

    /// It is ours when this returns. If it is an error, it is still the predecessor's.
    pub fn take(mut self) -> anyhow::Result<Inheritance> {
        self.stream.write_all(TAKEN)?;
        let mut word = [0; GO.len()];
        self.stream.read_exact(&mut word).context("the predecessor has kept the device")?;
        if &word != GO {
            bail!("the predecessor says something else");
        }
        Ok(self.inheritance)
    }
}
