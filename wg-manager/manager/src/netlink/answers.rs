//! What the kernel says to one request, from datagrams to messages.

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NetlinkBuffer, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{GenlHeader, GenlMessage};

use super::Error;

/// The answers so far.
pub(super) struct Answers<'a, F> {
    sequence: u32,
    doing: &'a str,
    messages: Vec<F>,
    /// What was read is of two states of the device.
    interrupted: bool,
}

impl<'a, F: ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug> Answers<'a, F> {
    /// Answers to the request of this number.
    pub(super) fn new(sequence: u32, doing: &'a str) -> Self {
        Self { sequence, doing, messages: Vec::new(), interrupted: false }
    }

    /// Takes a datagram. True: it was the last one.
    pub(super) fn take(&mut self, datagram: &[u8]) -> Result<bool, Error> {
        let mut rest = datagram;
        while !rest.is_empty() {
            // Cut off: the rest is missing.
            let buffer = NetlinkBuffer::new_checked(rest).map_err(|_| Error::Interrupted)?;
            let length = buffer.length() as usize;
            let (sequence, flags) = (buffer.sequence_number(), buffer.flags());
            let message = rest.get(..length).unwrap_or_default();
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if sequence == self.sequence && self.message(message, flags)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn message(&mut self, message: &[u8], flags: u16) -> Result<bool, Error> {
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        let message = NetlinkMessage::<GenlMessage<F>>::deserialize(message).map_err(malformed)?;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => {
                self.messages.push(answer.payload);
                Ok(false)
            }
            NetlinkPayload::Error(error) => self.end(error.raw_code()),
            NetlinkPayload::Done(done) => self.end(done.code),
            NetlinkPayload::Overrun(_) => Err(Error::Interrupted),
            _ => Ok(false),
        }
    }

    fn end(&self, code: i32) -> Result<bool, Error> {
        match code {
            // A dump that could not go on: as good as one that changed in between.
            code if code == -libc::EINTR => Err(Error::Interrupted),
            0 if self.interrupted => Err(Error::Interrupted),
            0 => Ok(true),
            code => Err(Error::Refused { doing: self.doing.to_owned(), errno: code.saturating_abs() }),
        }
    }

    pub(super) fn finish(self) -> Vec<F> {
        self.messages
    }
}

fn malformed(error: netlink_packet_core::DecodeError) -> Error {
    Error::Malformed(error.to_string())
}
