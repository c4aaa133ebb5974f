//! The choice between two entries, against an oracle that sorts them.

use proptest::prelude::*;

use crate::ladder::{Decision, choose};
use crate::policy::{PolicyEntry, flag};

/// The entries in the order of strength, by their numbers; what the first says counts.
fn oracle(own: Option<PolicyEntry>, any: Option<PolicyEntry>) -> Decision {
    let mut entries = std::vec::Vec::new();
    entries.extend(own.map(|entry| ((entry.precedence, entry.prefix_bits, 1), entry)));
    entries.extend(any.map(|entry| ((entry.precedence, entry.prefix_bits, 0), entry)));
    entries.sort_by_key(|(rank, _)| core::cmp::Reverse(*rank));
    let Some((_, first)) = entries.first().copied() else { return Decision::default() };
    if first.flags & flag::DENY != 0 {
        return Decision { deny_rule: first.rule_id != 0, rule_id: first.rule_id, ..Decision::default() };
    }
    let explicit = first.flags & flag::AUTH_EXPLICIT != 0;
    let inherited = entries
        .iter()
        .filter(|(_, entry)| !explicit && entry.precedence == first.precedence)
        .map(|(_, entry)| entry.auth_type);
    let auth_type = inherited.max().unwrap_or(0).max(first.auth_type);
    Decision { allow: true, deny_rule: false, auth_type, rule_id: first.rule_id }
}

fn entry() -> impl Strategy<Value = PolicyEntry> {
    (0..4u32, 0..100u32, 0..3u8, 0..4u8, prop_oneof![Just(56u8), Just(64), Just(72), Just(80)]).prop_map(
        |(precedence, rule_id, auth_type, flags, prefix_bits)| PolicyEntry {
            precedence,
            rule_id,
            auth_type,
            flags,
            prefix_bits,
            pad: 0,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn chooses_as_the_oracle_does(own in proptest::option::of(entry()), any in proptest::option::of(entry())) {
        prop_assert_eq!(choose(own.as_ref(), any.as_ref()), oracle(own, any));
    }

    #[test]
    fn an_entry_alone_says_what_it_says(own in entry()) {
        let decision = choose(Some(&own), None);
        prop_assert_eq!(decision.allow, own.flags & flag::DENY == 0);
        prop_assert_eq!(decision, choose(None, Some(&own)));
    }
}
