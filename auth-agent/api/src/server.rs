//! The answering side: who is let in, what was asked, and how to answer.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::frame::{End, Frame, FrameError, LineReader, encode};
use crate::limits::{ACCEPT_QUEUE, MAX_CONNECTIONS, REQUEST_TIMEOUT, WRITE_TIMEOUT};
use crate::{Error, ErrorKind, Request};

mod socket;

use socket::Socket;

/// Pause after a failed `accept` (out of file descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What became of connections since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Let in and read.
    pub served: AtomicU64,
    /// Turned away: not the agent's user.
    pub refused_peer: AtomicU64,
    /// Turned away: too many at once.
    pub refused_overload: AtomicU64,
    /// Turned away: not a request.
    pub malformed: AtomicU64,
    /// Turned away: the request took too long to arrive.
    pub timed_out: AtomicU64,
}

impl Counters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The control socket, listening. Dropping it removes the socket.
#[derive(Debug)]
pub struct Listener {
    requests: mpsc::Receiver<Connection>,
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
    /// Keeps the path ours.
    _socket: Socket,
}

/// One request and the way to answer it.
#[derive(Debug)]
pub struct Connection {
    /// What is asked; already validated.
    pub request: Request,
    /// Answers it.
    pub responder: Responder,
}

impl Listener {
    /// Listens at `path`: its directory is made with mode 0700 if it is missing, the socket has mode 0600, and a
    /// socket that a dead agent left is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// `AddrInUse` where another process listens there; `InvalidInput` where the path is too long or the
    /// directory is writable by others; what the file system says.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let (socket, listener) = Socket::bind(path.as_ref())?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let counters = Arc::new(Counters::default());
        let (sender, requests) = mpsc::channel(ACCEPT_QUEUE);
        let accepting = tokio::spawn(accept_loop(listener, Arc::clone(&counters), sender));
        Ok(Self { requests, counters, accepting, _socket: socket })
    }

    /// The next request. Slow, refused and malformed clients are dealt with behind it and never hold it up.
    /// `None` never comes while the runtime lives. May be dropped and called again.
    pub async fn accept(&mut self) -> Option<Connection> {
        self.requests.recv().await
    }

    /// What became of connections since the start.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept_loop(listener: UnixListener, counters: Arc<Counters>, requests: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if let Err(refusal) = admit(&stream, &counters) {
            refuse(stream, refusal);
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            Counters::count(&counters.refused_overload);
            refuse(stream, overloaded());
            continue;
        };
        tokio::spawn(serve(stream, place, Arc::clone(&counters), requests.clone()));
    }
}

fn overloaded() -> Error {
    Error::new(ErrorKind::Overloaded, format!("{MAX_CONNECTIONS} connections are open already"))
        .with_hint("end some `countersign observe -f`")
}

/// Says no without waiting: one short line fits the socket's buffer, and who does not take it goes without.
fn refuse(stream: UnixStream, why: Error) {
    if let Ok(line) = encode(&Frame::<()>::Error(why)) {
        // The connection is closed in any case, so a line that cannot be written changes nothing.
        let _ = stream.try_write(&line);
    }
}

fn admit(stream: &UnixStream, counters: &Counters) -> Result<(), Error> {
    let peer = stream.peer_cred().map(|credentials| credentials.uid());
    match peer {
        Ok(uid) if may_control(uid, socket::own_uid()) => Ok(()),
        peer => {
            Counters::count(&counters.refused_peer);
            let who = peer.map_or("an unknown user".to_owned(), |uid| format!("user {uid}"));
            Err(Error::new(ErrorKind::Forbidden, format!("{who} may not control the agent"))
                .with_hint("run the command as root"))
        }
    }
}

