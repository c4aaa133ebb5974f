//! The kernel's WireGuard, through generic netlink (the kernel's `include/uapi/linux/wireguard.h`).
//!
//! Each conversation has a socket of its own, in the network namespace of the thread that begins it, so no answer
//! of an earlier one is ever taken for that of a later one.

mod answers;
mod encode;
mod join;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use countersign_wg_proto::{Observed, Op};
use netlink_packet_wireguard::{WireguardAttribute, WireguardMessage, WireguardPeerAttribute};
use tokio::time::timeout;
use zeroize::Zeroize as _;

use crate::limits::{DUMP_ATTEMPTS, NETLINK_MESSAGE, NETLINK_TIMEOUT};
use encode::{Removal, encode};
use socket::Talk;

/// Why the kernel's device could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, or the conversation broke off.
    #[error("kernel WireGuard: {0}")]
    Io(#[from] std::io::Error),
    /// The kernel says no.
    #[error("kernel WireGuard, {doing}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// What was asked.
        doing: String,
        /// The error number.
        errno: i32,
    },
    /// No complete answer in time.
    #[error("kernel WireGuard: no answer within {} s", NETLINK_TIMEOUT.as_secs())]
    Timeout,
    /// An answer that makes no sense.
    #[error("kernel WireGuard: {0}")]
    Malformed(String),
    /// What was read is not of one piece: the device was changed meanwhile, or a part is missing.
    #[error("kernel WireGuard: no answer of one piece")]
    Interrupted,
}

impl Error {
    /// The error number, where the kernel has given one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// The kernel's WireGuard.
#[derive(Debug)]
pub(crate) struct Kernel {
    family: u16,
    /// How this kernel takes a prefix from a peer; found out when it first has to.
    removal: OnceLock<Removal>,
}

impl Kernel {
    /// None: this kernel has no WireGuard. Asking has it load its module, where it is one.
    pub(crate) async fn find() -> Result<Option<Self>, Error> {
        let family = within(async { Talk::begin()?.family().await }).await?;
        Ok(family.map(|family| Self { family, removal: OnceLock::new() }))
    }

    /// Configuration and counters of a device.
    pub(crate) async fn read(&self, device: &str) -> Result<Observed, Error> {
        let dump = || within(async { Talk::begin()?.dump(self.family, device).await });
        join::join(&until_whole(dump).await?)
    }

    /// Do `ops`, in order. Stops at the first message that is refused; what was done before stays done.
    pub(crate) async fn apply(&self, device: &str, ops: &[Op]) -> Result<(), Error> {
        carry_out(device, ops, &self.removal, NETLINK_MESSAGE, |messages| send(self.family, messages)).await
    }
}

async fn send(family: u16, messages: Vec<Wiped>) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut talk = Talk::begin()?;
    for message in &messages {
        within(talk.set(family, message)).await?;
    }
    Ok(())
}

/// Reads again what was not read in one piece.
async fn until_whole<F>(mut dump: impl FnMut() -> F) -> Result<Vec<Wiped>, Error>
where
    F: Future<Output = Result<Vec<Wiped>, Error>>,
{
    for _ in 1..DUMP_ATTEMPTS {
        match dump().await {
            Err(Error::Interrupted) => {}
            other => return other,
        }
    }
    dump().await
}

/// Sends what does `ops`. The first time that a prefix is to be taken from a peer shows how this kernel does it.
async fn carry_out<F: Future<Output = Result<(), Error>>>(
    device: &str,
    ops: &[Op],
    removal: &OnceLock<Removal>,
    limit: usize,
    mut send: impl FnMut(Vec<Wiped>) -> F,
) -> Result<(), Error> {
    let messages = |ops: &[Op], removal| encode(device, ops, removal, limit);
    if let Some(known) = removal.get() {
        return send(messages(ops, *known)).await;
    }
    let first = ops.iter().position(|op| matches!(op, Op::ShrinkAllowedIps { .. })).unwrap_or(ops.len());
    let (before, rest) = ops.split_at(first);
    let (one, rest) = rest.split_at(rest.len().min(1));
    send(messages(before, Removal::ByFlag)).await?;
    if one.is_empty() {
        return Ok(());
    }
    let found = match send(messages(one, Removal::ByFlag)).await {
        Err(error) if error.errno().is_some_and(encode::means_no_such_flag) => {
            send(messages(one, Removal::ByMoving)).await?;
            Removal::ByMoving
        }
        other => other.map(|()| Removal::ByFlag)?,
    };
    tracing::debug!(device, removal = ?found, "how this kernel takes prefixes from a peer");
    send(messages(rest, *removal.get_or_init(|| found))).await
}

async fn within<T>(conversation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(NETLINK_TIMEOUT, conversation).await.map_err(|_| Error::Timeout)?
}

/// A message whose keys are wiped when it is dropped.
struct Wiped(WireguardMessage);

impl Drop for Wiped {
    fn drop(&mut self) {
        for attribute in &mut self.0.attributes {
            match attribute {
                WireguardAttribute::PrivateKey(key) => key.zeroize(),
                WireguardAttribute::Peers(peers) => {
                    for attribute in peers.iter_mut().flat_map(|peer| &mut peer.0) {
                        if let WireguardPeerAttribute::PresharedKey(key) = attribute {
                            key.zeroize();
                        }
                    }
                }
                _ => {}
            }
        }
    }
}
