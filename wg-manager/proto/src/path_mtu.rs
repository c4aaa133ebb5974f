//! How large a packet a path takes whole: a search by probes that are answered or not (RFC 8899, Packetization Layer
//! Path MTU Discovery), for paths whose routers drop what is too large and do not say so.
//!
//! The largest size that the first hop allows is tried first: on most paths that is all. Where it is lost and the
//! smallest is not, the size between is searched. Where nothing is ever answered, the path says nothing of itself, and
//! what the first hop allows is taken to be right.

use crate::limits::{PATH_AGAIN, PATH_CONFIRM, PATH_PROBE_WAIT, PATH_PROBES, PATH_STEP};

/// Every IPv6 path takes packets of this size (RFC 8200, section 5); a path that does not is none for tunnels.
pub const SMALLEST: u16 = 1_280;

/// A packet of `size` bytes, its IP header included, is to be sent whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// In bytes.
    pub size: u16,
    /// The answer carries it, so that a late one is not taken for another's.
    pub number: u32,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is being looked at for the first time.
    Nothing,
    /// No probe is answered: somebody on the way, or its end, drops them all.
    Silent,
    /// Packets of that many bytes arrive, larger ones do not, or the first hop does not take them.
    Takes(u16),
}

/// The search on one path. Times are nanoseconds of a clock that does not go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtu {
    /// What the first hop takes.
    limit: u16,
    known: Known,
    search: Search,
    lost: u32,
    sent: Option<Probe>,
    /// When the probe that is under way counts as lost, or the next one is due.
    at: u64,
    /// When the largest size is tried again.
    again_at: u64,
    next_number: u32,
}

/// What the next probe is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Whether the largest size arrives.
    Largest,
    /// Whether anything does.
    Smallest,
    /// `low` arrives, and what is larger than `high` does not.
    Between { low: u16, high: u16 },
    /// Whether what was found still does.
    Confirm,
}

impl PathMtu {
    /// A path whose first hop takes packets of `limit` bytes.
    #[must_use]
    pub fn new(limit: u16, now: u64) -> Self {
        Self {
            limit: limit.max(SMALLEST),
            known: Known::Nothing,
            search: Search::Largest,
            lost: 0,
            sent: None,
            at: now,
            again_at: now,
            next_number: 0,
        }
    }

    /// The first hop takes packets of `limit` bytes now. Another limit begins the search anew.
    pub fn set_limit(&mut self, limit: u16, now: u64) {
        if limit.max(SMALLEST) != self.limit {
            let (known, number) = (self.known, self.next_number);
            *self = Self { known, next_number: number, ..Self::new(limit, now) };
            if let Known::Takes(size) = self.known {
                self.known = Known::Takes(size.min(self.limit));
            }
        }
    }

    /// What is known.
    #[must_use]
    pub const fn known(&self) -> Known {
        self.known
    }

    /// The largest packet that may be sent: what is known, or what the first hop takes.
    #[must_use]
    pub const fn size(&self) -> u16 {
        match self.known {
            Known::Takes(size) => size,
            Known::Nothing | Known::Silent => self.limit,
        }
    }

