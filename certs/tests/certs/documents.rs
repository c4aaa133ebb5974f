//! Bundle documents (JWK sets): SPIFFE trust domain and bundle, section 4; X509-SVID, section 6.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_certs::limits::{
    DEFAULT_REFRESH_SECONDS, MAX_BUNDLE_AUTHORITIES, MAX_DOCUMENT_BYTES, MAX_DOCUMENT_KEYS,
    MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS,
};
use countersign_certs::{Bundle, BundleDocument, BundleError, Defect, DocumentError};
use proptest::prelude::*;

use crate::support::{Maker, ca_params, domain, id, leaf_params};

fn parse(json: &str) -> Result<BundleDocument, DocumentError> {
    BundleDocument::parse(domain(), json.as_bytes())
}

fn key(kty: &str, key_use: &str, der: &[u8]) -> String {
    let x5c = STANDARD.encode(der);
    format!(r#"{{"kty":"{kty}","use":"{key_use}","x5c":["{x5c}"],"n":"AQAB","e":"AQAB"}}"#)
}

fn set(keys: &[String]) -> String {
    format!(r#"{{"spiffe_sequence":7,"spiffe_refresh_hint":600,"keys":[{}]}}"#, keys.join(","))
}

#[test]
fn a_document_is_read() {
    let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
    let text = set(&[key("RSA", "x509-svid", &a.der), key("EC", "x509-svid", &b.der)]);
    let document = parse(&text).unwrap();
    assert_eq!(document.bundle(), Some(&Bundle::new(domain(), &[&a.der, &b.der]).unwrap()));
    assert_eq!((document.sequence(), document.refresh_seconds()), (Some(7), 600));
}

#[test]
fn what_is_not_ours_is_ignored() {
    let (root, leaf) =
        (Maker::root(ca_params("a")), Maker::root(ca_params("b")).leaf(&leaf_params(id(1).as_str())));
    let text = STANDARD.encode(&root.der);
    let ours = key("EC", "x509-svid", &root.der);
    let ignored = [
        key("EC", "jwt-svid", &leaf),
        key("EC", "X509-SVID", &leaf),
        key("XX", "x509-svid", &leaf),
        key("ec", "x509-svid", &leaf),
        key("EC", "wit-svid", &leaf),
        r#"{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256","x":"AQAB","y":"AQAB"}"#.to_owned(),
        r#"{"kty":"EC","use":"x509-svid"}"#.to_owned(),
        r#"{"kty":"EC","use":"x509-svid","x5c":[]}"#.to_owned(),
        r#"{"kty":"EC","use":"x509-svid","x5c":null}"#.to_owned(),
        format!(r#"{{"kty":"EC","x5c":["{text}"]}}"#),
        format!(r#"{{"use":"x509-svid","x5c":["{text}"]}}"#),
        "{}".to_owned(),
    ];
    for one in &ignored {
        let with = parse(&set(&[one.clone(), ours.clone()])).unwrap();
        assert_eq!(with.bundle(), Some(&root.bundle()), "{one}");
        let alone = parse(&set(std::slice::from_ref(one))).unwrap();
        assert!(alone.bundle().is_none(), "{one}: nobody is trusted, and that is no error");
    }
    // All but the first certificate are ignored, whatever they are; and so are unknown parameters.
    let several =
        format!(r#"{{"kty":"EC","use":"x509-svid","x5c":["{text}","!"],"kid":"x","other":{{"a":[1]}}}}"#);
    assert_eq!(parse(&set(&[several])).unwrap().bundle(), Some(&root.bundle()));
    let plain = format!(r#"{{"other":[{{}}],"keys":[{ours}]}}"#);
    let plain = parse(&plain).unwrap();
    assert_eq!((plain.sequence(), plain.refresh_seconds()), (None, DEFAULT_REFRESH_SECONDS));
}

#[test]
fn what_is_broken_is_refused_whole() {
    let (root, json) = (Maker::root(ca_params("a")), |error| matches!(error, DocumentError::Json { .. }));
    let ours = key("EC", "x509-svid", &root.der);
    let url_safe = URL_SAFE_NO_PAD.encode(&root.der);
    for text in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[]} x"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[],"spiffe_sequence":-1}"#,
        r#"{"keys":[],"spiffe_sequence":1.5}"#,
        r#"{"keys":[],"spiffe_sequence":"1"}"#,
        r#"{"keys":[],"spiffe_sequence":18446744073709551616}"#,
        r#"{"keys":[],"spiffe_refresh_hint":"soon"}"#,
        r#"{"keys":[{"kty":1}]}"#,
        r#"{"keys":[{"kty":"EC","use":"x509-svid","x5c":"x"}]}"#,
        r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#,
    ] {
        let refused = parse(text).unwrap_err();
        assert!(json(refused.clone()), "{text}: {refused:?}");
        assert!(refused.to_string().len() < 60, "{refused}");
    }
    for x5c in ["!", &url_safe[..40], " ", &format!("{} ", STANDARD.encode(&root.der)), &"A".repeat(100_000)]
    {
        let broken = format!(r#"{{"kty":"EC","use":"x509-svid","x5c":["{x5c}"]}}"#);
        let refused = parse(&set(&[ours.clone(), broken])).unwrap_err();
        assert!(matches!(refused, DocumentError::Base64(1) | DocumentError::Bundle(_)), "{refused:?}");
    }
    let leaf = key("EC", "x509-svid", &root.leaf(&leaf_params(id(1).as_str())));
    let refused = parse(&set(&[ours, leaf])).unwrap_err();
    let expected = |error| {
        matches!(error, DocumentError::Bundle(BundleError::Authority { defect: Defect::NotAnAuthority, .. }))
    };
    assert!(expected(refused.clone()), "{refused:?}");
}

#[test]
fn sizes_are_bounded() {
    let root = Maker::root(ca_params("a"));
    let ours = key("EC", "x509-svid", &root.der);
    let many = parse(&set(&vec!["{}".to_owned(); MAX_DOCUMENT_KEYS + 1])).unwrap_err();
    assert_eq!(many, DocumentError::TooManyKeys(MAX_DOCUMENT_KEYS + 1));
    let authorities = parse(&set(&vec![ours.clone(); MAX_BUNDLE_AUTHORITIES + 1])).unwrap_err();
    assert_eq!(authorities, DocumentError::Bundle(BundleError::TooMany(MAX_BUNDLE_AUTHORITIES + 1)));
    let large = format!("{}{}", set(&[ours]), " ".repeat(MAX_DOCUMENT_BYTES));
    assert!(matches!(parse(&large).unwrap_err(), DocumentError::TooLarge(size) if size == large.len()));
    // Depth costs no stack: where it is ignored it is skipped, where something is expected it ends.
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&format!(r#"{{"keys":[],"x":{open}{close}}}"#)).unwrap().bundle().is_none());
    assert!(matches!(
        parse(&format!(r#"{{"keys":{open}{close}}}"#)).unwrap_err(),
        DocumentError::Json { .. }
    ));
}

#[test]
fn the_publisher_does_not_choose_our_load_nor_our_delay() {
    let rows = [
        ("", DEFAULT_REFRESH_SECONDS),
        (r#","spiffe_refresh_hint":null"#, DEFAULT_REFRESH_SECONDS),
        (r#","spiffe_refresh_hint":0"#, DEFAULT_REFRESH_SECONDS),
        (r#","spiffe_refresh_hint":-5"#, DEFAULT_REFRESH_SECONDS),
        (r#","spiffe_refresh_hint":1"#, MIN_REFRESH_SECONDS),
        (r#","spiffe_refresh_hint":600"#, 600),
        (r#","spiffe_refresh_hint":9223372036854775807"#, MAX_REFRESH_SECONDS),
    ];
    for (hint, expected) in rows {
        assert_eq!(parse(&format!(r#"{{"keys":[]{hint}}}"#)).unwrap().refresh_seconds(), expected, "{hint}");
    }
}

#[test]
fn an_older_document_is_known_as_such() {
    let with = |sequence: &str| parse(&format!(r#"{{"keys":[]{sequence}}}"#)).unwrap();
    let (none, one, two) = (with(""), with(r#","spiffe_sequence":1"#), with(r#","spiffe_sequence":2"#));
    assert!(one.is_older_than(&two));
    for (this, seen) in [(&two, &one), (&one, &one), (&none, &two), (&two, &none), (&none, &none)] {
        assert!(!this.is_older_than(seen));
    }
    let last = with(r#","spiffe_sequence":18446744073709551615"#);
    assert!(two.is_older_than(&last) && !last.is_older_than(&two));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_a_document_are_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(BundleDocument::parse(domain(), &bytes).is_err());
    }

    /// What is made of a good document's pieces, and a good one with some of it replaced.
    #[test]
    fn any_json_as_a_document_is_no_trouble(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", r#""keys""#, r#""kty""#, r#""EC""#, r#""use""#, r#""x509-svid""#,
            r#""x5c""#, r#""AAAA""#, "1", "null", r#""spiffe_sequence""#, "-1", "1e9", r#""\u0000""#,
        ]), 0..30),
        at in any::<u16>(), length in 0..20_usize, noise in "[ -~]{0,20}",
    ) {
        thread_local!(static GOOD: String = set(&[key("EC", "x509-svid", &Maker::root(ca_params("a")).der)]));
        let _ = parse(&pieces.concat());
        GOOD.with(|good| {
            let at = usize::from(at) % good.len();
            let end = (at + length).min(good.len());
            let spoilt = format!("{}{noise}{}", &good[..at], &good[end..]);
            if let Ok(document) = parse(&spoilt) {
                let root = parse(good).unwrap();
                // Nothing but the certificate makes an authority; a changed one is another or none.
                let same = document.bundle().is_none_or(|bundle| Some(bundle) == root.bundle());
                prop_assert!(same || spoilt != *good);
            }
            Ok(())
        })?;
    }
}
