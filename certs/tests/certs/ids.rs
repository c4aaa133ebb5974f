//! SPIFFE IDs, trust domains and templates: what is taken and what is not.

use countersign_certs::limits::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};
use countersign_certs::{IdError, IdSubject, IdTemplate, SpiffeId, TemplateError, TrustDomain};
use proptest::prelude::*;

#[test]
fn accepted_ids_are_kept_byte_for_byte() {
    let table = [
        ("spiffe://td", "td", ""),
        ("spiffe://countersign.lab/identity/4711", "countersign.lab", "/identity/4711"),
        ("spiffe://example.org/ns/default/sa/web", "example.org", "/ns/default/sa/web"),
        ("spiffe://1.2.3.4/a", "1.2.3.4", "/a"),
        ("spiffe://a_b-c.d/A-Z_0.9", "a_b-c.d", "/A-Z_0.9"),
        ("spiffe://td/...", "td", "/..."),
        ("spiffe://td/.hidden", "td", "/.hidden"),
        ("spiffe://td/a..b", "td", "/a..b"),
        ("spiffe://-/x", "-", "/x"),
    ];
    for (text, domain, path) in table {
        let id = SpiffeId::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((id.as_str(), id.trust_domain_name(), id.path()), (text, domain, path));
        assert_eq!(id.trust_domain(), TrustDomain::parse(domain).unwrap());
        assert!(id.is_member_of(&TrustDomain::parse(domain).unwrap()));
        assert!(!id.is_member_of(&TrustDomain::parse("other").unwrap()));
    }
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    use IdError as E;
    let table = [
        ("", E::Scheme),
        ("spiffe:/td/a", E::Scheme),
        ("SPIFFE://td/a", E::Scheme),
        ("https://td/a", E::Scheme),
        (" spiffe://td/a", E::Scheme),
        ("spiffe://", E::EmptyTrustDomain),
        ("spiffe:///a", E::EmptyTrustDomain),
        ("spiffe://TD/a", E::TrustDomainCharacter),
        ("spiffe://td:80/a", E::TrustDomainCharacter),
        ("spiffe://user@td/a", E::TrustDomainCharacter),
        ("spiffe://user:pw@td/a", E::TrustDomainCharacter),
        ("spiffe://[::1]/a", E::TrustDomainCharacter),
        ("spiffe://t%64/a", E::TrustDomainCharacter),
        ("spiffe://td?q=1", E::TrustDomainCharacter),
        ("spiffe://td#f", E::TrustDomainCharacter),
        ("spiffe://tđ/a", E::TrustDomainCharacter),
        ("spiffe://td\0/a", E::TrustDomainCharacter),
        ("spiffe://td /a", E::TrustDomainCharacter),
        ("spiffe://td/", E::EmptySegment),
        ("spiffe://td/a/", E::EmptySegment),
        ("spiffe://td//a", E::EmptySegment),
        ("spiffe://td/a//b", E::EmptySegment),
        ("spiffe://td/.", E::DotSegment),
        ("spiffe://td/..", E::DotSegment),
        ("spiffe://td/a/../b", E::DotSegment),
        ("spiffe://td/a/./b", E::DotSegment),
        ("spiffe://td/a%2fb", E::PathCharacter),
        ("spiffe://td/a%00", E::PathCharacter),
        ("spiffe://td/a\0b", E::PathCharacter),
        ("spiffe://td/a?q", E::PathCharacter),
        ("spiffe://td/a#f", E::PathCharacter),
        ("spiffe://td/a b", E::PathCharacter),
        ("spiffe://td/a\nb", E::PathCharacter),
        ("spiffe://td/ä", E::PathCharacter),
        ("spiffe://td/a:b", E::PathCharacter),
        ("spiffe://td/a@b", E::PathCharacter),
        ("spiffe://td/a*b", E::PathCharacter),
        ("spiffe://td/a\\b", E::PathCharacter),
    ];
    for (text, expected) in table {
        assert_eq!(SpiffeId::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn lengths_end_where_the_specification_says() {
    let fits = format!("spiffe://td/{}", "a".repeat(MAX_SPIFFE_ID_BYTES - 12));
    assert_eq!(fits.len(), MAX_SPIFFE_ID_BYTES);
    SpiffeId::parse(&fits).unwrap();
    assert_eq!(SpiffeId::parse(&format!("{fits}a")), Err(IdError::TooLong));
    let domain = "d".repeat(MAX_TRUST_DOMAIN_BYTES);
    TrustDomain::parse(&domain).unwrap();
    assert_eq!(TrustDomain::parse(&format!("{domain}d")), Err(IdError::TooLong));
    assert_eq!(SpiffeId::parse(&format!("spiffe://{domain}d/a")), Err(IdError::TooLong));
}

#[test]
fn a_trust_domain_is_a_bare_name() {
    for text in ["", "spiffe://td", "td/a", "TD", "a b", "a%41", "td:1"] {
        assert!(TrustDomain::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn templates_are_filled() {
    let domain = TrustDomain::parse("countersign.lab").unwrap();
    let subject = IdSubject { number: 4711, namespace: "shop", service_account: "web" };
    let table = [
        ("spiffe://{trust_domain}/identity/{number}", "spiffe://countersign.lab/identity/4711"),
        (
            "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}",
            "spiffe://countersign.lab/ns/shop/sa/web",
        ),
        ("spiffe://{trust_domain}/{number}.{namespace}/x", "spiffe://countersign.lab/4711.shop/x"),
    ];
    for (text, expected) in table {
        let template = IdTemplate::parse(text).unwrap();
        assert_eq!(template.render(&domain, &subject).unwrap().as_str(), expected);
        assert_eq!(template.to_string(), text);
    }
    assert_eq!(IdTemplate::default(), IdTemplate::parse(table[0].0).unwrap());
    assert_eq!(IdTemplate::service_account(), IdTemplate::parse(table[1].0).unwrap());
    assert!(IdTemplate::default().needs_only_number());
    assert!(!IdTemplate::service_account().needs_only_number());
}

#[test]
fn templates_that_mix_identities_up_are_refused() {
    let head = "spiffe://{trust_domain}/";
    for text in ["fixed", "ns/{namespace}", "sa/{service_account}"] {
        assert_eq!(IdTemplate::parse(&format!("{head}{text}")), Err(TemplateError::NotDistinct), "{text}");
    }
    for text in ["{pod}", "{number", "{trust_domain}/{number}", "{}"] {
        let refused = IdTemplate::parse(&format!("{head}{text}"));
        assert!(matches!(refused, Err(TemplateError::Gap(_))), "{text}: {refused:?}");
    }
    for text in ["{number}/", "/{number}", "a b/{number}", "../{number}"] {
        let refused = IdTemplate::parse(&format!("{head}{text}"));
        assert!(matches!(refused, Err(TemplateError::Id(_))), "{text}: {refused:?}");
    }
    assert_eq!(IdTemplate::parse("spiffe://other/{number}"), Err(TemplateError::Head));
}

#[test]
fn a_gap_cannot_smuggle_a_path_in() {
    let domain = TrustDomain::parse("td").unwrap();
    for (namespace, service_account) in [("a/b", ""), ("..", "x"), ("", "x"), ("a", "%2f"), ("a", "x\0y")] {
        let subject = IdSubject { number: 1, namespace, service_account };
        let rendered = IdTemplate::service_account().render(&domain, &subject);
        assert!(rendered.is_err(), "{subject:?}: {rendered:?}");
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
        let _ = IdTemplate::parse(&text);
    }
}
