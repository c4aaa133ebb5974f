//! The device, through its Unix socket.

use std::path::{Path, PathBuf};

use countersign_wg_proto::uapi::{self, UapiError};
use countersign_wg_proto::{Observed, Op, limits::MAX_UAPI_MESSAGE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::limits::{OPS_PER_REQUEST, UAPI_TIMEOUT};

/// Where implementations put their sockets.
pub const SOCKET_DIR: &str = "/var/run/wireguard";

/// Why the device could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens: the data plane is not running (or not in this mount namespace).
    #[error("no data plane at {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("data plane: {0}")]
    Io(#[from] std::io::Error),
    /// No complete answer in time.
    #[error("data plane: no answer within {} s", UAPI_TIMEOUT.as_secs())]
    Timeout,
    /// The answer was not understood, or was an error number.
    #[error("data plane: {0}")]
    Protocol(#[from] UapiError),
}

/// A client of one device's socket. Each call is a connection of its own, so it survives restarts of the
/// data plane.
#[derive(Debug, Clone)]
pub struct Uapi {
    path: PathBuf,
}

impl Uapi {
    /// The device of this name, with its socket in `dir` (usually [`SOCKET_DIR`]).
    pub fn new(dir: &Path, device: &str) -> Self {
        Self { path: dir.join(format!("{device}.sock")) }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Read configuration and counters.
    pub async fn get(&self) -> Result<Observed, Error> {
        let reply = self.ask(uapi::encode_get()).await?;
        Ok(uapi::parse_get(&reply)?)
    }

    /// Do `ops`, in order. Stops at the first request that fails; what was done before stays done.
    pub async fn apply(&self, ops: &[Op]) -> Result<(), Error> {
        for chunk in ops.chunks(OPS_PER_REQUEST) {
            let reply = self.ask(&uapi::encode_set(chunk)).await?;
            uapi::parse_set_reply(&reply)?;
        }
        Ok(())
    }

    async fn ask(&self, request: &str) -> Result<Zeroizing<String>, Error> {
        timeout(UAPI_TIMEOUT, self.exchange(request)).await.map_err(|_| Error::Timeout)?
    }

    async fn exchange(&self, request: &str) -> Result<Zeroizing<String>, Error> {
        let connect = |source| Error::Connect { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).await.map_err(connect)?;
        stream.write_all(request.as_bytes()).await?;
        read_message(&mut stream).await
    }
}

/// Reads up to the first empty line. Buffers that held the message are wiped, also when they are outgrown.
async fn read_message(stream: &mut UnixStream) -> Result<Zeroizing<String>, Error> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    loop {
        if bytes.len() == bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(bytes.capacity() * 4));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        let before = bytes.len();
        if stream.read_buf(&mut *bytes).await? == 0 {
            return Err(UapiError::Incomplete.into());
        }
        // The end may straddle two reads.
        if bytes[before.saturating_sub(1)..].windows(2).any(|pair| pair == b"\n\n") {
            break;
        }
        if bytes.len() > MAX_UAPI_MESSAGE {
            return Err(UapiError::TooLarge("bytes").into());
        }
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(UapiError::Syntax(0).into()),
    }
}
