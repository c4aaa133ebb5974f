//! SPIFFE IDs and trust domains: what is taken and what is not.

use countersign_certs::limits::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};
use countersign_certs::{IdError, SpiffeId, TrustDomain};
use proptest::prelude::*;

/// The table for people is the table of the test.
const TABLE: &str = include_str!("../../docs/spiffe-ids.md");

struct Row {
    verdict: String,
    text: String,
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter(|line| line.starts_with("| accepted") || line.starts_with("| refused"));
    lines
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|');
            let verdict = cells.next().unwrap().trim().to_owned();
            let section = cells.next().unwrap().trim();
            assert!(["2", "2.1", "2.2", "2.3", "2.4"].contains(&section), "{line}");
            let quoted = cells.next().unwrap().trim();
            Row { verdict, text: plain(quoted.strip_prefix('`').unwrap().strip_suffix('`').unwrap()) }
        })
        .collect()
}

/// `{a*3}` is `aaa`, `\u{e9}` is `é`.
fn plain(quoted: &str) -> String {
    let mut text = String::new();
    let mut rest = quoted;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, behind) = after.split_once('}').unwrap();
        match (before.strip_suffix("\\u"), inside.split_once('*')) {
            (Some(before), _) => {
                text.push_str(before);
                text.push(char::from_u32(u32::from_str_radix(inside, 16).unwrap()).unwrap());
            }
            (None, Some((what, times))) => {
                text.push_str(before);
                text.push_str(&what.repeat(times.parse().unwrap()));
            }
            (None, None) => panic!("{quoted}"),
        }
        rest = behind;
    }
    text + rest
}

#[test]
fn the_table_of_ids_is_what_is_done() {
    let rows = rows();
    assert!(rows.len() > 80, "{} rows", rows.len());
    for Row { verdict, text } in rows {
        let shown = text.chars().take(80).collect::<String>();
        match SpiffeId::parse(&text) {
            Ok(id) => {
                assert_eq!(verdict, "accepted", "{shown:?}");
                assert_eq!(id.as_str(), text, "byte for byte");
                assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
                let domain = TrustDomain::parse(id.trust_domain_name()).unwrap();
                assert_eq!(id.trust_domain(), domain);
                assert!(id.is_member_of(&domain) && !id.is_member_of(&TrustDomain::parse("other").unwrap()));
                assert_eq!(SpiffeId::of_domain(&domain).as_str(), format!("spiffe://{domain}"));
            }
            Err(error) => assert_eq!(verdict, format!("refused ({error:?})"), "{shown:?}"),
        }
    }
}

#[test]
fn the_table_has_the_longest_id_and_one_byte_more() {
    let rows = rows();
    for (length, accepted) in [(MAX_SPIFFE_ID_BYTES, true), (MAX_SPIFFE_ID_BYTES + 1, false)] {
        let found = rows.iter().find(|row| row.text.len() == length).unwrap();
        assert_eq!(found.verdict == "accepted", accepted);
    }
    let domain = "d".repeat(MAX_TRUST_DOMAIN_BYTES);
    TrustDomain::parse(&domain).unwrap();
    assert_eq!(TrustDomain::parse(&format!("{domain}d")), Err(IdError::TooLong));
}

#[test]
fn a_trust_domain_is_a_bare_name() {
    for text in ["", "spiffe://td", "td/a", "TD", "a b", "a%41", "td:1"] {
        assert!(TrustDomain::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_taken_whole_or_refused(text in "(spiffe://)?[a-zA-Z0-9./_%:@?#\\-\u{0}é]{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
            prop_assert!(id.path().split('/').skip(1).all(|part| !matches!(part, "" | "." | "..")));
            prop_assert!(!id.trust_domain_name().is_empty());
        }
    }

    #[test]
    fn any_unicode_is_no_trouble(text in any::<String>()) {
        let _ = SpiffeId::parse(&text);
        let _ = TrustDomain::parse(&text);
    }
}