    /// When [`Self::poll`] has something to do.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.at
    }

    /// The probe to be sent now, if any.
    pub fn poll(&mut self, now: u64) -> Option<Probe> {
        if self.at > now {
            return None;
        }
        if self.sent.take().is_some() {
            self.lost += 1;
            if self.lost >= PATH_PROBES {
                self.lost = 0;
                self.not_taken(now);
                if self.at > now {
                    return None;
                }
            }
        } else if self.search == Search::Confirm && now >= self.again_at && self.size() < self.limit {
            self.search = Search::Largest;
        }
        let probe = Probe { size: self.asked(), number: self.next_number };
        self.next_number = self.next_number.wrapping_add(1);
        self.sent = Some(probe);
        self.at = now.saturating_add(PATH_PROBE_WAIT);
        Some(probe)
    }

    /// A probe has been answered, by a packet of its size.
    pub fn answered(&mut self, probe: Probe, now: u64) {
        if self.sent != Some(probe) {
            return;
        }
        self.sent = None;
        self.lost = 0;
        self.at = now;
        match self.search {
            Search::Largest => self.found(self.limit, now),
            Search::Confirm => self.rest(now),
            Search::Smallest => self.between(SMALLEST, self.limit - 1, now),
            Search::Between { high, .. } => self.between(self.asked(), high, now),
        }
    }

    const fn asked(&self) -> u16 {
        match self.search {
            Search::Largest => self.limit,
            Search::Smallest => SMALLEST,
            Search::Between { low, high } => low + (high - low).div_ceil(2),
            Search::Confirm => self.size(),
        }
    }

    /// Nothing of the size that was asked arrives.
    fn not_taken(&mut self, now: u64) {
        match self.search {
            // Tried again: what arrived until now still counts.
            Search::Largest if matches!(self.known, Known::Takes(size) if size < self.limit) => {
                self.between(self.size(), self.limit - 1, now);
            }
            Search::Largest if self.limit > SMALLEST => self.search = Search::Smallest,
            // It may have become smaller, or silent.
            Search::Confirm if self.size() > SMALLEST => self.search = Search::Smallest,
            Search::Largest | Search::Smallest | Search::Confirm => {
                self.known = Known::Silent;
                self.search = Search::Largest;
                self.at = now.saturating_add(PATH_AGAIN);
            }
            Search::Between { low, .. } => self.between(low, self.asked() - 1, now),
        }
    }

    fn between(&mut self, low: u16, high: u16, now: u64) {
        if high.saturating_sub(low) < PATH_STEP {
            return self.found(low, now);
        }
        // What arrives may be used meanwhile; what was known may not arrive any more.
        self.known = Known::Takes(low);
        self.search = Search::Between { low, high };
    }

    fn found(&mut self, size: u16, now: u64) {
        self.known = Known::Takes(size);
        self.again_at = now.saturating_add(PATH_AGAIN);
        self.rest(now);
    }

    fn rest(&mut self, now: u64) {
        self.search = Search::Confirm;
        self.at = now.saturating_add(PATH_CONFIRM);
    }
}

