//! The configuration socket: `wg show`, `wg set` and the agent come through here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_wg_proto::limits::MAX_UAPI_MESSAGE;
use countersign_wg_proto::uapi::{Request, encode_get_reply, encode_set_reply, parse_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use crate::limits::{CONNECTION_TIMEOUT, CONNECTIONS, PREDECESSOR};
use crate::plane::{Errno, Plane};

/// Where the tools look for sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// A listening socket, removed when dropped.
pub struct Server {
    listener: UnixListener,
    /// Nothing, when it is somebody else's.
    path: Option<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.path.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Server {
    /// A socket of the device `name` that nobody listens on any more may be replaced; one that somebody does is an
    /// error, unless it is about to end: a process whose device was deleted a moment ago.
    pub async fn wait_for_predecessor(name: &str) -> io::Result<()> {
        let directory = Path::new(DIRECTORY);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(format!("{name}.sock"));
        let give_up = Instant::now() + PREDECESSOR;
        while UnixStream::connect(&path).await.is_ok() {
            if Instant::now() >= give_up {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            sleep(PREDECESSOR / 100).await;
        }
        Ok(())
    }

    /// Listen on the socket of the device `name`, which only root may connect to. There is no
    /// [predecessor](Self::wait_for_predecessor).
    pub fn bind(name: &str) -> io::Result<Self> {
        let directory = Path::new(DIRECTORY);
        let path = directory.join(format!("{name}.sock"));
        // Under a name that nobody looks for, until its mode is right.
        let hidden = directory.join(format!(".{name}.{}", std::process::id()));
        remove(&hidden)?;
        let listener = UnixListener::bind(&hidden)?;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&hidden, &path)?;
        Ok(Self { listener, path: Some(path) })
    }

    /// Listens on where another process has listened.
    pub fn inherited(name: &str, listener: OwnedFd) -> io::Result<Self> {
        let listener = UnixListener::from_std(listener.into())?;
        Ok(Self { listener, path: Some(Path::new(DIRECTORY).join(format!("{name}.sock"))) })
    }

    /// Another process listens there now.
    pub fn leave(&mut self) {
        self.path = None;
    }

    /// Serve connections, a bounded number at a time.
    pub async fn run(&self, plane: Arc<Mutex<Plane>>) -> io::Result<()> {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let (stream, _) = self.listener.accept().await?;
            let plane = Arc::clone(&plane);
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &plane).await {
                    tracing::debug!(%error, "configuration connection");
                }
                drop(place);
            });
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Requests one after the other, until the client is done.
async fn serve(mut stream: UnixStream, plane: &Mutex<Plane>) -> io::Result<()> {
    let mut pending = Zeroizing::new(Vec::with_capacity(4096));
    loop {
        let message = timeout(CONNECTION_TIMEOUT, read_message(&mut stream, &mut pending)).await??;
        let Some(message) = message else { return Ok(()) };
        let reply = answer(&message, plane).await;
        timeout(CONNECTION_TIMEOUT, stream.write_all(reply.as_bytes())).await??;
    }
}

async fn answer(message: &str, plane: &Mutex<Plane>) -> Zeroizing<String> {
    match parse_request(message) {
        Ok(Request::Get) => encode_get_reply(&plane.lock().await.get()),
        Ok(Request::Set(request)) => {
            let done = plane.lock().await.set(&request);
            Zeroizing::new(encode_set_reply(done.map_or_else(|Errno(errno)| errno, |()| 0)))
        }
        Err(error) => {
            tracing::debug!(%error, "a request that was not understood");
            Zeroizing::new(encode_set_reply(libc::EINVAL))
        }
    }
}

/// The next message, up to and with its empty line; nothing at the end. What follows stays in `pending`.
/// Buffers are wiped when they are outgrown.
async fn read_message(
    stream: &mut UnixStream,
    pending: &mut Zeroizing<Vec<u8>>,
) -> io::Result<Option<Zeroizing<String>>> {
    let mut seen = 0;
    loop {
        let end = pending[seen..].windows(2).position(|pair| pair == b"\n\n").map(|at| seen + at + 2);
        if let Some(end) = end {
            let message = std::str::from_utf8(&pending[..end]).map(str::to_owned);
            let message = message.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            **pending = pending.split_off(end);
            return Ok(Some(Zeroizing::new(message)));
        }
        seen = pending.len().saturating_sub(1);
        if pending.len() > MAX_UAPI_MESSAGE {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if pending.len() == pending.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(pending.capacity().max(1024) * 4));
            larger.extend_from_slice(pending);
            *pending = larger;
        }
        if stream.read_buf(&mut **pending).await? == 0 {
            return Ok(None);
        }
    }
}
