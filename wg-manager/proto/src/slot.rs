//! Where a tunnel lives, and which of several to a node is sent in.
//!
//! A device has one private key, and gives a prefix to one peer. So that a node can have its next key beside the one
//! it has, and its peers can hear it under both, the tunnels of two nodes are spread over up to four devices: by
//! which of its keys this node uses in them, and by which of its the other one does. The lowest bit of a key's epoch
//! says which of the two it is; the next key always has the other.

use crate::PublicKey;

/// One of this node's devices, by the keys that its tunnels are between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    own: bool,
    peer: bool,
}

/// How many devices a node may have, and how many UDP ports they have from the first one's on.
pub const SLOTS: u16 = 4;

impl Slot {
    /// All there are, the one that is there at first before the others.
    pub const ALL: [Self; SLOTS as usize] = [
        Self { own: false, peer: false },
        Self { own: true, peer: false },
        Self { own: false, peer: true },
        Self { own: true, peer: true },
    ];

    /// Where the tunnel between keys of these epochs lives on the node that has the first one.
    pub const fn of(own_epoch: u64, peer_epoch: u64) -> Self {
        Self { own: own_epoch & 1 == 1, peer: peer_epoch & 1 == 1 }
    }

    /// Where the same tunnel lives on the other node.
    pub const fn mirrored(self) -> Self {
        Self { own: self.peer, peer: self.own }
    }

    /// Its number, from 0.
    pub const fn number(self) -> u16 {
        self.own as u16 + 2 * self.peer as u16
    }

    /// Whether the tunnels in it are between this node's key of that epoch and others'.
    pub const fn is_of(self, own_epoch: u64) -> bool {
        self.own == (own_epoch & 1 == 1)
    }

    /// The UDP port of the device, where the first device's is `first`.
    pub const fn port(self, first: u16) -> u16 {
        first.saturating_add(self.number())
    }
}

/// A tunnel to a node, as a place to send packets into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The device.
    pub slot: Slot,
    /// The peer in it.
    pub peer: PublicKey,
}

/// The way to send in: the best one that packets go already or that has a session, and without any such the best.
/// `ways` are a node's, the best first; `is_open` says which have a session.
///
/// It never goes back to a worse one, since whoever was told that it is left may be about to close it.
pub fn choose(ways: &[Way], now: Option<Slot>, is_open: impl Fn(&Way) -> bool) -> Option<Way> {
    ways.iter().find(|way| now == Some(way.slot) || is_open(way)).or_else(|| ways.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_mean_the_same_tunnel() {
        for own in 10..12 {
            for peer in 20..22 {
                assert_eq!(Slot::of(own, peer).mirrored(), Slot::of(peer, own));
                assert!(Slot::of(own, peer).is_of(own) && !Slot::of(own, peer).is_of(own + 1));
            }
        }
    }

    #[test]
    fn tunnels_of_different_keys_are_in_different_devices() {
        let numbers: Vec<u16> = Slot::ALL.iter().map(|slot| slot.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(Slot::default(), Slot::ALL[0]);
        assert_eq!(Slot::of(8, 6).port(51871), 51871);
        assert_eq!(Slot::of(9, 7).port(51871), 51874);
    }

    #[test]
    fn packets_move_when_there_is_a_session_and_never_back() {
        let way = |number: usize| Way { slot: Slot::ALL[number], peer: PublicKey::from_bytes([1; 32]) };
        let ways = [way(3), way(1), way(0)];
        let open = |number: usize| move |way: &Way| way.slot == Slot::ALL[number];
        let nowhere = |_: &Way| false;
        assert_eq!(choose(&ways, None, nowhere), Some(way(3)), "they may as well wait for the best");
        assert_eq!(choose(&ways, Some(Slot::ALL[0]), nowhere), Some(way(0)), "not before there is a session");
        assert_eq!(choose(&ways, Some(Slot::ALL[0]), open(3)), Some(way(3)));
        assert_eq!(choose(&ways, Some(Slot::ALL[0]), open(1)), Some(way(1)));
        assert_eq!(choose(&ways, Some(Slot::ALL[3]), open(0)), Some(way(3)), "its session comes again");
        assert_eq!(choose(&ways[1..], Some(Slot::ALL[3]), open(0)), Some(way(0)), "it is not there any more");
        assert_eq!(choose(&[], Some(Slot::ALL[3]), open(0)), None);
    }
}
