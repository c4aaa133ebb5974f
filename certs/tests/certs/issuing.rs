//! What the embedded CA issues, and statements signed with it.

use crate::support::{Maker, NOW, ca_params, domain, embedded, id, issue, leaf_params, serial, signing_key};
use countersign_certs::limits::{MAX_SIGNATURE_BYTES, MAX_SIGNED_MESSAGE_BYTES, MIN_TTL_SECONDS};
use countersign_certs::signature::{self, SignError, SignatureError};
use countersign_certs::{
    CertAuthority, IssueError, SigningKey, SpiffeId, Svid, TrustDomain, VerifyError, chain,
};
use x509_parser::prelude::{FromDer, X509Certificate};

#[test]
fn an_issued_leaf_says_exactly_what_it_should() {
    let ca = embedded();
    let svid = issue(&ca, 300);
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature and nothing else");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && purposes.server_auth && !purposes.any && purposes.other.is_empty());
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!leaf.is_ca());
    assert_eq!(leaf.validity().not_before.timestamp(), i64::try_from(NOW - 10).unwrap());
    assert_eq!(leaf.validity().not_after.timestamp(), i64::try_from(NOW + 3600).unwrap());
    assert_eq!(leaf.raw_serial(), [vec![0x42], vec![2; 15]].concat());
    assert!(svid.chain()[0].len() < 700, "{} bytes", svid.chain()[0].len());
}

#[test]
fn a_root_is_reloaded_from_what_it_was() {
    let key = signing_key();
    let ca = CertAuthority::create(domain(), key.clone(), serial(1), NOW, 1000).unwrap();
    let again = CertAuthority::load(domain(), ca.certificate(), key.clone()).unwrap();
    let svid = again.issue(&id(7), &signing_key(), serial(3), NOW, 60).unwrap();
    chain::verify(svid.chain(), &ca.bundle().unwrap(), &id(7), NOW).unwrap();
    let other = TrustDomain::parse("other").unwrap();
    for (domain, key) in [(domain(), signing_key()), (other, key)] {
        let refused = CertAuthority::load(domain, ca.certificate(), key);
        assert_eq!(refused.unwrap_err(), IssueError::NotTheAuthority);
    }
}

#[test]
fn nothing_is_issued_outside_the_rules() {
    let ca = CertAuthority::create(domain(), signing_key(), serial(1), NOW, 1000).unwrap();
    let at = |id: &SpiffeId, now, ttl| ca.issue(id, &signing_key(), serial(2), now, ttl);
    assert_eq!(at(&id(1), NOW, MIN_TTL_SECONDS - 1).unwrap_err(), IssueError::Life);
    assert_eq!(at(&id(1), NOW + 1000, 60).unwrap_err(), IssueError::AuthorityNotLive);
    assert_eq!(at(&id(1), NOW - 11, 60).unwrap_err(), IssueError::AuthorityNotLive);
    for text in ["spiffe://other/identity/1", "spiffe://countersign.lab"] {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(at(&id, NOW, 60).unwrap_err(), IssueError::Identity(id.clone()));
    }
    assert_eq!(at(&id(1), NOW, u64::MAX).unwrap().not_after(), NOW + 1000, "never beyond the root");
    let endless = CertAuthority::create(domain(), signing_key(), serial(1), NOW, u64::MAX);
    assert_eq!(endless.unwrap_err(), IssueError::Life);
    assert!(SigningKey::p256(vec![1; 100]).is_err());
    assert!(SigningKey::p256(vec![1; 100_000]).is_err());
}

