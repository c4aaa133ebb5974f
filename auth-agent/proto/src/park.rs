//! The parking queue: frames that wait for their pair to be proved.
//!
//! Bounded per pair, per source and in all; every source has a few places that nobody else can take. When
//! something is full the newest frame is dropped. Frames of a pair leave in the order of arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits;
use crate::pair::Pair;

/// Who sent the frame, and is charged for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The endpoint of this node with this slot.
    Pod(u16),
    /// Endpoints of this identity on this other node.
    Remote {
        /// The identity.
        identity: u32,
        /// The node.
        node: u16,
    },
}

/// The bounds; every default is in [`limits`] with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkLimits {
    /// How long a frame may wait, in nanoseconds.
    pub deadline: u64,
    /// Frames of one pair.
    pub frames_per_pair: usize,
    /// Bytes of one pair.
    pub bytes_per_pair: usize,
    /// Frames of one source.
    pub frames_per_source: usize,
    /// Bytes of one source.
    pub bytes_per_source: usize,
    /// Frames in all, reserved places aside.
    pub frames: usize,
    /// Bytes in all, reserved places aside.
    pub bytes: usize,
    /// Frames every source may park however full the rest is.
    pub reserved_frames: usize,
    /// Bytes every source may park however full the rest is.
    pub reserved_bytes: usize,
    /// Sources with reserved places.
    pub sources: usize,
}

impl Default for ParkLimits {
    fn default() -> Self {
        Self {
            deadline: limits::PARK_DEADLINE,
            frames_per_pair: limits::PARK_FRAMES_PER_PAIR,
            bytes_per_pair: limits::PARK_BYTES_PER_PAIR,
            frames_per_source: limits::PARK_FRAMES_PER_SOURCE,
            bytes_per_source: limits::PARK_BYTES_PER_SOURCE,
            frames: limits::PARK_FRAMES,
            bytes: limits::PARK_BYTES,
            reserved_frames: limits::PARK_RESERVED_FRAMES,
            reserved_bytes: limits::PARK_RESERVED_BYTES,
            sources: limits::PARK_SOURCES,
        }
    }
}

/// Which bound a frame met; it was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Its pair's.
    Pair,
    /// Its source's.
    Source,
    /// That of all.
    All,
}

/// A frame as it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked<F> {
    /// The pair as given when it was parked.
    pub pair: Pair,
    /// Its source.
    pub source: Source,
    /// When it was parked.
    pub since: u64,
    /// Its length in bytes.
    pub len: usize,
    /// The frame.
    pub frame: F,
}

/// A number of frames and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, len: usize) {
        self.frames += 1;
        self.bytes = self.bytes.saturating_add(len as u64);
    }
}

/// What has happened since the start: `parked` is the sum of what was released, discarded and expired, and
/// of what is parked now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkCounters {
    /// Taken in.
    pub parked: Tally,
    /// Released.
    pub released: Tally,
    /// Discarded with their pair.
    pub discarded: Tally,
    /// Discarded at their deadline.
    pub expired: Tally,
    /// Dropped because the pair's places were taken.
    pub full_pair: Tally,
    /// Dropped because the source's places were taken.
    pub full_source: Tally,
    /// Dropped because all places were taken.
    pub full_all: Tally,
}

/// Frames in use.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    frames: usize,
    bytes: usize,
}

impl Use {
    fn take(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len;
    }

    fn give(&mut self, len: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(len);
    }

    fn fits(&self, len: usize, frames: usize, bytes: usize) -> bool {
        self.frames < frames && self.bytes.saturating_add(len) <= bytes
    }
}

#[derive(Debug)]
struct Place<F> {
    parked: Parked<F>,
    deadline: u64,
    /// It stands on a place of its source's own.
    reserved: bool,
}

#[derive(Debug)]
struct Line<F> {
    places: VecDeque<Place<F>>,
    used: Use,
}

#[derive(Debug, Default)]
struct Share {
    used: Use,
    reserved: Use,
}

/// The parking queue. `F` is whatever stands for a frame.
#[derive(Debug)]
pub struct Parking<F> {
    limits: ParkLimits,
    lines: BTreeMap<Pair, Line<F>>,
    /// The first frame's deadline of every pair.
    fronts: BTreeSet<(u64, Pair)>,
    sources: BTreeMap<Source, Share>,
    shared: Use,
    now: u64,
    counters: ParkCounters,
}

impl<F> Parking<F> {
    /// An empty queue.
    pub fn new(limits: ParkLimits) -> Self {
        Self {
            limits,
            lines: BTreeMap::new(),
            fronts: BTreeSet::new(),
            sources: BTreeMap::new(),
            shared: Use::default(),
            now: 0,
            counters: ParkCounters::default(),
        }
    }

