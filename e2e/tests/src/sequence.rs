//! What became of numbered datagrams: lost, doubled, out of order.

use std::collections::BTreeMap;

/// What arrived, flow by flow.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    flows: BTreeMap<u32, Flow>,
}

#[derive(Clone, Debug, Default)]
struct Flow {
    /// One bit for each number.
    seen: Vec<u64>,
    highest: Option<u32>,
    received: u64,
    duplicates: u64,
    reordered: u64,
}

/// The sum over all flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Different datagrams that arrived.
    pub received: u64,
    /// Arrivals beyond the first of a datagram.
    pub duplicates: u64,
    /// Datagrams that arrived after a later one of their flow.
    pub reordered: u64,
}

impl Ledger {
    /// Datagram `number` of `flow` arrived. Returns whether it did for the first time.
    pub fn record(&mut self, flow: u32, number: u32) -> bool {
        self.flows.entry(flow).or_default().record(number)
    }

    /// Whether datagram `number` of `flow` has arrived.
    #[must_use]
    pub fn has(&self, flow: u32, number: u32) -> bool {
        self.flows.get(&flow).is_some_and(|flow| flow.has(number))
    }

    /// How many different datagrams of `flow` arrived.
    #[must_use]
    pub fn received(&self, flow: u32) -> u64 {
        self.flows.get(&flow).map_or(0, |flow| flow.received)
    }

    /// The sum over all flows.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.flows.values().fold(Totals::default(), |sum, flow| Totals {
            received: sum.received + flow.received,
            duplicates: sum.duplicates + flow.duplicates,
            reordered: sum.reordered + flow.reordered,
        })
    }
}

impl Flow {
    fn has(&self, number: u32) -> bool {
        let (word, bit) = place(number);
        self.seen.get(word).is_some_and(|seen| seen & bit != 0)
    }

    fn record(&mut self, number: u32) -> bool {
        if self.has(number) {
            self.duplicates += 1;
            return false;
        }
        let (word, bit) = place(number);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= bit;
        self.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        true
    }
}

fn place(number: u32) -> (usize, u64) {
    (number as usize / 64, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_is_clean() {
        let mut ledger = Ledger::default();
        assert!((0..1000).all(|number| ledger.record(number % 3, number / 3)));
        assert_eq!(ledger.totals(), Totals { received: 1000, duplicates: 0, reordered: 0 });
        assert_eq!((ledger.received(0), ledger.received(7)), (334, 0));
    }

    #[test]
    fn doubles_and_late_ones_are_counted_once_each() {
        let mut ledger = Ledger::default();
        for number in [0, 2, 1, 1, 200, 2] {
            ledger.record(5, number);
        }
        assert_eq!(ledger.totals(), Totals { received: 4, duplicates: 2, reordered: 1 });
        assert!(ledger.has(5, 200) && !ledger.has(5, 199) && !ledger.has(6, 0));
    }
}
