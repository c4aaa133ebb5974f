//! Who may have how many inbound handshakes under way: the silent and the slow give way to newer ones.
//!
//! Refusing the newest would let a few hundred idle sockets lock out their whole address until they time
//! out. An honest handshake is over in milliseconds, so the oldest is the one least likely to be honest.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use super::limits::{MAX_INBOUND, MAX_INBOUND_PER_PEER};

/// All inbound handshakes of a server.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_peer: HashMap<IpAddr, VecDeque<Waiting>>,
    total: usize,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    task: Option<AbortHandle>,
}

/// One inbound handshake: counted until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    gate: Arc<Gate>,
    peer: IpAddr,
    number: u64,
}

/// Which handshake had to give way; `Some` only if there was one.
pub(super) type Evicted = Option<AbortHandle>;

impl Gate {
    /// Counts a new handshake in. The task evicted for it, if any, is the caller's to end.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> (Seat, Evicted) {
        let peer = subscriber(peer);
        let mut state = self.lock();
        let evicted = state.make_room(peer);
        state.next = state.next.wrapping_add(1);
        state.total += 1;
        let number = state.next;
        state.by_peer.entry(peer).or_default().push_back(Waiting { number, task: None });
        drop(state);
        (Seat { gate: Arc::clone(self), peer, number }, evicted)
    }

    /// Says which task to end if this handshake has to give way; nothing if it is through already.
    pub(super) fn arm(&self, (peer, number): (IpAddr, u64), task: AbortHandle) {
        let mut state = self.lock();
        if let Some(waiting) = state.find(peer, number) {
            waiting.task = Some(task);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn make_room(&mut self, peer: IpAddr) -> Evicted {
        if self.by_peer.get(&peer).is_some_and(|waiting| waiting.len() >= MAX_INBOUND_PER_PEER) {
            return self.evict(peer);
        }
        if self.total < MAX_INBOUND {
            return None;
        }
        // Whoever has most pays: reached only under attack from several addresses.
        let most = self.by_peer.iter().max_by_key(|(_, waiting)| waiting.len()).map(|(peer, _)| *peer)?;
        self.evict(most)
    }

    fn evict(&mut self, peer: IpAddr) -> Evicted {
        let waiting = self.by_peer.get_mut(&peer)?;
        let oldest = waiting.pop_front()?;
        self.total -= 1;
        if waiting.is_empty() {
            self.by_peer.remove(&peer);
        }
        oldest.task
    }

    fn position(&self, peer: IpAddr, number: u64) -> Option<usize> {
        self.by_peer.get(&peer)?.binary_search_by_key(&number, |waiting| waiting.number).ok()
    }

    fn find(&mut self, peer: IpAddr, number: u64) -> Option<&mut Waiting> {
        let at = self.position(peer, number)?;
        self.by_peer.get_mut(&peer)?.get_mut(at)
    }

    fn leave(&mut self, peer: IpAddr, number: u64) {
        let Some(at) = self.position(peer, number) else { return };
        let Some(waiting) = self.by_peer.get_mut(&peer) else { return };
        waiting.remove(at);
        self.total -= 1;
        if waiting.is_empty() {
            self.by_peer.remove(&peer);
        }
    }
}

impl Seat {
    /// What [`Gate::arm`] wants.
    pub(super) fn key(&self) -> (IpAddr, u64) {
        (self.peer, self.number)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.lock().leave(self.peer, self.number);
    }
}

/// Whom an address stands for: itself, or the /64 of an IPv6 address, which one host has whole.
fn subscriber(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn total(gate: &Gate) -> usize {
        gate.lock().total
    }

    #[test]
    fn what_is_through_leaves_no_trace() {
        let gate = Arc::new(Gate::default());
        let seats: Vec<Seat> = (0..100).map(|_| gate.enter(ip("192.0.2.1")).0).collect();
        assert_eq!(total(&gate), 100);
        drop(seats);
        assert_eq!(total(&gate), 0);
        assert!(gate.lock().by_peer.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_of_the_same_address_gives_way() {
        let gate = Arc::new(Gate::default());
        let other = gate.enter(ip("192.0.2.2")).0;
        let mut seats = Vec::new();
        for _ in 0..MAX_INBOUND_PER_PEER {
            let (seat, evicted) = gate.enter(ip("192.0.2.1"));
            assert!(evicted.is_none());
            let task = tokio::spawn(std::future::pending::<()>());
            gate.arm(seat.key(), task.abort_handle());
            seats.push((seat, task));
        }
        let (_seat, evicted) = gate.enter(ip("192.0.2.1"));
        evicted.unwrap().abort();
        let (oldest, task) = seats.remove(0);
        assert!(task.await.unwrap_err().is_cancelled());
        let before = total(&gate);
        drop(oldest);
        assert_eq!(total(&gate), before, "an evicted seat is not counted out twice");
        assert!(gate.lock().by_peer.contains_key(&other.peer));
    }

    #[test]
    fn in_all_the_address_with_most_pays() {
        let gate = Arc::new(Gate::default());
        let mut seats = vec![gate.enter(ip("198.51.100.1")).0];
        for peer in 0..4_u8 {
            let peer = IpAddr::from([192, 0, 2, peer]);
            seats.extend((0..MAX_INBOUND_PER_PEER).map(|_| gate.enter(peer).0));
        }
        let state = gate.lock();
        assert!(state.total <= MAX_INBOUND);
        assert_eq!(state.by_peer[&ip("198.51.100.1")].len(), 1);
        drop(state);
        drop(seats);
        assert_eq!(total(&gate), 0);
    }

    #[test]
    fn an_ipv6_host_is_its_64() {
        let gate = Arc::new(Gate::default());
        let seats: Vec<Seat> = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1"]
            .map(|text| gate.enter(ip(text)).0)
            .into();
        assert_eq!(gate.lock().by_peer.len(), 3);
        drop(seats);
    }
}
