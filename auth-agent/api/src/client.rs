//! The asking side.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::frame::{Frame, FrameError, LineReader, encode};
use crate::limits::{CALL_TIMEOUT, CONNECT_TIMEOUT, MAX_LIST_ITEMS};
use crate::{Error, Request};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error("the agent is not running at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error("no permission to use {}", .0.display())]
    Permission(PathBuf),
    /// The agent did not answer in time.
    #[error("the agent did not answer within {} s", .0.as_secs())]
    Timeout(std::time::Duration),
    /// The agent went away before its answer was complete.
    #[error("the agent closed the connection before its answer was complete")]
    Closed,
    /// What came is no answer to what was asked.
    #[error("the agent's answer cannot be understood: {0}")]
    Protocol(String),
    /// The agent refused.
    #[error(transparent)]
    Agent(#[from] Error),
    /// The socket failed.
    #[error("the agent's socket: {0}")]
    Io(#[from] io::Error),
}

impl ClientError {
    /// What to do about it; empty where nothing helps.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::NotRunning(_) => {
                "start countersign-agent, or name another socket (--socket) or a lab (--lab)"
            }
            Self::Permission(_) => "the control socket is for root only: run the command as root",
            Self::Timeout(_) => "it may be busy or stopped: see its log",
            Self::Closed => "it may have been restarted: try again",
            Self::Protocol(_) => {
                "agent and command may be of different versions: compare `countersign version`"
            }
            Self::Agent(error) => &error.hint,
            Self::Io(_) => "",
        }
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => Self::Io(error),
            FrameError::Truncated => Self::Closed,
            FrameError::TooLong | FrameError::Json(_) => Self::Protocol(error.to_string()),
        }
    }
}

/// A connection to an agent, good for one request.
#[derive(Debug)]
pub struct Client {
    lines: LineReader<OwnedReadHalf>,
    // Kept open until the answer is complete: its end tells the agent that nobody listens any more.
    write: OwnedWriteHalf,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], [`ClientError::Permission`], [`ClientError::Timeout`], [`ClientError::Io`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path))
            .await
            .map_err(|_| ClientError::Timeout(CONNECT_TIMEOUT))?;
        let stream = connected.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.into())
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission(path.into()),
            _ => ClientError::Io(error),
        })?;
        let (read, write) = stream.into_split();
        Ok(Self { lines: LineReader::new(read), write })
    }

    /// Asks for one value.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn call<T: DeserializeOwned>(mut self, request: &Request) -> Result<T, ClientError> {
        within(async {
            self.send(request).await?;
            match self.frame().await? {
                Frame::Reply(value) => Ok(value),
                Frame::Error(error) => Err(error.into()),
                Frame::Item(_) | Frame::End(_) => Err(ClientError::Protocol("a list, not one value".into())),
            }
        })
        .await
    }

    /// Asks for a list, at most [`MAX_LIST_ITEMS`] long.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list<T: DeserializeOwned>(mut self, request: &Request) -> Result<Vec<T>, ClientError> {
        within(async {
            self.send(request).await?;
            let mut items = Vec::new();
            loop {
                match self.frame().await? {
                    Frame::Item(_) if items.len() >= MAX_LIST_ITEMS => {
                        return Err(ClientError::Protocol(format!("more than {MAX_LIST_ITEMS} items")));
                    }
                    Frame::Item(item) => items.push(item),
                    Frame::End(_) => return Ok(items),
                    Frame::Error(error) => return Err(error.into()),
                    Frame::Reply(_) => return Err(ClientError::Protocol("one value, not a list".into())),
                }
            }
        })
        .await
    }

    /// Asks for a stream, which may go on for ever.
    ///
    /// # Errors
    /// Any [`ClientError`] of sending the request; those of the answer come out of the stream.
    pub async fn stream<T: DeserializeOwned>(
        mut self,
        request: &Request,
    ) -> Result<ItemStream<T>, ClientError> {
        within(self.send(request)).await?;
        Ok(ItemStream { client: self, ended: false, items: PhantomData })
    }

    async fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let line = encode(request)?;
        match self.write.write_all(&line).await {
            // An agent that refuses us says so and closes, maybe before it read anything: its words matter more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    async fn frame<T: DeserializeOwned>(&mut self) -> Result<Frame<T>, ClientError> {
        self.lines.next().await?.ok_or(ClientError::Closed)
    }
}

async fn within<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    timeout(CALL_TIMEOUT, work).await.unwrap_or(Err(ClientError::Timeout(CALL_TIMEOUT)))
}

/// Items of a stream, in the order in which the agent sent them.
#[derive(Debug)]
pub struct ItemStream<T> {
    client: Client,
    ended: bool,
    items: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> ItemStream<T> {
    /// The next item; `None` after the last one or after an error. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        if self.ended {
            return None;
        }
        let result = match self.client.frame().await {
            Ok(Frame::Item(item)) => return Some(Ok(item)),
            Ok(Frame::End(_)) => None,
            Ok(Frame::Error(error)) => Some(Err(error.into())),
            Ok(Frame::Reply(_)) => Some(Err(ClientError::Protocol("one value, not a stream".into()))),
            Err(error) => Some(Err(error)),
        };
        self.ended = true;
        result
    }
}
