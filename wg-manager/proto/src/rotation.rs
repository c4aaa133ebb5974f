//! When the key before the last ends: when nobody needs it any more, or when its time is over.

use std::collections::BTreeSet;

use crate::limits::ROTATION_DRAIN;

/// This node has a next key beside the one it has. Times are nanoseconds of the boot clock, which do not go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    until: u64,
    waiting: BTreeSet<String>,
    /// Since when nobody needs the old key.
    quiet_since: Option<u64>,
}

/// What is to be done about the old key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldKey {
    /// It is needed.
    Stays,
    /// It is to end. These nodes have not come along: they reach this one no more until they do.
    Ends {
        /// Their names.
        late: BTreeSet<String>,
    },
}

impl Rotation {
    /// The old key ends at `until`, whoever needs it.
    #[must_use]
    pub const fn new(until: u64) -> Self {
        Self { until, waiting: BTreeSet::new(), quiet_since: None }
    }

    /// These nodes may still send under the old key, or are sent to under it.
    pub fn step(&mut self, waiting: BTreeSet<String>, now: u64) -> OldKey {
        self.waiting = waiting;
        if self.waiting.is_empty() {
            // What was sent before the last one moved is on its way.
            let quiet_since = *self.quiet_since.get_or_insert(now);
            if now.saturating_sub(quiet_since) >= ROTATION_DRAIN {
                return OldKey::Ends { late: BTreeSet::new() };
            }
        } else {
            self.quiet_since = None;
        }
        if now >= self.until { OldKey::Ends { late: self.waiting.clone() } } else { OldKey::Stays }
    }

    /// When the old key ends at the latest.
    #[must_use]
    pub const fn until(&self) -> u64 {
        self.until
    }

    /// Who has not come along yet.
    #[must_use]
    pub const fn waiting(&self) -> &BTreeSet<String> {
        &self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_old_key_ends_some_time_after_the_last_node_has_moved() {
        let mut rotation = Rotation::new(u64::MAX);
        assert_eq!(rotation.step(nodes(&["a", "b"]), 20), OldKey::Stays);
        assert_eq!(rotation.step(nodes(&[]), 30), OldKey::Stays);
        assert_eq!(rotation.step(nodes(&["b"]), 40), OldKey::Stays, "a new node, or one that has come back");
        assert_eq!(rotation.step(nodes(&[]), 50), OldKey::Stays);
        assert_eq!(rotation.step(nodes(&[]), 49 + ROTATION_DRAIN), OldKey::Stays);
        assert_eq!(rotation.step(nodes(&[]), 50 + ROTATION_DRAIN), OldKey::Ends { late: nodes(&[]) });
    }

    #[test]
    fn nobody_holds_it_up_for_ever() {
        let mut rotation = Rotation::new(100);
        assert_eq!(rotation.step(nodes(&["a"]), 99), OldKey::Stays);
        assert_eq!(rotation.waiting(), &nodes(&["a"]));
        assert_eq!(rotation.step(nodes(&["a"]), 100), OldKey::Ends { late: nodes(&["a"]) });
    }
}
