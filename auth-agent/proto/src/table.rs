//! The records of all pairs, and who is charged for them.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::pair::Pair;
use crate::reason::Overload;
use crate::record::{Proof, Record};

#[derive(Debug, Default)]
struct Share {
    unproven: usize,
    live: usize,
}

/// Records by canonical pair. Failed ones are the only ones that may be evicted: first the owner's own, then
/// the oldest of all.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Boxed: a map of some hundred bytes each would move kilobytes at every insertion.
    records: BTreeMap<Pair, Box<Record>>,
    shares: BTreeMap<u32, Share>,
    failed_of: BTreeSet<(u32, u64, Pair)>,
    failed: BTreeSet<(u64, Pair)>,
    live: usize,
}

impl Table {
    pub(crate) fn get(&self, key: Pair) -> Option<&Record> {
        self.records.get(&key).map(Box::as_ref)
    }

    /// The record for changes that no account depends on; the others are methods of the table.
    pub(crate) fn get_mut(&mut self, key: Pair) -> Option<&mut Record> {
        self.records.get_mut(&key).map(Box::as_mut)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pair, &Record)> {
        self.records.iter().map(|(key, record)| (*key, record.as_ref()))
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Whether a new record of this owner fits; if another must go for it, which one.
    pub(crate) fn room(&self, owner: u32, config: &Config) -> Result<Option<Pair>, Overload> {
        let unproven = self.shares.get(&owner).map_or(0, |share| share.unproven);
        let own = || self.failed_of.range((owner, 0, FIRST)..).next().filter(|(of, ..)| *of == owner);
        if unproven >= config.max_unproven_per_identity {
            return own().map(|(.., key)| Some(*key)).ok_or(Overload::Identity);
        }
        if self.records.len() < config.max_pairs {
            return Ok(None);
        }
        let oldest = || self.failed.first().map(|(_, key)| *key);
        own().map(|(.., key)| *key).or_else(oldest).map(Some).ok_or(Overload::Table)
    }

    /// Whether one more live entry of this owner is within its share.
    pub(crate) fn may_live(&self, owner: u32, config: &Config) -> bool {
        self.shares.get(&owner).is_none_or(|share| share.live < config.max_live_per_identity)
    }

    /// Adds a record, after [`Self::room`].
    pub(crate) fn insert(&mut self, key: Pair, record: Record) {
        self.shares.entry(record.owner).or_default().unproven += 1;
        self.records.insert(key, Box::new(record));
    }

    pub(crate) fn remove(&mut self, key: Pair) -> Option<Record> {
        self.unmark_failed(key);
        let record = self.records.remove(&key)?;
        self.count(record.owner, record.is_live(), false);
        Some(*record)
    }

    /// Sets or takes away the proof; returns the one before.
    pub(crate) fn set_proof(&mut self, key: Pair, proof: Option<Proof>) -> Option<Proof> {
        let record = self.records.get_mut(&key)?;
        let before = std::mem::replace(&mut record.proof, proof);
        let owner = record.owner;
        if before.is_some() != proof.is_some() {
            self.count(owner, proof.is_some(), true);
            self.count(owner, before.is_some(), false);
        }
        before
    }

    /// The pair has failed and nothing waits for it: it may be evicted.
    pub(crate) fn mark_failed(&mut self, key: Pair, now: u64) {
        self.unmark_failed(key);
        let Some(record) = self.records.get_mut(&key) else { return };
        record.failed_since = Some(now);
        self.failed.insert((now, key));
        self.failed_of.insert((record.owner, now, key));
    }

    pub(crate) fn unmark_failed(&mut self, key: Pair) {
        let Some(record) = self.records.get_mut(&key) else { return };
        if let Some(since) = record.failed_since.take() {
            self.failed.remove(&(since, key));
            self.failed_of.remove(&(record.owner, since, key));
        }
    }

    fn count(&mut self, owner: u32, live: bool, more: bool) {
        let share = self.shares.entry(owner).or_default();
        let count = if live { &mut share.live } else { &mut share.unproven };
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if live {
            self.live = if more { self.live + 1 } else { self.live.saturating_sub(1) };
        }
        if share.live == 0 && share.unproven == 0 {
            self.shares.remove(&owner);
        }
    }
}

const FIRST: Pair = Pair::new(0, 0, 0);
