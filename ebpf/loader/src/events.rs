//! The ring of events, read by one reader.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use countersign_ebpf_common::event::Event;

/// The reading end of `cs_events`.
///
/// Readable (in the sense of `poll`) when there is something to read; the programs wake the reader at most
/// every [`countersign_ebpf_common::limits::EVENT_WAKE_NS`], so the last few events of a burst may come
/// without a wake-up: look in at least every 100 ms as well.
#[derive(Debug)]
pub struct Events(pub(crate) Ring);

pub(crate) struct Ring(pub(crate) RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cs_events")
    }
}

impl Events {
    /// The next event, if there is one.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it yields again after None")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.0.0.next()?;
            if let Some(event) = decode(&item) {
                return Some(event);
            }
        }
    }
}

fn decode(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the length has been checked, unaligned is allowed for, and every bit pattern is an `Event`.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}