#[test]
fn a_statement_is_its_signers_and_of_its_text() {
    let ca = embedded();
    let bundle = ca.bundle().unwrap();
    let (one, other) = (issue(&ca, 300), issue(&ca, 301));
    let signed = signature::sign(&one, b"the node's key").unwrap();
    assert!(signed.len() <= MAX_SIGNATURE_BYTES);
    let verify = |svid: &Svid, expected: u32, message: &[u8], signature: &[u8]| {
        signature::verify(svid.chain(), &bundle, &id(expected), NOW, message, signature)
    };
    let peer = verify(&one, 300, b"the node's key", &signed).unwrap();
    assert_eq!(peer.spiffe_id(), &id(300));
    assert_eq!(verify(&one, 300, b"another key", &signed).unwrap_err(), SignatureError::Mismatch);
    assert_eq!(verify(&other, 301, b"the node's key", &signed).unwrap_err(), SignatureError::Mismatch);
    let wrong = verify(&one, 301, b"the node's key", &signed).unwrap_err();
    assert!(matches!(wrong, SignatureError::Chain(VerifyError::WrongIdentity { .. })), "{wrong:?}");
    let late = signature::verify(one.chain(), &bundle, &id(300), NOW + 3601, b"the node's key", &signed);
    assert!(matches!(late, Err(SignatureError::Chain(VerifyError::Expired { .. }))), "{late:?}");
    let huge = vec![0; MAX_SIGNED_MESSAGE_BYTES + 1];
    assert_eq!(verify(&one, 300, &huge, &signed).unwrap_err(), SignatureError::TooLarge);
    assert_eq!(verify(&one, 300, b"x", &[0; MAX_SIGNATURE_BYTES + 1]).unwrap_err(), SignatureError::TooLarge);
    assert_eq!(signature::sign(&one, &huge).unwrap_err(), SignError::TooLarge);
    for at in 0..signed.len() {
        let mut damaged = signed.clone();
        damaged[at] ^= 1;
        assert!(verify(&one, 300, b"the node's key", &damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_signature_over_the_bare_message_is_not_one() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    let ca = embedded();
    let svid = issue(&ca, 300);
    let pkcs8 = svid.private_key().pkcs8_der();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).unwrap();
    let bare = pair.sign(&SystemRandom::new(), b"message").unwrap();
    let bundle = ca.bundle().unwrap();
    let refused = signature::verify(svid.chain(), &bundle, &id(300), NOW, b"message", bare.as_ref());
    assert_eq!(refused.unwrap_err(), SignatureError::Mismatch);
}

/// Whatever SPIRE may be told to issue (`workload_x509_svid_key_type`), and what others may.
#[test]
fn every_kind_of_key_signs_statements() {
    use rcgen::{KeyPair, RsaKeySize};
    let generate = |kind| KeyPair::generate_for(kind).unwrap();
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    let keys = [
        ("P-256", generate(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("P-384", generate(&rcgen::PKCS_ECDSA_P384_SHA384)),
        ("Ed25519", generate(&rcgen::PKCS_ED25519)),
        ("RSA-2048", rsa(RsaKeySize::_2048)),
        ("RSA-3072", rsa(RsaKeySize::_3072)),
        ("RSA-4096", rsa(RsaKeySize::_4096)),
    ];
    let root = Maker::root(ca_params("root"));
    let signed = keys.map(|(kind, key)| {
        let leaf = root.sign(&leaf_params("spiffe://countersign.lab/identity/300"), &key);
        let svid = Svid::new(vec![leaf], key.serialize_der()).unwrap();
        let signature = signature::sign(&svid, b"the node's key").unwrap();
        (kind, svid, signature)
    });
    let verify = |svid: &Svid, message: &[u8], signature: &[u8]| {
        signature::verify(svid.chain(), &root.bundle(), &id(300), NOW, message, signature).map(drop)
    };
    for (kind, svid, signature) in &signed {
        assert!(signature.len() <= MAX_SIGNATURE_BYTES, "{kind}: {}", signature.len());
        assert_eq!(verify(svid, b"the node's key", signature), Ok(()), "{kind}");
        assert_eq!(verify(svid, b"another key", signature), Err(SignatureError::Mismatch), "{kind}");
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut damaged = signature.clone();
            damaged[at] ^= 1;
            assert_eq!(verify(svid, b"the node's key", &damaged), Err(SignatureError::Mismatch), "{kind}");
        }
        for (other, _, foreign) in signed.iter().filter(|(other, ..)| other != kind) {
            let refused = verify(svid, b"the node's key", foreign);
            assert_eq!(refused, Err(SignatureError::Mismatch), "{other} for {kind}");
        }
    }
}

/// A key that is good for RSA-PSS is not thereby good for PKCS #1 v1.5: one scheme a kind of key, none to choose.
#[test]
fn an_rsa_signature_in_another_scheme_is_none() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaKeyPair};
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let root = Maker::root(ca_params("root"));
    let leaf = root.sign(&leaf_params("spiffe://countersign.lab/identity/300"), &key);
    let pair = RsaKeyPair::from_pkcs8(&key.serialize_der()).unwrap();
    let statement = [signature::PREFIX, b"x"].concat();
    let schemes: [&'static dyn aws_lc_rs::signature::RsaEncoding; 2] = [&RSA_PKCS1_SHA256, &RSA_PSS_SHA384];
    for scheme in schemes {
        let mut signed = vec![0; pair.public_modulus_len()];
        pair.sign(scheme, &SystemRandom::new(), &statement, &mut signed).unwrap();
        let refused =
            signature::verify(std::slice::from_ref(&leaf), &root.bundle(), &id(300), NOW, b"x", &signed);
        assert_eq!(refused.unwrap_err(), SignatureError::Mismatch);
    }
}

#[test]
fn debug_output_shows_no_key() {
    let svid = issue(&embedded(), 300);
    for shown in [format!("{svid:?}"), format!("{:?}", svid.private_key()), format!("{:?}", embedded())] {
        assert!(shown.len() < 200, "{shown}");
        assert!(!shown.contains('['), "{shown}");
    }
}
