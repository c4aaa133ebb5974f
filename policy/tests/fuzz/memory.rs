//! An allocator that counts what this thread has allocated, now and at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
pub struct Counting;

/// What was allocated when [`mark`] was called.
#[derive(Clone, Copy)]
pub struct Mark(usize);

/// Starts to look for the most anew.
pub fn mark() -> Mark {
    let live = LIVE.get();
    PEAK.set(live);
    Mark(live)
}

/// The most that was allocated since, over what was then, bytes.
pub fn peak_since(Mark(live): Mark) -> usize {
    PEAK.get().saturating_sub(live)
}

fn taken(bytes: usize) {
    // A thread that ends may allocate after its counters are gone.
    let _ = LIVE.try_with(|live| {
        live.set(live.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn given_back(bytes: usize) {
    let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(bytes)));
}

// SAFETY: everything is the system allocator's; counting touches nothing of it and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: the pointer came from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
