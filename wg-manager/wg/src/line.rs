//! Threads that share work, and let its results leave in the order in which it came: cores are used by one flow too,
//! and its packets are not reordered.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::device::lock;

/// Where they come in and go out.
#[derive(Default)]
pub struct Line {
    /// The number of the next one to come in.
    entrance: Mutex<u64>,
    /// The number of the next one to go out.
    turn: Mutex<u64>,
    moved: Condvar,
}

/// A place in the line. It must be used: everybody behind waits for it.
#[must_use]
pub struct Ticket(u64);

impl Line {
    /// Takes some work: one thread at a time. Nothing, if there was none.
    pub fn enter<R>(&self, take: impl FnOnce() -> Option<R>) -> Option<(R, Ticket)> {
        let mut next = lock(&self.entrance);
        let work = take()?;
        let ticket = Ticket(*next);
        *next += 1;
        Some((work, ticket))
    }

    /// Lets the result go: one thread at a time, in the order in which they have entered.
    pub fn leave<R>(&self, ticket: Ticket, act: impl FnOnce() -> R) -> R {
        let mut turn = lock(&self.turn);
        while *turn != ticket.0 {
            turn = self.moved.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        // It is nobody else's turn while this one has not moved on.
        drop(turn);
        let result = act();
        *lock(&self.turn) += 1;
        self.moved.notify_all();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_leave_in_the_order_in_which_the_work_came() {
        let (line, source, out) = (Line::default(), Mutex::new(0..20_000_u64), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some((number, ticket)) = line.enter(|| lock(&source).next()) {
                        // Some take longer.
                        let work =
                            (0..number * 7 % 300).fold(0, |sum, term| std::hint::black_box(sum + term));
                        line.leave(ticket, || lock(&out).push((number, work)));
                    }
                });
            }
        });
        let numbers: Vec<u64> = out.into_inner().unwrap().into_iter().map(|(number, _)| number).collect();
        assert!(numbers.iter().copied().eq(0..20_000));
    }

    #[test]
    fn who_finds_nothing_holds_up_nobody() {
        let line = Line::default();
        assert!(line.enter(|| None::<()>).is_none());
        let Some(((), ticket)) = line.enter(|| Some(())) else { panic!("it came in") };
        assert_eq!(line.leave(ticket, || 7), 7);
    }
}
