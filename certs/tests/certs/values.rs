//! The small values: how they print, compare, come from text, and what they refuse.

use std::collections::BTreeSet;

use countersign_certs::limits::{MAX_CHAIN_CERTIFICATES, MAX_SIGNED_MESSAGE_BYTES};
use countersign_certs::signature::{self, SignatureError};
use countersign_certs::{
    Bundle, BundleError, CertAuthority, Defect, Distrust, IdTemplate, Serial, SpiffeId, Svid, SvidError,
    TrustDomain, VerifyError,
};
use proptest::prelude::*;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::support::{
    Maker, NOW, ca_params, domain, embedded, id, issue, leaf_params, moment, serial, signing_key,
};

fn pem(der: &[u8], label: &str) -> String {
    let body = pem_body(der);
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}

/// Base64 in lines of 64.
fn pem_body(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (at, three) in der.chunks(3).enumerate() {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap();
            text.push(if place <= three.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
        if at % 16 == 15 {
            text.push('\n');
        }
    }
    text + "\n"
}

#[test]
fn a_bundle_comes_from_pem_whatever_stands_around_it() {
    let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
    let text = format!(
        "# our roots\n{}\nsubject=CN = b\n{}",
        pem(&a.der, "CERTIFICATE"),
        pem(&b.der, "CERTIFICATE")
    );
    let bundle = Bundle::from_pem(domain(), text.as_bytes()).unwrap();
    assert_eq!(bundle.version(), Bundle::new(domain(), &[&a.der, &b.der]).unwrap().version());
    assert_eq!((bundle.authorities().len(), bundle.trust_domain()), (2, &domain()));
    let crlf = text.replace('\n', "\r\n");
    assert_eq!(Bundle::from_pem(domain(), crlf.as_bytes()).unwrap().version(), bundle.version());
}

#[test]
fn pem_of_something_else_is_no_bundle() {
    let root = Maker::root(ca_params("a"));
    let good = pem(&root.der, "CERTIFICATE");
    let rows = [
        (pem(&root.der, "PUBLIC KEY"), BundleError::Empty),
        ("just text\n".to_owned(), BundleError::Empty),
        (good.replace("-----END CERTIFICATE-----", ""), BundleError::Pem),
        (good.replace("MII", "M!I"), BundleError::Pem),
    ];
    for (text, expected) in rows {
        assert_eq!(Bundle::from_pem(domain(), text.as_bytes()).unwrap_err(), expected, "{text}");
    }
    let leaf = pem(&root.leaf(&leaf_params(id(1).as_str())), "CERTIFICATE");
    let mixed = Bundle::from_pem(domain(), format!("{good}{leaf}").as_bytes()).unwrap_err();
    assert!(matches!(mixed, BundleError::Authority { defect: Defect::NotAnAuthority, .. }), "{mixed:?}");
}

#[test]
fn ids_compare_and_print_as_their_text() {
    let texts = ["spiffe://a", "spiffe://a/b", "spiffe://a/b/c", "spiffe://a.b", "spiffe://b"];
    let ids: BTreeSet<SpiffeId> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let mut sorted = texts.to_vec();
    sorted.sort_unstable();
    assert_eq!(ids.iter().map(SpiffeId::as_str).collect::<Vec<_>>(), sorted);
    assert_eq!(
        format!("{0} {0:?}", id(7)),
        "spiffe://countersign.lab/identity/7 spiffe://countersign.lab/identity/7"
    );
    let domain: TrustDomain = "countersign.lab".parse().unwrap();
    assert_eq!(format!("{domain} {domain:?}"), "countersign.lab countersign.lab");
    assert_eq!(
        "spiffe://{trust_domain}/identity/{number}".parse::<IdTemplate>().unwrap(),
        IdTemplate::default()
    );
}

#[test]
fn errors_say_what_an_operator_needs() {
    let rows: [(VerifyError, &str); 6] = [
        (
            VerifyError::WrongIdentity { expected: id(1), presented: id(2) },
            "wrong identity: expected spiffe://countersign.lab/identity/1, presented spiffe://countersign.lab/identity/2",
        ),
        (
            Distrust::OtherTrustDomain { expected: domain(), presented: "spiffe://x/y".parse().unwrap() }
                .into(),
            "untrusted: spiffe://x/y is not of trust domain countersign.lab",
        ),
        (
            VerifyError::Expired { certificate: 1, not_after: NOW - 7, now: NOW },
            "certificate 1 expired 7 s ago; is its issuer renewing it, and this clock right?",
        ),
        (
            VerifyError::NotYetValid { certificate: 0, not_before: NOW + 7, now: NOW },
            "certificate 0 is not valid for another 7 s (clock skew?); compare this clock with the issuer's",
        ),
        (
            VerifyError::Malformed { certificate: 0, defect: Defect::SeveralUriNames(2) },
            "malformed certificate 0: 2 URI names, there must be exactly one; have it issued with its SPIFFE ID alone",
        ),
        (
            VerifyError::Malformed { certificate: 8, defect: Defect::TooMany(10_001) },
            "malformed certificate 8: too many certificates (10001); send the leaf and its intermediates only",
        ),
    ];
    for (error, text) in rows {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn an_svid_checks_its_own_chain_but_not_the_time() {
    let root = Maker::root(ca_params("root"));
    let mut middle = ca_params("middle");
    middle.not_after = moment(NOW - 5);
    let middle = root.below(middle);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = middle.sign(&leaf_params(id(1).as_str()), &key);
    let svid = Svid::new(vec![leaf.clone(), middle.der.clone()], key.serialize_der()).unwrap();
    assert_eq!((svid.not_before(), svid.not_after()), (NOW - 100, NOW - 5), "the earliest end");
    assert_eq!((svid.spiffe_id(), svid.chain().len()), (&id(1), 2));
    let twice = Svid::new(vec![leaf.clone(), leaf.clone()], key.serialize_der());
    let expected = VerifyError::Malformed { certificate: 1, defect: Defect::NotAnAuthority };
    assert_eq!(twice.unwrap_err(), SvidError::Chain(expected));
    let long = vec![leaf; MAX_CHAIN_CERTIFICATES + 1];
    assert!(matches!(Svid::new(long, key.serialize_der()), Err(SvidError::Chain(_))));
}

#[test]
fn two_authorities_of_one_domain_do_not_vouch_for_each_other() {
    let (one, other) = (embedded(), embedded());
    let svid = issue(&one, 300);
    let signed = signature::sign(&svid, b"x").unwrap();
    let check = |ca: &CertAuthority| {
        signature::verify(svid.chain(), &ca.bundle().unwrap(), &id(300), NOW, b"x", &signed)
    };
    check(&one).unwrap();
    assert!(matches!(check(&other), Err(SignatureError::Chain(VerifyError::Untrusted(_)))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_serial_is_positive_and_of_full_length(bytes: [u8; 16]) {
        let key = signing_key();
        let ca = CertAuthority::create(domain(), key, Serial::from_random(bytes), NOW, 100).unwrap();
        let (_, parsed) = X509Certificate::from_der(ca.certificate()).unwrap();
        prop_assert_eq!(parsed.raw_serial().len(), 16);
        prop_assert!(parsed.raw_serial()[0] & 0x80 == 0 && parsed.raw_serial()[0] != 0);
        prop_assert_eq!(&parsed.raw_serial()[1..], &bytes[1..]);
    }

    #[test]
    fn any_statement_is_believed_and_no_other(
        message in prop::collection::vec(any::<u8>(), 0..300), other in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0..72_usize, noise in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        thread_local!(static MADE: (CertAuthority, Svid) = {
            let ca = embedded();
            let svid = ca.issue(&id(300), &signing_key(), serial(9), NOW, 3600).unwrap();
            (ca, svid)
        });
        MADE.with(|(ca, svid)| {
            let bundle = ca.bundle().unwrap();
            let verify = |message: &[u8], signature: &[u8]| {
                signature::verify(svid.chain(), &bundle, &id(300), NOW, message, signature).is_ok()
            };
            let signed = signature::sign(svid, &message).unwrap();
            prop_assert!(verify(&message, &signed));
            prop_assert_eq!(verify(&other, &signed), other == message);
            prop_assert!(!verify(&message, &signed[..cut.min(signed.len() - 1)]));
            prop_assert!(!verify(&message, &noise));
            Ok(())
        })?;
    }
}

#[test]
fn the_largest_statement_is_signed() {
    let ca = embedded();
    let svid = issue(&ca, 300);
    let message = vec![7; MAX_SIGNED_MESSAGE_BYTES];
    let signed = signature::sign(&svid, &message).unwrap();
    signature::verify(svid.chain(), &ca.bundle().unwrap(), &id(300), NOW, &message, &signed).unwrap();
}
