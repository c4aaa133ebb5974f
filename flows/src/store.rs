//! The latest flows, and those who follow them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::filter::Filter;
use crate::limits::{MAX_CAPACITY, MAX_SUBSCRIBERS, SUBSCRIBER_QUEUE};
use crate::record::{Flow, FlowEvent, LossSource};

/// A bounded ring of flows with one owner.
#[derive(Debug)]
pub struct Store {
    ring: VecDeque<Arc<Flow>>,
    capacity: usize,
    pushed: u64,
    lost_in_kernel: u64,
    lost_by_subscribers: u64,
    subscribers: Vec<Subscriber>,
}

/// What became of all events. `pushed` = `held` + `overwritten`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows that came in.
    pub pushed: u64,
    /// Flows that can be read now.
    pub held: u64,
    /// Flows that made room for newer ones.
    pub overwritten: u64,
    /// Flows that can be held at most.
    pub capacity: u64,
    /// Events that never came in.
    pub lost_in_kernel: u64,
    /// Flows that some reader was too slow for, in sum.
    pub lost_by_subscribers: u64,
    /// Readers.
    pub subscribers: u64,
}

/// There are [`MAX_SUBSCRIBERS`] readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SUBSCRIBERS} readers follow the flows already")]
pub struct TooManySubscribers;

#[derive(Debug)]
struct Subscriber {
    filter: Filter,
    queue: mpsc::Sender<FlowEvent>,
    untold: Arc<Untold>,
}

/// Losses that a reader has not been told of, by source.
#[derive(Debug, Default)]
struct Untold([AtomicU64; LossSource::ALL.len()]);

/// One reader's end.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<FlowEvent>,
    untold: Arc<Untold>,
}

impl Store {
    /// An empty store for that many flows (at least 1, at most [`MAX_CAPACITY`]).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            capacity: capacity.clamp(1, MAX_CAPACITY),
            pushed: 0,
            lost_in_kernel: 0,
            lost_by_subscribers: 0,
            subscribers: Vec::new(),
        }
    }

    /// Takes a flow in and hands it to the readers that want it. Never waits.
    pub fn push(&mut self, flow: Flow) {
        let flow = Arc::new(flow);
        if self.ring.len() >= self.capacity {
            self.ring.pop_front();
        }
        self.ring.push_back(Arc::clone(&flow));
        self.pushed += 1;
        let mut lost = 0;
        self.subscribers
            .retain(|subscriber| !subscriber.filter.matches(&flow) || subscriber.offer(&flow, &mut lost));
        self.lost_by_subscribers += lost;
    }

    /// Events that were lost before they could be pushed; readers are told, whatever their filter.
    pub fn lost_in_kernel(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        self.lost_in_kernel += count;
        self.subscribers.retain(|subscriber| {
            subscriber.untold.add(LossSource::RingBuffer, count);
            subscriber.tell()
        });
    }

    /// The newest `count` flows that match, oldest first.
    #[must_use]
    pub fn last(&self, count: usize, filter: &Filter) -> Vec<Arc<Flow>> {
        let newest_first = self.ring.iter().rev().filter(|flow| filter.matches(flow)).take(count);
        let mut flows: Vec<_> = newest_first.cloned().collect();
        flows.reverse();
        flows
    }

    /// Lets a reader follow all flows from now on that match.
    ///
    /// # Errors
    /// [`TooManySubscribers`].
    pub fn subscribe(&mut self, filter: Filter) -> Result<Subscription, TooManySubscribers> {
        self.subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        if self.subscribers.len() >= MAX_SUBSCRIBERS {
            return Err(TooManySubscribers);
        }
        let (sender, queue) = mpsc::channel(SUBSCRIBER_QUEUE);
        let untold = Arc::new(Untold::default());
        self.subscribers.push(Subscriber { filter, queue: sender, untold: Arc::clone(&untold) });
        Ok(Subscription { queue, untold })
    }

    /// What became of all events.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let held = self.ring.len() as u64;
        Stats {
            pushed: self.pushed,
            held,
            overwritten: self.pushed - held,
            capacity: self.capacity as u64,
            lost_in_kernel: self.lost_in_kernel,
            lost_by_subscribers: self.lost_by_subscribers,
            subscribers: self.subscribers.iter().filter(|s| !s.queue.is_closed()).count() as u64,
        }
    }
}

impl Subscriber {
    /// Hands over a flow, after what has been lost before it. False: the reader has gone.
    fn offer(&self, flow: &Arc<Flow>, lost: &mut u64) -> bool {
        if !self.tell() {
            return false;
        }
        // A loss that could not be told must come before any later flow.
        if self.untold.first().is_some() {
            self.untold.add(LossSource::Subscriber, 1);
            *lost += 1;
            return true;
        }
        match self.queue.try_send(FlowEvent::Flow(Arc::clone(flow))) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.untold.add(LossSource::Subscriber, 1);
                *lost += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Puts untold losses into the queue while there is room. False: the reader has gone.
    fn tell(&self) -> bool {
        for source in LossSource::ALL {
            let count = self.untold.count(source);
            if count == 0 {
                continue;
            }
            match self.queue.try_reserve() {
                Ok(place) => {
                    if let Some(event) = self.untold.claim(source, count) {
                        place.send(event);
                    }
                }
                Err(TrySendError::Full(())) => return true,
                Err(TrySendError::Closed(())) => return false,
            }
        }
        true
    }
}

impl Subscription {
    /// The next flow, or what was lost before it; `None` when the store is gone. May be dropped and called again.
    pub async fn next(&mut self) -> Option<FlowEvent> {
        loop {
            if let Ok(event) = self.queue.try_recv() {
                return Some(event);
            }
            let Some((source, count)) = self.untold.first() else {
                return match self.queue.recv().await {
                    Some(event) => Some(event),
                    None => self.untold.first().and_then(|(source, count)| self.untold.claim(source, count)),
                };
            };
            // Losses happen while the queue is full: seen before an empty queue, they follow all that was read.
            if self.queue.is_empty()
                && let Some(event) = self.untold.claim(source, count)
            {
                return Some(event);
            }
        }
    }
}

impl Untold {
    fn add(&self, source: LossSource, count: u64) {
        self.0[source as usize].fetch_add(count, Ordering::AcqRel);
    }

    fn count(&self, source: LossSource) -> u64 {
        self.0[source as usize].load(Ordering::Acquire)
    }

    fn first(&self) -> Option<(LossSource, u64)> {
        LossSource::ALL.into_iter().map(|source| (source, self.count(source))).find(|&(_, count)| count > 0)
    }

    /// Takes a count that was seen. Of store and reader, one gets it; `None` is the other.
    fn claim(&self, source: LossSource, count: u64) -> Option<FlowEvent> {
        let claimed =
            self.0[source as usize].compare_exchange(count, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
        claimed.then_some(FlowEvent::Lost { source, count })
    }
}