/// The largest packet that a tunnel may carry over a path: less WireGuard's header and tag (32 bytes), UDP's and IP's;
/// and a multiple of 16, since that is what WireGuard fills packets up to.
#[must_use]
pub const fn inside(path: u16, outer_is_ipv4: bool) -> u16 {
    let around = if outer_is_ipv4 { 20 + 8 + 32 } else { 40 + 8 + 32 };
    path.saturating_sub(around) & !15
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Lets time pass until `until`, on a path that takes `takes` bytes and loses the probes of `loses`. Returns how
    /// many were sent.
    fn run(
        path: &mut PathMtu,
        now: &mut u64,
        until: u64,
        takes: u16,
        loses: &mut dyn FnMut() -> bool,
    ) -> u32 {
        let mut sent = 0;
        while path.deadline() <= until {
            *now = (*now).max(path.deadline());
            let Some(probe) = path.poll(*now) else { continue };
            sent += 1;
            if probe.size <= takes && !loses() {
                *now += SECOND / 100;
                path.answered(probe, *now);
            }
        }
        *now = until;
        sent
    }

    #[test]
    fn one_probe_is_enough_where_all_is_well() {
        let (mut path, mut now) = (PathMtu::new(1_500, 0), 0);
        assert_eq!((path.known(), path.size()), (Known::Nothing, 1_500));
        assert_eq!(run(&mut path, &mut now, SECOND, 1_500, &mut || false), 1);
        assert_eq!(path.known(), Known::Takes(1_500));
        let day = 86_400 * SECOND;
        let sent = run(&mut path, &mut now, day, 1_500, &mut || false);
        assert!(u64::from(sent) <= day / PATH_CONFIRM + 1, "{sent} probes in a day");
    }

    #[test]
    fn a_silent_path_is_left_as_it_is_and_asked_seldom() {
        let (mut path, mut now) = (PathMtu::new(1_500, 0), 0);
        let sent = run(&mut path, &mut now, 3_600 * SECOND, 0, &mut || false);
        assert_eq!((path.known(), path.size()), (Known::Silent, 1_500));
        assert!(u64::from(sent) <= 2 * u64::from(PATH_PROBES) * (3_600 * SECOND / PATH_AGAIN + 1), "{sent}");
    }

    #[test]
    fn a_late_or_foreign_answer_counts_for_nothing() {
        let mut path = PathMtu::new(1_500, 0);
        let first = path.poll(0).unwrap();
        path.answered(Probe { number: first.number + 1, ..first }, 1);
        path.answered(Probe { size: first.size - 1, ..first }, 1);
        let second = path.poll(PATH_PROBE_WAIT).unwrap();
        assert_eq!(second.size, 1_500);
        path.answered(first, PATH_PROBE_WAIT + 1);
        assert_eq!(path.known(), Known::Nothing);
        path.answered(second, PATH_PROBE_WAIT + 2);
        assert_eq!(path.known(), Known::Takes(1_500));
    }

    #[test]
    fn what_a_tunnel_may_carry_fits_with_its_filling() {
        assert_eq!((inside(1_500, true), inside(1_500, false)), (1_440, 1_408));
        assert_eq!(inside(0, true), 0);
        for path in SMALLEST..2_000 {
            let around = if path % 2 == 0 { 60 } else { 80 };
            let inner = inside(path, path % 2 == 0);
            assert!(inner.next_multiple_of(16) + around <= path && inner + 16 + around > path);
        }
    }

    proptest! {
        /// Whatever the path takes, and however it changes, the search ends within one step below it and never above.
        #[test]
        fn the_search_ends_below_what_the_path_takes(
            limit in SMALLEST..=9_000_u16,
            paths in prop::collection::vec(SMALLEST..=9_000_u16, 1..5),
        ) {
            let (mut path, mut now) = (PathMtu::new(limit, 0), 0);
            for takes in paths {
                let until = now + PATH_AGAIN + PATH_CONFIRM + 200 * SECOND;
                run(&mut path, &mut now, until, takes, &mut || false);
                let best = takes.min(limit);
                let Known::Takes(size) = path.known() else { panic!("{path:?}") };
                prop_assert!(size <= best && best - size < PATH_STEP, "{size} of {best}");
            }
        }

        /// Single losses are no sizes.
        #[test]
        fn scattered_losses_make_nothing_smaller(limit in SMALLEST..=9_000_u16, every in 3..9_u32) {
            let (mut path, mut now, mut count) = (PathMtu::new(limit, 0), 0, 0);
            let mut loses = || { count += 1; count % every == 0 };
            run(&mut path, &mut now, 4 * PATH_AGAIN, limit, &mut loses);
            prop_assert_eq!(path.known(), Known::Takes(limit));
        }

        /// A first hop that takes less, or more, is followed at once and asked about anew.
        #[test]
        fn another_first_hop_begins_anew(first in SMALLEST..=9_000_u16, then in SMALLEST..=9_000_u16) {
            let (mut path, mut now) = (PathMtu::new(first, 0), 0);
            run(&mut path, &mut now, SECOND, first, &mut || false);
            path.set_limit(then, now);
            prop_assert!(path.size() <= then);
            let until = now + 10 * SECOND;
            run(&mut path, &mut now, until, 9_000, &mut || false);
            prop_assert_eq!(path.known(), Known::Takes(then));
        }

        /// It always has something to do, later than now once it was done, and takes any answer.
        #[test]
        fn nothing_stops_or_spins_it(
            limit in 0..=u16::MAX,
            steps in prop::collection::vec((0..3_u8, any::<u32>(), 0..700 * SECOND), 0..200),
        ) {
            let (mut path, mut now) = (PathMtu::new(limit, 0), 0);
            for (what, number, pause) in steps {
                now += pause;
                match what {
                    0 => path.answered(Probe { size: path.size(), number: number % 64 }, now),
                    1 => path.set_limit(number as u16, now),
                    _ => { while path.poll(now).is_some() { prop_assert!(path.deadline() > now); } }
                }
                prop_assert!(path.size() >= SMALLEST);
            }
        }
    }
}
