//! Who says which addresses are his: two nodes that claim the same address get neither.
//!
//! A node's prefixes come from its node object, which is not signed. Giving a contested address to one of
//! two claimants would let whoever can write a node object draw another node's packets; giving it to
//! nobody makes it unreachable and visible.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// Node name to the prefixes it claims.
pub type Claims = BTreeMap<String, BTreeSet<IpNet>>;

/// Two nodes' overlapping prefixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contested {
    /// The wider (or equal) prefix and the node that claims it.
    pub outer: (IpNet, String),
    /// The prefix inside it and the other node.
    pub inner: (IpNet, String),
}

/// Every overlap between prefixes of different nodes, in order. `n log n` in the number of prefixes, as
/// long as overlaps are few; each prefix is reported at most once as the inner one per enclosing claim.
pub fn contested(claims: &Claims) -> BTreeSet<Contested> {
    let mut sorted: Vec<(IpNet, &str)> = claims
        .iter()
        .flat_map(|(node, prefixes)| prefixes.iter().map(move |prefix| (prefix.trunc(), node.as_str())))
        .collect();
    // By family, then address, then the wider first: what encloses a prefix comes before it.
    sorted.sort_by_key(|(prefix, node)| (prefix.network(), prefix.prefix_len(), *node));
    let mut open: Vec<(IpNet, &str)> = Vec::new();
    let mut found = BTreeSet::new();
    for (prefix, node) in sorted {
        open.retain(|(outer, _)| outer.contains(&prefix));
        for (outer, owner) in open.iter().filter(|(_, owner)| *owner != node) {
            let outer = (*outer, (*owner).to_owned());
            found.insert(Contested { outer, inner: (prefix, node.to_owned()) });
        }
        open.push((prefix, node));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims(of: &[(&str, &[&str])]) -> Claims {
        let prefixes = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        of.iter().map(|(node, list)| ((*node).to_owned(), prefixes(list))).collect()
    }

    #[test]
    fn disjoint_claims_are_fine() {
        let fine = claims(&[("a", &["10.0.1.0/24", "fd00:1::/64"]), ("b", &["10.0.2.0/24", "fd00:2::/64"])]);
        assert!(contested(&fine).is_empty());
    }

    #[test]
    fn a_node_may_overlap_itself() {
        assert!(contested(&claims(&[("a", &["10.0.0.0/16", "10.0.1.0/24"])])).is_empty());
    }

    #[test]
    fn equal_and_enclosed_claims_are_found() {
        let found = contested(&claims(&[("a", &["10.0.1.0/24"]), ("b", &["10.0.1.0/24", "10.0.0.0/8"])]));
        let pairs: Vec<_> = found.iter().map(|c| (c.outer.1.as_str(), c.inner.1.as_str())).collect();
        assert_eq!(pairs, [("b", "a"), ("a", "b")]);
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (any::<u8>(), 0..=8u8).prop_map(|(byte, len)| {
            let net = ipnet::Ipv4Net::new([byte, 0, 0, 0].into(), len).unwrap();
            IpNet::V4(net).trunc()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_all_pairs(
            of in prop::collection::btree_map("[a-d]", prop::collection::btree_set(prefix(), 0..6), 0..4)
        ) {
            let involved: BTreeSet<(IpNet, String)> =
                contested(&of).into_iter().flat_map(|c| [c.outer, c.inner]).collect();
            let mut naive = BTreeSet::new();
            for (a, mine) in &of {
                for (b, theirs) in of.iter().filter(|(b, _)| *b != a) {
                    for (x, y) in mine.iter().flat_map(|x| theirs.iter().map(move |y| (x, y))) {
                        if x.contains(y) || y.contains(x) {
                            naive.insert((*x, a.clone()));
                            naive.insert((*y, b.clone()));
                        }
                    }
                }
            }
            prop_assert_eq!(involved, naive);
        }
    }
}