/// Root and the agent's own user, which is root wherever the agent can do its work.
fn may_control(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

async fn serve(
    stream: UnixStream,
    place: OwnedSemaphorePermit,
    counters: Arc<Counters>,
    requests: mpsc::Sender<Connection>,
) {
    let (read, write) = stream.into_split();
    let mut lines = LineReader::new(read);
    let outcome = timeout(REQUEST_TIMEOUT, lines.next::<Request>()).await;
    let responder = Responder { write, read: lines.into_inner(), items: 0, _place: place };
    let refusal = match outcome {
        Ok(Ok(Some(request))) => match request.validate() {
            Ok(()) => {
                Counters::count(&counters.served);
                // The agent is going down when nobody receives: the connection then closes, which says so.
                let _ = requests.send(Connection { request, responder }).await;
                return;
            }
            Err(error) => error,
        },
        Ok(Ok(None) | Err(FrameError::Io(_))) => return,
        Ok(Err(error)) => {
            Error::new(ErrorKind::BadRequest, format!("the request is {}", what_is_wrong(&error)))
        }
        Err(_) => {
            Counters::count(&counters.timed_out);
            let _ =
                responder.error(Error::new(ErrorKind::Timeout, "the request did not arrive in time")).await;
            return;
        }
    };
    Counters::count(&counters.malformed);
    let _ = responder.error(refusal).await;
}

fn what_is_wrong(error: &FrameError) -> String {
    match error {
        FrameError::Json(error) => format!("not understood: {error}"),
        FrameError::TooLong | FrameError::Truncated | FrameError::Io(_) => error.to_string(),
    }
}

/// Answers one request. Dropped without an answer, it closes the connection.
#[derive(Debug)]
pub struct Responder {
    write: OwnedWriteHalf,
    read: OwnedReadHalf,
    items: u64,
    _place: OwnedSemaphorePermit,
}

impl Responder {
    /// Answers with one value.
    ///
    /// # Errors
    /// The client went away or does not read; or the value is too long for one line, which the client is told.
    pub async fn reply<T: Serialize + Sync>(mut self, value: &T) -> io::Result<()> {
        self.send(&Frame::Reply(value)).await
    }

    /// Answers with a list.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub async fn list<T: Serialize + Sync>(mut self, items: &[T]) -> io::Result<()> {
        for item in items {
            self.item(item).await?;
        }
        self.end().await
    }

    /// Sends one item of a stream or list.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub async fn item<T: Serialize + Sync>(&mut self, item: &T) -> io::Result<()> {
        self.send(&Frame::Item(item)).await?;
        self.items += 1;
        Ok(())
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// The client went away or does not read.
    pub async fn end(mut self) -> io::Result<()> {
        let end = End { items: self.items };
        self.send(&Frame::<()>::End(end)).await
    }

    /// Answers with a refusal.
    ///
    /// # Errors
    /// The client went away or does not read.
    pub async fn error(mut self, error: Error) -> io::Result<()> {
        self.send(&Frame::<()>::Error(error)).await
    }

    /// Waits until the client has gone. What it still sends is thrown away. May be dropped and called again.
    pub async fn closed(&mut self) {
        let mut waste = [0; 256];
        while matches!(self.read.read(&mut waste).await, Ok(read) if read > 0) {}
    }

    async fn send<T: Serialize>(&mut self, frame: &Frame<T>) -> io::Result<()> {
        let line = match encode(frame) {
            Ok(line) => line,
            Err(error) => {
                let why = Error::new(ErrorKind::Internal, format!("the answer is {error}"));
                let line = encode(&Frame::<()>::Error(why)).map_err(io::Error::other)?;
                self.write_line(&line).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
            }
        };
        self.write_line(&line).await
    }

    async fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.write.write_all(line)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::may_control;

    #[test]
    fn only_root_and_the_agents_own_user_control_it() {
        for (peer, own, expected) in [
            (0, 0, true),
            (1000, 0, false),
            (65534, 0, false),
            (1000, 1000, true),
            (0, 1000, true),
            (1, 1000, false),
        ] {
            assert_eq!(may_control(peer, own), expected, "{peer} to {own}");
        }
    }
}
