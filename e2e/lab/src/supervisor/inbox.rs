//! Orders to a node's thread, which also waits for descriptors.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use countersign_policy::objects::Pod;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::limits::NODE_QUEUE;
use crate::names::PodKey;

use super::registrar::Told;

/// What a node's thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// This pod is to be there.
    Apply(Arc<Pod>),
    /// This pod is not to be there.
    Delete {
        /// Which.
        key: PodKey,
        /// Told, or dropped, when nothing is left of it.
        done: SyncSender<()>,
    },
    /// The agent has answered.
    Told(Told),
    /// All pods that are to be there have been said.
    Synced,
}

/// A bounded queue with a bell.
#[derive(Debug)]
pub(super) struct Inbox {
    sender: SyncSender<Order>,
    // One thread takes from it; the lock is there because the whole is shared.
    receiver: Mutex<Receiver<Order>>,
    bell: EventFd,
}

impl Inbox {
    pub(super) fn new() -> Result<Self> {
        let (sender, receiver) = sync_channel(NODE_QUEUE);
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { sender, receiver: Mutex::new(receiver), bell })
    }

    /// Waits where the queue is full: the directory is read no faster than nodes can follow.
    pub(super) fn send(&self, order: Order) {
        // Fails only when the thread is gone, and then the supervisor goes, too.
        let _ = self.sender.send(order);
        let _ = self.bell.write(1);
    }

    pub(super) fn next(&self) -> Option<Order> {
        let _ = self.bell.read();
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }

    /// Readable when there may be an order.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
