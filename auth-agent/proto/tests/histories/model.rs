//! The naive model: what may be live until when, and who may dial from when on. It knows nothing of queues,
//! timers or tables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use countersign_auth_proto::limits::{BACKOFF_MAX, BACKOFF_MIN, FORGET_AFTER, PROBE_GAP, STEADY_ATTEMPTS};
use countersign_auth_proto::{FailureKind, Pair};

#[derive(Clone, Copy, Debug)]
pub struct Failure {
    pub why: FailureKind,
    pub in_a_row: u32,
    /// The end of the back-off.
    pub until: u64,
    /// It may have been forgiven, so that the next failure is the first again.
    pub forgiven: bool,
}

#[derive(Clone, Debug, Default)]
pub struct PairModel {
    pub expires_at: Option<u64>,
    pub failure: Option<Failure>,
    dialled_at: u64,
}

#[derive(Debug, Default)]
pub struct Model {
    pub pairs: BTreeMap<Pair, PairModel>,
    pub max_age: u64,
    pub source_down: bool,
    void_identity: BTreeMap<u32, u64>,
    void_node: BTreeMap<u16, u64>,
    void_all: Option<u64>,
    last_probe: BTreeMap<u16, u64>,
    pub bound: BTreeMap<IpAddr, (u32, u16)>,
}

impl Model {
    pub fn new(max_age: u64) -> Self {
        Self { max_age, ..Self::default() }
    }

    pub fn pair(&mut self, pair: Pair) -> &mut PairModel {
        self.pairs.entry(pair.canonical()).or_default()
    }

    pub fn end(&self, pair: Pair, now: u64) -> Option<u64> {
        let pair = self.pairs.get(&pair.canonical())?;
        pair.expires_at.filter(|end| *end > now)
    }

    pub fn is_live(&self, pair: Pair, now: u64) -> bool {
        self.end(pair, now).is_some()
    }

    /// A genuine proof.
    pub fn proved(&mut self, pair: Pair, not_after: u64, now: u64) {
        let end = not_after.min(now + self.max_age);
        let source_down = self.source_down;
        let old = self.end(pair, now);
        let pair = self.pair(pair);
        pair.failure = None;
        pair.expires_at = Some(match old {
            Some(old) if source_down => old.min(end),
            _ => end,
        });
    }

    /// A failure that the machine tells of. False if what it makes of it is not right.
    pub fn failed(&mut self, pair: Pair, why: FailureKind, attempts: u32, retry_at: u64, now: u64) -> bool {
        let left = self.end(pair, now).map(|end| (end - now) / 2);
        let pair = self.pair(pair);
        let in_a_row = pair.failure.map_or(0, |failure| failure.in_a_row) + 1;
        // Long after the last failure it may have been forgotten.
        let anew =
            pair.failure.is_some_and(|old| old.forgiven || pair.dialled_at >= old.until + FORGET_AFTER);
        let steps = match why {
            FailureKind::NotLocal if attempts <= STEADY_ATTEMPTS => attempts.min(2),
            FailureKind::NotLocal => attempts + 2 - STEADY_ATTEMPTS,
            _ => attempts,
        };
        let step = (BACKOFF_MIN << (steps - 1).min(32)).min(BACKOFF_MAX / 5 * 4);
        let most = left.map_or(u64::MAX, |left| left.max(BACKOFF_MIN));
        let pause = step.min(most)..=(step / 4 * 5).min(most);
        pair.failure = Some(Failure { why, in_a_row: attempts, until: retry_at, forgiven: false });
        pause.contains(&(retry_at - now)) && (attempts == in_a_row || (anew && attempts == 1))
    }

    /// A node that did not answer does; nobody who failed for the network need wait.
    pub fn node_answers(&mut self, node: u16) {
        self.forgive(|pair, why| pair.node == node && why.is_network());
    }

    pub fn forgive(&mut self, passed: impl Fn(Pair, FailureKind) -> bool) {
        for (key, pair) in &mut self.pairs {
            if let Some(failure) = pair.failure.as_mut().filter(|failure| passed(*key, failure.why)) {
                failure.until = 0;
                failure.forgiven = true;
            }
        }
    }

    /// Everything about these pairs is void.
    pub fn purge(&mut self, concerned: impl Fn(Pair) -> bool) {
        for (key, pair) in &mut self.pairs {
            if concerned(*key) {
                *pair = PairModel::default();
            }
        }
    }

    pub fn void_identity(&mut self, identity: u32, now: u64) {
        self.void_identity.insert(identity, now);
    }

    pub fn void_node(&mut self, node: u16, now: u64) {
        self.void_node.insert(node, now);
    }

    pub fn void_all(&mut self, now: u64) {
        self.void_all = Some(now);
    }

    /// Whether an inbound handshake that began then counts.
    pub fn counts(&self, pair: Pair, started_at: u64) -> bool {
        [
            self.void_identity.get(&pair.local).copied(),
            self.void_identity.get(&pair.remote).copied(),
            self.void_node.get(&pair.node).copied(),
            self.void_all,
        ]
        .into_iter()
        .flatten()
        .all(|at| started_at > at)
    }

    pub fn shorten(&mut self, end: u64) {
        for pair in self.pairs.values_mut() {
            pair.expires_at = pair.expires_at.map(|old| old.min(end));
        }
    }

    /// Whether the pair may dial now: not in back-off, or a probe of a node that does not answer.
    pub fn may_dial(&mut self, pair: Pair, now: u64) -> bool {
        let model = self.pair(pair);
        model.dialled_at = now;
        let Some(failure) = model.failure else { return true };
        if now >= failure.until {
            return true;
        }
        let last = self.last_probe.insert(pair.node, now);
        failure.why.is_network() && last.is_none_or(|last| now - last >= PROBE_GAP)
    }

    /// Whether packets may be refused because of this failure.
    pub fn is_resting(&self, pair: Pair, why: FailureKind, now: u64) -> bool {
        let failure = self.pairs.get(&pair.canonical()).and_then(|pair| pair.failure);
        failure.is_some_and(|failure| failure.why == why && now < failure.until)
    }

    pub fn is_bound(&self, ip: IpAddr, pair: Pair) -> bool {
        self.bound.get(&ip) == Some(&(pair.remote, pair.node))
    }

    /// Every bound address needs a live pair that vouches for it.
    pub fn has_voucher(&self, (identity, node): (u32, u16), now: u64) -> bool {
        self.pairs.iter().any(|(pair, model)| {
            let named = pair.remote == identity || (node == 0 && pair.local == identity);
            named && pair.node == node && model.expires_at.is_some_and(|end| end > now)
        })
    }
}
