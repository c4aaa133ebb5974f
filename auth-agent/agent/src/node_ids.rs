//! Numbers for nodes: local to this agent, and the same after a restart, because entries of the pinned
//! authentication map carry them.

use std::collections::BTreeMap;

use crate::state::StateFile;

/// The number of this node, as in Cilium.
pub const THIS_NODE: u16 = 0;

/// Names to numbers and back.
#[derive(Debug)]
pub struct NodeIds {
    file: StateFile,
    this: String,
    by_name: BTreeMap<String, u16>,
    next: u16,
}

impl NodeIds {
    /// Takes up the numbers given before a restart.
    #[must_use]
    pub fn restore(file: StateFile, this: &str) -> Self {
        let mut by_name: BTreeMap<String, u16> = file.load().unwrap_or_default();
        by_name.retain(|name, id| *id != THIS_NODE && name != this);
        let next = by_name.values().max().map_or(1, |id| id.wrapping_add(1).max(1));
        Self { file, this: this.to_owned(), by_name, next }
    }

    /// The node's number, given now if it has none. `None` when 65,535 nodes have one.
    pub fn claim(&mut self, name: &str) -> Option<u16> {
        if name == self.this {
            return Some(THIS_NODE);
        }
        if let Some(id) = self.by_name.get(name) {
            return Some(*id);
        }
        let id = self.free()?;
        self.by_name.insert(name.to_owned(), id);
        self.next = id.wrapping_add(1).max(1);
        self.save();
        Some(id)
    }

    /// The number of a node, if it has one.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<u16> {
        if name == self.this { Some(THIS_NODE) } else { self.by_name.get(name).copied() }
    }

    /// The node with this number.
    #[must_use]
    pub fn name(&self, id: u16) -> Option<&str> {
        if id == THIS_NODE {
            return Some(&self.this);
        }
        self.by_name.iter().find(|(_, other)| **other == id).map(|(name, _)| name.as_str())
    }

    /// Takes a node's number back. The caller has removed what carried it from the maps: a number given
    /// again must not meet entries of its former node.
    pub fn release(&mut self, name: &str) {
        if self.by_name.remove(name).is_some() {
            self.save();
        }
    }

    /// The next number that nobody has, going round, so that a number rests as long as possible.
    fn free(&self) -> Option<u16> {
        let taken: std::collections::BTreeSet<u16> = self.by_name.values().copied().collect();
        (self.next..=u16::MAX).chain(1..self.next).find(|id| !taken.contains(id))
    }

    fn save(&self) {
        if let Err(error) = self.file.save(&self.by_name) {
            tracing::warn!(%error, "node numbers not saved: a restart forgets who is authenticated");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_over_a_restart_and_rest_before_reuse() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = StateFile::new(dir.path(), "nodes.json");
        let mut ids = NodeIds::restore(file.clone(), "me");
        assert_eq!(ids.claim("me"), Some(THIS_NODE));
        let (a, b) = (ids.claim("a"), ids.claim("b"));
        assert_ne!(a, b);
        let mut again = NodeIds::restore(file.clone(), "me");
        assert_eq!((again.claim("a"), again.claim("b")), (a, b));
        assert_eq!(again.name(a.expect("a number")), Some("a"));
        again.release("a");
        let c = again.claim("c");
        assert_ne!(c, a, "a number just released is not the next one given");
        assert_eq!(NodeIds::restore(file, "me").id("a"), None);
    }
}
