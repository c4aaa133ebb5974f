//! From which of this node's addresses a peer is answered: the one it has sent to, as long as that is one of ours.
//! A peer behind a stateful firewall, or one that goes by the address, hears nobody else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use crate::limits::SOURCES;

/// Own addresses by the peers' addresses. A hint only: it may be wrong, and is forgotten when the kernel says so.
#[derive(Clone, Default)]
pub struct Sources(Arc<RwLock<HashMap<SocketAddr, IpAddr>>>);

impl Sources {
    /// A datagram came from `peer` to `own`.
    pub fn learn(&self, peer: SocketAddr, own: IpAddr) {
        if self.of(peer) == Some(own) || own.is_unspecified() || own.is_multicast() {
            return;
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever sends from ever new addresses makes the others' be learnt anew, at their next datagram.
        if all.len() >= SOURCES {
            all.clear();
        }
        all.insert(peer, own);
    }

    /// The address to answer `peer` from.
    pub fn of(&self, peer: SocketAddr) -> Option<IpAddr> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&peer).copied().filter(|own| own.is_ipv4() == peer.is_ipv4())
    }

    /// That address is not ours any more, or does not lead there.
    pub fn forget(&self, peer: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> SocketAddr {
        SocketAddr::from((std::net::Ipv4Addr::from(number), 51871))
    }

    #[test]
    fn the_last_one_counts_until_it_is_forgotten() {
        let sources = Sources::default();
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(sources.of(peer(1)), None);
        sources.learn(peer(1), a);
        sources.learn(peer(1), b);
        assert_eq!((sources.of(peer(1)), sources.of(peer(2))), (Some(b), None));
        sources.forget(peer(1));
        assert_eq!(sources.of(peer(1)), None);
    }

    #[test]
    fn nobody_is_answered_from_an_address_of_the_other_version_or_of_a_group() {
        let sources = Sources::default();
        for own in ["fd00::1", "224.0.0.1", "0.0.0.0"] {
            sources.learn(peer(1), own.parse().unwrap());
            assert_eq!(sources.of(peer(1)), None, "{own}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let sources = Sources::default();
        for number in 0..(SOURCES as u32 * 2 + 3) {
            sources.learn(peer(number), "10.0.0.1".parse().unwrap());
            assert!(sources.0.read().unwrap().len() <= SOURCES);
        }
    }
}
