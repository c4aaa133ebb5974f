//! Random histories of events, lived through by the state machine and by a naive model beside it.
//!
//! `CS_HISTORIES` says how many (20,000 by default; 1,000,000 for the long run), `CS_HISTORY` runs a single
//! one and tells what happens in it.

mod mix;
mod model;
mod profile;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::{Told, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.replace('_', "").parse().ok())
}

/// What all histories did together, to show that they did something.
#[derive(Default)]
struct Sum {
    events: AtomicU64,
    frames: AtomicU64,
    released: AtomicU64,
    handshakes: AtomicU64,
    proofs: AtomicU64,
    renewals: AtomicU64,
    failures: AtomicU64,
    overloads: AtomicU64,
}

impl Sum {
    fn add(&self, told: &Told) {
        let counters = &told.counters;
        let overloads = counters.overload_identity + counters.overload_queue + counters.overload_table;
        for (sum, number) in [
            (&self.events, told.events),
            (&self.frames, told.frames),
            (&self.released, told.released),
            (&self.handshakes, counters.started),
            (&self.proofs, counters.done_dialled + counters.done_inbound),
            (&self.renewals, counters.renewed),
            (&self.failures, counters.failed.iter().sum()),
            (&self.overloads, overloads),
        ] {
            sum.fetch_add(number, Ordering::Relaxed);
        }
    }
}

fn live_through(history: u64, sum: &Sum) {
    let told = World::new(history, false).run();
    // Every sixteenth a second time: the same seed, the same actions.
    if history.is_multiple_of(16) {
        let first = World::new(history, true).run().digest;
        assert_eq!(first, World::new(history, true).run().digest, "history {history} is not deterministic");
    }
    sum.add(&told);
}

#[test]
fn random_histories_keep_the_invariants() {
    let sum = Sum::default();
    if let Some(history) = number("CS_HISTORY") {
        let told = World::new(history, true).tell().run();
        println!("{told:#?}");
        return;
    }
    let histories = number("CS_HISTORIES").unwrap_or(20_000);
    let begin = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let history = next.fetch_add(1, Ordering::Relaxed);
                    if history >= histories {
                        break;
                    }
                    live_through(history, &sum);
                }
            });
        }
    });
    report(histories, begin.elapsed(), &sum);
}

fn report(histories: u64, took: std::time::Duration, sum: &Sum) {
    let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{histories} histories in {:.1} s: {} events, {} frames, {} released, {} handshakes, {} proofs, \
         {} renewals, {} failures, {} overloads",
        took.as_secs_f64(),
        get(&sum.events),
        get(&sum.frames),
        get(&sum.released),
        get(&sum.handshakes),
        get(&sum.proofs),
        get(&sum.renewals),
        get(&sum.failures),
        get(&sum.overloads),
    );
    if histories >= 1_000 {
        for (what, number) in [
            ("released", &sum.released),
            ("proofs", &sum.proofs),
            ("renewals", &sum.renewals),
            ("failures", &sum.failures),
            ("overloads", &sum.overloads),
        ] {
            assert!(get(number) > histories / 10, "the histories hardly know {what}");
        }
    }
}
