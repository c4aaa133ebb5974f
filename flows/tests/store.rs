//! The store's promises: bounded, exact, never waiting.

mod common;

use std::collections::BTreeMap;

use common::flow;
use countersign_flows::limits::{MAX_CAPACITY, MAX_SUBSCRIBERS, SUBSCRIBER_QUEUE};
use countersign_flows::{Filter, FilterSpec, FlowEvent, LossSource, Store, Subscription};
use proptest::prelude::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// Everything the reader can get without the store doing anything more.
fn drain(runtime: &tokio::runtime::Runtime, reader: &mut Subscription) -> Vec<FlowEvent> {
    let mut events = Vec::new();
    runtime.block_on(async {
        loop {
            tokio::select! {
                biased;
                event = reader.next() => match event {
                    Some(event) => events.push(event),
                    None => break,
                },
                () = std::future::ready(()) => break,
            }
        }
    });
    events
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    times: Vec<u64>,
    lost: BTreeMap<LossSource, u64>,
}

impl Seen {
    fn add(&mut self, events: Vec<FlowEvent>) {
        for event in events {
            match event {
                FlowEvent::Flow(flow) => self.times.push(flow.time),
                FlowEvent::Lost { source, count } => {
                    assert!(count > 0);
                    *self.lost.entry(source).or_default() += count;
                }
            }
        }
    }

    fn lost(&self, source: LossSource) -> u64 {
        self.lost.get(&source).copied().unwrap_or(0)
    }
}

#[test]
fn capacity_has_bounds() {
    for (asked, given) in [(0, 1), (1, 1), (4096, 4096), (usize::MAX, MAX_CAPACITY as u64)] {
        assert_eq!(Store::new(asked).stats().capacity, given);
    }
}

#[test]
fn last_gives_the_newest_that_match_oldest_first() {
    let mut store = Store::new(10);
    for time in 0..25 {
        store.push(flow(time, if time % 2 == 0 { 80 } else { 443 }));
    }
    let times = |count, filter: &Filter| -> Vec<u64> {
        store.last(count, filter).iter().map(|flow| flow.time).collect()
    };
    let web = Filter::parse(&FilterSpec { port: vec![80], ..Default::default() }).expect("a filter");
    assert_eq!(times(3, &Filter::default()), [22, 23, 24]);
    assert_eq!(times(3, &web), [20, 22, 24]);
    assert_eq!(times(100, &web), [16, 18, 20, 22, 24]);
    assert_eq!(times(0, &web), Vec::<u64>::new());
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up_and_is_told() {
    let runtime = runtime();
    let mut store = Store::new(8);
    let mut idle = store.subscribe(Filter::default()).expect("a place");
    let mut busy = store.subscribe(Filter::default()).expect("a place");
    let mut seen = Seen::default();
    let total = SUBSCRIBER_QUEUE as u64 + 500;
    for time in 0..total {
        store.push(flow(time, 80));
        seen.add(drain(&runtime, &mut busy));
    }
    assert_eq!(seen, Seen { times: (0..total).collect(), lost: BTreeMap::new() });
    let events = drain(&runtime, &mut idle);
    assert_eq!(events.len(), SUBSCRIBER_QUEUE + 1);
    assert_eq!(events.last(), Some(&FlowEvent::Lost { source: LossSource::Subscriber, count: 500 }));
    assert_eq!(store.stats().lost_by_subscribers, 500);
    store.push(flow(total, 80));
    assert!(matches!(drain(&runtime, &mut idle).as_slice(), [FlowEvent::Flow(flow)] if flow.time == total));
}

#[test]
fn losses_of_the_kernel_reach_every_reader_at_once() {
    let runtime = runtime();
    let mut store = Store::new(8);
    let nothing = Filter::parse(&FilterSpec { identity: vec![1], ..Default::default() }).expect("a filter");
    let mut reader = store.subscribe(nothing).expect("a place");
    store.push(flow(1, 80));
    store.lost_in_kernel(7);
    store.lost_in_kernel(0);
    let expected = FlowEvent::Lost { source: LossSource::RingBuffer, count: 7 };
    assert_eq!(drain(&runtime, &mut reader), [expected]);
    assert_eq!(store.stats().lost_in_kernel, 7);
}

#[test]
fn readers_are_bounded_and_their_places_come_back() {
    let mut store = Store::new(8);
    let readers: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| store.subscribe(Filter::default())).collect();
    assert!(readers.iter().all(Result::is_ok));
    assert!(store.subscribe(Filter::default()).is_err());
    drop(readers);
    assert_eq!(store.stats().subscribers, 0);
    assert!(store.subscribe(Filter::default()).is_ok());
}

