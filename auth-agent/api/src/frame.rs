//! Lines of JSON with a bound on their length.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Error;
use crate::limits::MAX_LINE;

/// One line of a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame<T> {
    /// The whole answer.
    Reply(T),
    /// One of several.
    Item(T),
    /// There are no more items.
    End(End),
    /// There is no answer, or no rest of it.
    Error(Error),
}

/// Ends a list or a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// Items that were sent.
    pub items: u64,
}

/// Why a line could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The line is longer than [`MAX_LINE`].
    #[error("a line longer than {MAX_LINE} bytes")]
    TooLong,
    /// The stream ended within a line.
    #[error("the connection ended within a line")]
    Truncated,
    /// The line is not the JSON that is expected.
    #[error("not the JSON expected: {0}")]
    Json(#[from] serde_json::Error),
}

/// The line of a value, newline included.
///
/// # Errors
/// [`FrameError::TooLong`], or what the value's `Serialize` says.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(FrameError::TooLong) } else { Ok(line) }
}

/// Splits a byte stream into lines and never holds more than one line and one read.
#[derive(Debug)]
pub struct LineReader<R> {
    stream: R,
    /// Bytes read and not given out.
    buffer: Vec<u8>,
    /// How many of them are known to hold no newline.
    searched: usize,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Starts at the stream's position.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), searched: 0 }
    }

    /// The next line without its newline; `None` at the end of the stream. May be dropped and called again.
    ///
    /// # Errors
    /// [`FrameError::Io`], [`FrameError::TooLong`], [`FrameError::Truncated`]; none of them can be recovered from.
    pub async fn next_line(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(Some(line));
            }
            self.buffer.reserve(4096);
            let read = self.stream.read_buf(&mut self.buffer).await?;
            if read == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    /// The next line as a value; `None` at the end of the stream.
    ///
    /// # Errors
    /// As [`Self::next_line`], and [`FrameError::Json`].
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        match self.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
            None => Ok(None),
        }
    }

    /// The stream itself; bytes read ahead are lost.
    pub fn into_inner(self) -> R {
        self.stream
    }

    fn take_line(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let found =
            self.buffer[self.searched..].iter().position(|&b| b == b'\n').map(|at| self.searched + at);
        match found {
            Some(at) if at >= MAX_LINE => Err(FrameError::TooLong),
            Some(at) => {
                let rest = self.buffer.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                Ok(Some(line))
            }
            None if self.buffer.len() >= MAX_LINE => Err(FrameError::TooLong),
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }
}
