//! Order: what a pod sends after its pair is proved does not overtake what had to wait for that.
//!
//! The programs count the packets of a pair that they park, and this counts the frames that have been dealt
//! with. While the two numbers differ something is on its way, and the programs send what comes later here as
//! well, to queue up behind. So the way is open the moment nothing is on its way any more, and not before.

use std::collections::{BTreeMap, BTreeSet};

use countersign_ebpf_common::limits::PENDING_ENTRIES;
use countersign_ebpf_common::park::PendingKey;

use super::Node;
use crate::clock;
use crate::limits;

/// The frames of pairs at endpoints, by where the programs count them.
#[derive(Debug, Default)]
pub(super) struct Order {
    lines: BTreeMap<PendingKey, Line>,
    /// Numbers the programs have not been told yet.
    untold: BTreeSet<PendingKey>,
    /// Lines with frames given back, and since when: as soon as nothing is on its way they are forgotten.
    leaving: BTreeMap<PendingKey, u64>,
    /// Room for one frame.
    pub(super) buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Frames dealt with.
    returned: u64,
    /// Frames in the parking queue.
    held: u64,
}

impl Order {
    /// A frame has gone into the parking queue.
    pub(super) fn hold(&mut self, place: PendingKey) {
        if let Some(line) = self.line(place) {
            line.held += 1;
        }
    }

    /// A frame has come out of it.
    pub(super) fn let_go(&mut self, place: PendingKey) {
        if let Some(line) = self.lines.get_mut(&place) {
            line.held = line.held.saturating_sub(1);
        }
    }

    /// Frames have been written back.
    pub(super) fn gave_back(&mut self, place: PendingKey, frames: u64, now: u64) {
        self.deal_with(place, frames);
        self.leaving.entry(place).or_insert(now);
    }

    /// A frame has been dropped.
    pub(super) fn dropped(&mut self, place: PendingKey) {
        self.deal_with(place, 1);
    }

    /// When to look after lines again that something is still on its way of.
    pub(super) fn next_look(&self) -> Option<u64> {
        self.leaving.values().min().map(|since| since.saturating_add(limits::SETTLE))
    }

    fn deal_with(&mut self, place: PendingKey, frames: u64) {
        if let Some(line) = self.line(place) {
            line.returned += frames;
            self.untold.insert(place);
        }
    }

    /// As many as the programs can count; of one more the order is not kept.
    fn line(&mut self, place: PendingKey) -> Option<&mut Line> {
        let room = self.lines.len() < PENDING_ENTRIES as usize || self.lines.contains_key(&place);
        room.then(|| self.lines.entry(place).or_default())
    }
}

impl Node {
    /// Opens the way of lines that frames have left: all that has come meanwhile goes after them, and once the
    /// device has nothing more and the programs have parked nothing else, that was it.
    pub(super) fn settle(&mut self) {
        for _ in 0..limits::SETTLE_ROUNDS {
            self.tell_returned();
            if self.order.leaving.is_empty() {
                return;
            }
            if self.read_parked() == 0 {
                return self.close_lines();
            }
            self.act();
        }
        // They send faster than we write: it goes on in the next turn.
        self.tell_returned();
    }

    fn tell_returned(&mut self) {
        for place in std::mem::take(&mut self.order.untold) {
            let returned = self.order.lines.get(&place).map_or(0, |line| line.returned);
            if let Err(error) = self.datapath.set_returned(place, returned) {
                tracing::debug!(%error, "the programs do not know what was given back; they open in some seconds");
            }
        }
    }

    fn close_lines(&mut self) {
        let now = clock::boot_ns();
        for (place, since) in std::mem::take(&mut self.order.leaving) {
            let Some(line) = self.order.lines.get(&place).copied() else { continue };
            let known = line.returned + line.held;
            let missing = self.datapath.parked(&place).unwrap_or(0).saturating_sub(known);
            if missing > 0 && now.saturating_sub(since) < limits::SETTLE {
                // Between the program that counted it and the device, or lost.
                self.order.leaving.insert(place, since);
                continue;
            }
            self.count_discarded("lost", missing);
            if line.held > 0 {
                self.order.deal_with(place, missing);
                continue;
            }
            self.order.lines.remove(&place);
            if let Err(error) = self.datapath.forget_parked(&place) {
                tracing::debug!(%error, "the programs keep what they know of a pair");
            }
        }
    }
}