#[test]
fn a_reader_outlives_the_store_by_what_it_holds() {
    let runtime = runtime();
    let mut store = Store::new(8);
    let mut reader = store.subscribe(Filter::default()).expect("a place");
    let total = SUBSCRIBER_QUEUE as u64 + 3;
    (0..total).for_each(|time| store.push(flow(time, 80)));
    drop(store);
    let mut seen = Seen::default();
    seen.add(drain(&runtime, &mut reader));
    assert_eq!(seen.times.len(), SUBSCRIBER_QUEUE);
    assert_eq!(seen.lost(LossSource::Subscriber), 3);
    assert!(runtime.block_on(reader.next()).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Push { web: bool, times: u16 },
    LostInKernel(u64),
    Read { most: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 1..900_u16).prop_map(|(web, times)| Step::Push { web, times }),
        1 => (0..50_u64).prop_map(Step::LostInKernel),
        2 => (1..1500_u16).prop_map(|most| Step::Read { most }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens: pushed = held + overwritten; what a reader wants = what it gets + what it is told it lost;
    /// what it gets is in order.
    #[test]
    fn nothing_is_unaccounted_for(capacity in 1..64_usize, steps in prop::collection::vec(step(), 0..40)) {
        let runtime = runtime();
        let mut store = Store::new(capacity);
        let web = Filter::parse(&FilterSpec { port: vec![80], ..Default::default() }).expect("a filter");
        let mut reader = store.subscribe(web).expect("a place");
        let (mut seen, mut wanted, mut clock, mut kernel) = (Seen::default(), 0, 0, 0);
        for step in steps {
            match step {
                Step::Push { web, times } => for _ in 0..times {
                    clock += 1;
                    wanted += u64::from(web);
                    store.push(flow(clock, if web { 80 } else { 22 }));
                },
                Step::LostInKernel(count) => {
                    kernel += count;
                    store.lost_in_kernel(count);
                }
                Step::Read { most } => runtime.block_on(async {
                    for _ in 0..most {
                        tokio::select! {
                            biased;
                            event = reader.next() => seen.add(event.into_iter().collect()),
                            () = std::future::ready(()) => break,
                        }
                    }
                }),
            }
            let stats = store.stats();
            prop_assert_eq!(stats.pushed, clock);
            prop_assert_eq!(stats.pushed, stats.held + stats.overwritten);
            prop_assert!(stats.held <= stats.capacity);
        }
        seen.add(drain(&runtime, &mut reader));
        prop_assert_eq!(seen.times.len() as u64 + seen.lost(LossSource::Subscriber), wanted);
        prop_assert_eq!(seen.lost(LossSource::Subscriber), store.stats().lost_by_subscribers);
        prop_assert_eq!(seen.lost(LossSource::RingBuffer), kernel);
        prop_assert!(seen.times.is_sorted());
    }
}

#[test]
fn counts_stay_exact_between_threads() {
    let mut store = Store::new(16);
    let mut reader = store.subscribe(Filter::default()).expect("a place");
    let total = 200_000;
    let writer = std::thread::spawn(move || {
        for time in 0..total {
            store.push(flow(time, 80));
            if time % 1000 == 0 {
                store.lost_in_kernel(1);
            }
        }
        store.stats()
    });
    let mut seen = Seen::default();
    runtime().block_on(async {
        while let Some(event) = reader.next().await {
            seen.add(vec![event]);
        }
    });
    let stats = writer.join().expect("the writer");
    assert_eq!(seen.times.len() as u64 + seen.lost(LossSource::Subscriber), total);
    assert_eq!(seen.lost(LossSource::Subscriber), stats.lost_by_subscribers);
    assert_eq!(seen.lost(LossSource::RingBuffer), total / 1000);
    assert!(seen.times.is_sorted());
}