    /// Parks a frame of `len` bytes, or drops it. Both orders of a pair on the same node are one line.
    pub fn push(&mut self, pair: Pair, source: Source, frame: F, len: usize, now: u64) -> Result<(), Full> {
        self.now = self.now.max(now);
        let key = pair.canonical();
        let reserved = match self.place_for(key, source, len) {
            Ok(reserved) => reserved,
            Err(full) => {
                self.refuse(full, len);
                return Err(full);
            }
        };
        let share = self.sources.entry(source).or_default();
        share.used.take(len);
        if reserved {
            share.reserved.take(len)
        } else {
            self.shared.take(len)
        }
        let deadline = self.now.saturating_add(self.limits.deadline);
        let line =
            self.lines.entry(key).or_insert_with(|| Line { places: VecDeque::new(), used: Use::default() });
        if line.places.is_empty() {
            self.fronts.insert((deadline, key));
        }
        line.used.take(len);
        let parked = Parked { pair, source, since: self.now, len, frame };
        line.places.push_back(Place { parked, deadline, reserved });
        self.counters.parked.add(len);
        Ok(())
    }

    /// Takes all frames of the pair out, in the order of arrival.
    pub fn release(&mut self, pair: Pair) -> impl Iterator<Item = Parked<F>> + use<F> {
        let places = self.take_line(pair.canonical());
        for place in &places {
            self.counters.released.add(place.parked.len);
        }
        places.into_iter().map(|place| place.parked)
    }

    /// Takes all frames of the pair out, to be dropped.
    pub fn discard(&mut self, pair: Pair) -> impl Iterator<Item = Parked<F>> + use<F> {
        let places = self.take_line(pair.canonical());
        for place in &places {
            self.counters.discarded.add(place.parked.len);
        }
        places.into_iter().map(|place| place.parked)
    }

    /// Takes out the frames whose deadline has come, pair by pair in the order of deadlines, to be dropped.
    pub fn expire(&mut self, now: u64) -> Vec<(Pair, Vec<Parked<F>>)> {
        self.now = self.now.max(now);
        let mut expired = Vec::new();
        while let Some((_, key)) = self.fronts.first().copied().filter(|(at, _)| *at <= self.now) {
            let mut frames = Vec::new();
            while let Some(parked) = self.expire_front(key) {
                self.counters.expired.add(parked.len);
                frames.push(parked);
            }
            expired.push((key, frames));
        }
        expired
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        self.fronts.first().map(|(at, _)| *at)
    }

    /// Frames of the pair.
    pub fn parked(&self, pair: Pair) -> usize {
        self.lines.get(&pair.canonical()).map_or(0, |line| line.places.len())
    }

    /// Frames and bytes in all.
    pub fn total(&self) -> Tally {
        let mut total = Tally { frames: self.shared.frames as u64, bytes: self.shared.bytes as u64 };
        for share in self.sources.values() {
            total.frames += share.reserved.frames as u64;
            total.bytes += share.reserved.bytes as u64;
        }
        total
    }

    /// What has happened since the start.
    pub fn counters(&self) -> &ParkCounters {
        &self.counters
    }

    // Whether the frame gets a place of its source's own (true) or a shared one.
    fn place_for(&self, key: Pair, source: Source, len: usize) -> Result<bool, Full> {
        let limits = &self.limits;
        let pair = self.lines.get(&key).map(|line| line.used).unwrap_or_default();
        if !pair.fits(len, limits.frames_per_pair, limits.bytes_per_pair) {
            return Err(Full::Pair);
        }
        let share = self.sources.get(&source);
        let (used, reserved) = share.map_or((Use::default(), Use::default()), |s| (s.used, s.reserved));
        if !used.fits(len, limits.frames_per_source, limits.bytes_per_source) {
            return Err(Full::Source);
        }
        let has_own = share.is_some() || self.sources.len() < limits.sources;
        if has_own && reserved.fits(len, limits.reserved_frames, limits.reserved_bytes) {
            return Ok(true);
        }
        if self.shared.fits(len, limits.frames, limits.bytes) { Ok(false) } else { Err(Full::All) }
    }

    fn refuse(&mut self, full: Full, len: usize) {
        match full {
            Full::Pair => self.counters.full_pair.add(len),
            Full::Source => self.counters.full_source.add(len),
            Full::All => self.counters.full_all.add(len),
        }
    }

    fn take_line(&mut self, key: Pair) -> VecDeque<Place<F>> {
        let Some(line) = self.lines.remove(&key) else { return VecDeque::new() };
        if let Some(front) = line.places.front() {
            self.fronts.remove(&(front.deadline, key));
        }
        for place in &line.places {
            self.vacate(place.parked.source, place.parked.len, place.reserved);
        }
        line.places
    }

    // Takes the pair's first frame out if its time has come.
    fn expire_front(&mut self, key: Pair) -> Option<Parked<F>> {
        let line = self.lines.get_mut(&key)?;
        let place = line.places.pop_front_if(|place| place.deadline <= self.now)?;
        self.fronts.remove(&(place.deadline, key));
        line.used.give(place.parked.len);
        match line.places.front() {
            Some(next) => {
                self.fronts.insert((next.deadline, key));
            }
            None => {
                self.lines.remove(&key);
            }
        }
        self.vacate(place.parked.source, place.parked.len, place.reserved);
        Some(place.parked)
    }

    fn vacate(&mut self, source: Source, len: usize, reserved: bool) {
        let Some(share) = self.sources.get_mut(&source) else { return };
        share.used.give(len);
        if reserved {
            share.reserved.give(len)
        } else {
            self.shared.give(len)
        }
        if share.used.frames == 0 {
            self.sources.remove(&source);
        }
    }
}
