//! The X509-SVID specification, rule by rule: `docs/x509-svid.md` says what comes of each case, this file
//! makes the cases.

use std::collections::BTreeMap;

use countersign_certs::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES, MAX_SPIFFE_ID_BYTES};
use countersign_certs::{Bundle, Defect, Distrust, TrustDomain, VerifyError, chain};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName,
    ExtendedKeyUsagePurpose as Purpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose as Usage,
    NameConstraints, RsaKeySize, SanType, SignatureAlgorithm,
};

use crate::support::{Maker, NOW, ca_params, domain, leaf_params, moment, uri};

const TABLE: &str = include_str!("../../docs/x509-svid.md");
const ID: &str = "spiffe://countersign.lab/identity/300";
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
const UNKNOWN: &[u64] = &[1, 3, 6, 1, 4, 1, 99999, 1];

/// What is shown, and whom one believes.
struct Case {
    chain: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    domain: TrustDomain,
    now: u64,
}

fn case(chain: Vec<Vec<u8>>, root: &Maker) -> Case {
    Case { chain, roots: vec![root.der.clone()], domain: domain(), now: NOW }
}

fn root() -> Maker {
    Maker::root(ca_params("root"))
}

/// A leaf below a root, spoilt.
fn leaf(spoil: impl FnOnce(&mut CertificateParams)) -> Case {
    let root = root();
    let mut params = leaf_params(ID);
    spoil(&mut params);
    case(vec![root.leaf(&params)], &root)
}

/// A leaf below an intermediate below a root; the intermediate is spoilt.
fn middle(spoil: impl FnOnce(&mut CertificateParams)) -> Case {
    below_middle(spoil, |_| {})
}

fn below_middle(
    spoil: impl FnOnce(&mut CertificateParams),
    spoil_leaf: impl FnOnce(&mut CertificateParams),
) -> Case {
    let root = root();
    let mut params = ca_params("middle");
    spoil(&mut params);
    let middle = root.below(params);
    let mut params = leaf_params(ID);
    spoil_leaf(&mut params);
    case(vec![middle.leaf(&params), middle.der], &root)
}

/// A leaf below an intermediate below a root; the root is spoilt.
fn top(spoil: impl FnOnce(&mut CertificateParams)) -> Case {
    let mut params = ca_params("root");
    spoil(&mut params);
    let root = Maker::root(params);
    let middle = root.below(ca_params("middle"));
    case(vec![middle.leaf(&leaf_params(ID)), middle.der], &root)
}

fn named(id: &str) -> Case {
    leaf(|params| params.subject_alt_names = vec![uri(id)])
}

/// A leaf with a key of that kind.
fn keyed(algorithm: &'static SignatureAlgorithm) -> Case {
    let root = root();
    case(vec![root.sign(&leaf_params(ID), &KeyPair::generate_for(algorithm).unwrap())], &root)
}

fn rsa(size: RsaKeySize) -> Case {
    let root = root();
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    case(vec![root.sign(&leaf_params(ID), &key)], &root)
}

/// A leaf below a root with a key of that kind.
fn rooted(algorithm: &'static SignatureAlgorithm) -> Case {
    let (params, key) = (ca_params("root"), KeyPair::generate_for(algorithm).unwrap());
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let root = Maker { params, key, der };
    case(vec![root.leaf(&leaf_params(ID))], &root)
}

/// Made elsewhere (`data/make.sh`).
fn kept(leaf: &[u8], authority: &[u8]) -> Case {
    Case { chain: vec![leaf.to_vec()], roots: vec![authority.to_vec()], domain: domain(), now: NOW }
}

macro_rules! data {
    ($leaf:literal, $authority:literal) => {
        kept(
            include_bytes!(concat!("data/", $leaf, ".der")),
            include_bytes!(concat!("data/", $authority, ".der")),
        )
    };
}

fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

/// Key usage `digitalSignature` (0x80) or `keyCertSign` (0x04), as an extension that is not critical.
fn lax_usage(params: &mut CertificateParams, bits: u8) {
    params.key_usages.clear();
    params.custom_extensions.push(extension(KEY_USAGE, false, &[3, 2, 0, bits]));
}

fn lives(params: &mut CertificateParams, begin: u64, end: u64) {
    (params.not_before, params.not_after) = (moment(begin), moment(end));
}

fn dns_constraint(params: &mut CertificateParams) {
    let permitted = vec![GeneralSubtree::DnsName("example.org".into())];
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: vec![] });
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn name_cases(name: &str) -> Option<Case> {
    Some(match name {
        "proper" => leaf(|_| {}),
        "no-names" => leaf(|p| p.subject_alt_names.clear()),
        "dns-name-only" => leaf(|p| p.subject_alt_names = vec![dns("web.shop")]),
        "two-spiffe-ids" => leaf(|p| p.subject_alt_names.push(uri("spiffe://countersign.lab/identity/301"))),
        "spiffe-id-and-url" => leaf(|p| p.subject_alt_names.push(uri("https://countersign.lab"))),
        "spiffe-id-and-dns-names" => leaf(|p| {
            p.subject_alt_names.extend([dns("web.shop"), dns("web.shop.svc")]);
            p.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
            p.subject_alt_names.push(SanType::Rfc822Name("web@shop.example".try_into().unwrap()));
        }),
        "url-instead-of-id" => named("https://countersign.lab/identity/300"),
        "id-with-empty-segment" => named("spiffe://countersign.lab//identity/300"),
        "id-with-dots" => named("spiffe://countersign.lab/x/../identity/300"),
        "id-with-percent-encoding" => named("spiffe://countersign.lab/%2e%2e/identity/300"),
        "id-with-zero-byte" => named("spiffe://countersign.lab/identity/300\0"),
        "id-with-upper-case-domain" => named("spiffe://Countersign.lab/identity/300"),
        "id-of-2049-bytes" => named(&long_id(MAX_SPIFFE_ID_BYTES + 1)),
        "id-of-2048-bytes" => named(&long_id(MAX_SPIFFE_ID_BYTES)),
        "id-not-ascii" => leaf(|p| {
            p.subject_alt_names.clear();
            let name = "spiffe://countersign.lab/\u{e9}";
            let length = u8::try_from(name.len()).unwrap();
            let content = [&[0x30, length + 2, 0x86, length], name.as_bytes()].concat();
            p.custom_extensions.push(extension(ALTERNATIVE_NAMES, false, &content));
        }),
        "id-without-path" => named("spiffe://countersign.lab"),
        "no-subject" => leaf(|p| p.distinguished_name = DistinguishedName::new()),
        "no-subject-and-names-not-critical" => leaf(|p| {
            p.distinguished_name = DistinguishedName::new();
            p.subject_alt_names.clear();
            let length = u8::try_from(ID.len()).unwrap();
            let content = [&[0x30, length + 2, 0x86, length], ID.as_bytes()].concat();
            p.custom_extensions.push(extension(ALTERNATIVE_NAMES, false, &content));
        }),
        _ => return None,
    })
}

fn long_id(length: usize) -> String {
    let head = "spiffe://countersign.lab/";
    format!("{head}{}", "a".repeat(length - head.len()))
}

fn authority_cases(name: &str) -> Option<Case> {
    let ids = |ids: &[&str]| {
        let ids: Vec<SanType> = ids.iter().map(|id| uri(id)).collect();
        move |params: &mut CertificateParams| params.subject_alt_names = ids
    };
    Some(match name {
        "authority-with-id" => middle(ids(&["spiffe://countersign.lab"])),
        "authority-with-id-and-slash" => middle(ids(&["spiffe://countersign.lab/"])),
        "authority-id-with-path" => middle(ids(&["spiffe://countersign.lab/ca"])),
        "authority-with-two-ids" => middle(ids(&["spiffe://countersign.lab", "spiffe://other.example"])),
        "authority-with-url" => middle(ids(&["https://pki.example/ca"])),
        "authority-of-other-domain" => middle(ids(&["spiffe://other.example"])),
        "authority-of-other-domain-higher-up" => {
            let mut params = ca_params("root");
            ids(&["spiffe://countersign.lab"])(&mut params);
            let root = Maker::root(params);
            let mut params = ca_params("other");
            ids(&["spiffe://other.example"])(&mut params);
            let other = root.below(params);
            let mut params = ca_params("ours");
            ids(&["spiffe://countersign.lab"])(&mut params);
            let ours = other.below(params);
            case(vec![ours.leaf(&leaf_params(ID)), ours.der, other.der], &root)
        }
        "root-of-other-domain" => top(ids(&["spiffe://other.example"])),
        "leaf-of-other-domain" => named("spiffe://other.example/identity/300"),
        "leaf-with-ca" => leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        "leaf-with-ca-false" => leaf(|p| p.is_ca = IsCa::ExplicitNoCa),
        "leaf-without-basic-constraints" => leaf(|p| p.is_ca = IsCa::NoCa),
        "leaf-issues-leaf" => {
            let root = root();
            let issuer = root.below(leaf_params("spiffe://countersign.lab/identity/666"));
            case(vec![issuer.leaf(&leaf_params(ID)), issuer.der], &root)
        }
        "second-leaf" => {
            let root = root();
            let other = root.leaf(&leaf_params("spiffe://countersign.lab/identity/301"));
            case(vec![root.leaf(&leaf_params(ID)), other], &root)
        }
        "path-length-kept" => middle(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        "path-length-exceeded" => {
            let root = root();
            let mut params = ca_params("upper");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let upper = root.below(params);
            let lower = upper.below(ca_params("lower"));
            case(vec![lower.leaf(&leaf_params(ID)), lower.der, upper.der], &root)
        }
        "path-length-of-root-exceeded" => top(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        "dns-constraint-kept" => {
            below_middle(dns_constraint, |p| p.subject_alt_names.push(dns("web.example.org")))
        }
        "dns-constraint-without-dns-names" => middle(dns_constraint),
        "dns-constraint-broken" => {
            below_middle(dns_constraint, |p| p.subject_alt_names.push(dns("web.example.com")))
        }
        "dns-constraint-of-root-broken" => {
            let mut params = ca_params("root");
            dns_constraint(&mut params);
            let root = Maker::root(params);
            let mut params = leaf_params(ID);
            params.subject_alt_names.push(dns("web.example.com"));
            case(vec![root.leaf(&params)], &root)
        }
        "uri-constraint" => middle(|p| {
            let name = b"countersign.lab";
            let length = u8::try_from(name.len()).unwrap();
            let head = [0x30, length + 6, 0xa0, length + 4, 0x30, length + 2, 0x86, length];
            p.custom_extensions.push(extension(NAME_CONSTRAINTS, true, &[&head, &name[..]].concat()));
        }),
        _ => return None,
    })
}

fn usage_cases(name: &str) -> Option<Case> {
    Some(match name {
        "no-key-usage" => leaf(|p| p.key_usages.clear()),
        "key-usage-not-critical" => leaf(|p| lax_usage(p, 0x80)),
        "key-encipherment-only" => leaf(|p| p.key_usages = vec![Usage::KeyEncipherment]),
        "key-encipherment-and-agreement" => {
            leaf(|p| p.key_usages.extend([Usage::KeyEncipherment, Usage::KeyAgreement]))
        }
        "leaf-with-key-cert-sign" => leaf(|p| p.key_usages.push(Usage::KeyCertSign)),
        "leaf-with-crl-sign" => leaf(|p| p.key_usages.push(Usage::CrlSign)),
        "authority-without-key-cert-sign" => middle(|p| p.key_usages = vec![Usage::DigitalSignature]),
        "authority-without-key-usage" => middle(|p| p.key_usages.clear()),
        "authority-with-id-and-key-usage-not-critical" => middle(|p| {
            p.subject_alt_names = vec![uri("spiffe://countersign.lab")];
            lax_usage(p, 0x04);
        }),
        "authority-with-key-usage-not-critical" => middle(|p| lax_usage(p, 0x04)),
        "root-without-key-usage" => top(|p| p.key_usages.clear()),
        "no-purposes" => leaf(|p| p.extended_key_usages.clear()),
        "server-only" => leaf(|p| p.extended_key_usages = vec![Purpose::ServerAuth]),
        "client-only" => leaf(|p| p.extended_key_usages = vec![Purpose::ClientAuth]),
        "any-purpose" => leaf(|p| p.extended_key_usages = vec![Purpose::Any]),
        "both-purposes-and-another" => leaf(|p| p.extended_key_usages.push(Purpose::EmailProtection)),
        "authority-for-code-signing" => middle(|p| p.extended_key_usages = vec![Purpose::CodeSigning]),
        "authority-for-both" => {
            middle(|p| p.extended_key_usages = vec![Purpose::ClientAuth, Purpose::ServerAuth])
        }
        "unknown-critical-extension" => leaf(|p| p.custom_extensions.push(extension(UNKNOWN, true, &[5, 0]))),
        "unknown-extension" => leaf(|p| p.custom_extensions.push(extension(UNKNOWN, false, &[5, 0]))),
        "unknown-critical-extension-of-authority" => {
            middle(|p| p.custom_extensions.push(extension(UNKNOWN, true, &[5, 0])))
        }
        "repeated-extension" => {
            leaf(|p| p.custom_extensions.push(extension(KEY_USAGE, true, &[3, 2, 0, 0x80])))
        }
        "malformed-extension" => leaf(|p| {
            p.key_usages.clear();
            p.custom_extensions.push(extension(KEY_USAGE, true, &[0xff, 0xff]));
        }),
        _ => return None,
    })
}

fn time_cases(name: &str) -> Option<Case> {
    let at = |case: Case, now: u64| Case { now, ..case };
    Some(match name {
        "first-second" => at(leaf(|p| lives(p, NOW, NOW + 60)), NOW),
        "last-second" => at(leaf(|p| lives(p, NOW, NOW + 60)), NOW + 60),
        "leaf-too-new" => at(leaf(|p| lives(p, NOW, NOW + 60)), NOW - 1),
        "leaf-expired" => at(leaf(|p| lives(p, NOW, NOW + 60)), NOW + 61),
        "intermediate-expired" => middle(|p| lives(p, NOW - 60, NOW - 1)),
        "intermediate-too-new" => middle(|p| lives(p, NOW + 1, NOW + 60)),
        "root-expired" => top(|p| lives(p, NOW - 60, NOW - 1)),
        "root-too-new" => top(|p| lives(p, NOW + 1, NOW + 60)),
        "life-reversed" => leaf(|p| lives(p, NOW + 60, NOW - 60)),
        "old-root-expired-new-one-live" => {
            let mut params = ca_params("root");
            lives(&mut params, NOW - 60, NOW - 1);
            let (old, new) = (Maker::root(params), root());
            Case { roots: vec![old.der, new.der.clone()], ..case(vec![new.leaf(&leaf_params(ID))], &new) }
        }
        _ => return None,
    })
}

fn path_cases(name: &str) -> Option<Case> {
    Some(match name {
        "unknown-root" => case(leaf(|_| {}).chain, &Maker::root(ca_params("stranger"))),
        "root-of-same-name" => case(leaf(|_| {}).chain, &root()),
        "self-signed-leaf" => {
            let own = leaf_params(ID).self_signed(&KeyPair::generate().unwrap()).unwrap();
            case(vec![own.der().to_vec()], &root())
        }
        "intermediate-missing" => {
            let mut case = middle(|_| {});
            case.chain.truncate(1);
            case
        }
        "intermediates-in-any-order" => {
            let mut case = tall(3);
            case.chain[1..].reverse();
            case
        }
        "root-shown" => {
            let mut case = middle(|_| {});
            case.chain.push(case.roots[0].clone());
            case
        }
        "intermediate-shown-twice" => {
            let mut case = middle(|_| {});
            case.chain.push(case.chain[1].clone());
            case
        }
        "needless-intermediate-shown" => {
            let mut case = middle(|_| {});
            case.chain.push(root().below(ca_params("needless")).der);
            case
        }
        "longest-path" => tall(6),
        "path-too-long" => tall(7),
        "too-many-certificates" => tall(MAX_CHAIN_CERTIFICATES),
        "no-certificate" => case(vec![], &root()),
        "certificate-too-large" => case(vec![vec![0x30; MAX_CERTIFICATE_BYTES + 1]], &root()),
        "trailing-bytes" => {
            let mut case = leaf(|_| {});
            case.chain[0].push(0);
            case
        }
        "not-der" => case(vec![b"-----BEGIN CERTIFICATE-----".to_vec()], &root()),
        "signature-damaged" => {
            let mut case = leaf(|_| {});
            let last = case.chain[0].len() - 1;
            case.chain[0][last] ^= 1;
            case
        }
        _ => return None,
    })
}

/// A chain with that many intermediates.
fn tall(height: usize) -> Case {
    let root = root();
    let mut issuers: Vec<Maker> = Vec::new();
    for level in 0..height {
        let made = issuers.last().unwrap_or(&root).below(ca_params(&format!("level {level}")));
        issuers.push(made);
    }
    let leaf = issuers.last().unwrap_or(&root).leaf(&leaf_params(ID));
    let behind = issuers.iter().rev().map(|issuer| issuer.der.clone());
    case(std::iter::once(leaf).chain(behind).collect(), &root)
}

/// The new authority, self-signed and signed by the old one, whose signature has a life of its own.
fn crossed(bundle: [bool; 2], cross_end: u64, shown: bool) -> Case {
    let (old, new) = (Maker::root(ca_params("old")), Maker::root(ca_params("new")));
    let mut params = ca_params("new");
    params.not_after = moment(cross_end);
    let cross = old.sign(&params, &new.key);
    let middle = new.below(ca_params("middle"));
    let mut chain = vec![middle.leaf(&leaf_params(ID)), middle.der.clone()];
    chain.extend(shown.then_some(cross));
    let mut case = case(chain, &new);
    case.roots =
        [old.der, new.der].into_iter().zip(bundle).filter(|(_, kept)| *kept).map(|(der, _)| der).collect();
    case
}

fn crossing_cases(name: &str) -> Option<Case> {
    Some(match name {
        "needless-intermediate-expired" => crossed([false, true], NOW - 1, true),
        "cross-signed-old-root-known" => crossed([true, false], NOW + 60, true),
        "cross-signed-new-root-known" => crossed([false, true], NOW + 60, true),
        "cross-signed-one-path-expired" => crossed([true, true], NOW - 1, true),
        _ => return None,
    })
}

fn strength_cases(name: &str) -> Option<Case> {
    Some(match name {
        "key-p256" => keyed(&rcgen::PKCS_ECDSA_P256_SHA256),
        "key-p384" => keyed(&rcgen::PKCS_ECDSA_P384_SHA384),
        "key-ed25519" => keyed(&rcgen::PKCS_ED25519),
        "key-rsa-2048" => rsa(RsaKeySize::_2048),
        "key-rsa-4096" => rsa(RsaKeySize::_4096),
        "key-p521" => keyed(&rcgen::PKCS_ECDSA_P521_SHA512),
        "key-rsa-1024" => data!("rsa1024", "ca-p256"),
        "key-rsa-2047" => data!("leaf-rsa2047", "ca-p256"),
        "key-p192" => data!("p192", "ca-p256"),
        "key-secp256k1" => data!("leaf-secp256k1", "ca-p256"),
        "key-ed448" => data!("leaf-ed448", "ca-p256"),
        "key-p256-explicit" => data!("leaf-explicit", "ca-p256"),
        "version-1" => data!("leaf-v1", "ca-p256"),
        "authority-p521" => rooted(&rcgen::PKCS_ECDSA_P521_SHA512),
        "authority-ed25519" => rooted(&rcgen::PKCS_ED25519),
        "authority-rsa-pss" => data!("leaf-pss256", "ca-rsa"),
        "signed-with-sha1" => data!("sha1-leaf", "sha1-ca"),
        "signed-with-sha1-ecdsa" => data!("leaf-sha1-ecdsa", "ca-p256"),
        "signed-with-sha1-pss" => data!("leaf-pss1", "ca-rsa"),
        "signed-with-sha224" => data!("leaf-sha224", "ca-rsa"),
        "intermediate-signed-with-sha1" => {
            let mut case = leaf(|_| {});
            case.chain.push(include_bytes!("data/ca-sha1.der").to_vec());
            case
        }
        _ => return None,
    })
}

/// The name of what is wrong.
fn kind(error: &VerifyError) -> String {
    match error {
        VerifyError::Malformed { certificate, defect } => format!("{certificate}: {defect:?}"),
        VerifyError::Untrusted(distrust) => {
            format!("{distrust:?}").split(['(', ' ']).next().unwrap().to_owned()
        }
        VerifyError::Expired { certificate, .. } => format!("Expired {certificate}"),
        VerifyError::NotYetValid { certificate, .. } => format!("NotYetValid {certificate}"),
        VerifyError::WrongIdentity { .. } => "WrongIdentity".to_owned(),
    }
}

fn rows() -> BTreeMap<&'static str, &'static str> {
    let mut rows = BTreeMap::new();
    for line in TABLE.lines().filter(|line| line.starts_with("| accepted") || line.starts_with("| refused")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [verdict, section, name, _] = cells.as_slice() else { panic!("{line}") };
        assert!(section.contains(|c: char| c.is_ascii_digit()), "{line}");
        assert_eq!(rows.insert(*name, *verdict), None, "{name} twice");
    }
    rows
}

#[test]
fn the_table_of_rules_is_what_is_done() {
    let makers =
        [name_cases, authority_cases, usage_cases, time_cases, path_cases, crossing_cases, strength_cases];
    let (mut wrong, rows) = (Vec::new(), rows());
    for (name, verdict) in &rows {
        let case = makers.iter().find_map(|make| make(name)).unwrap_or_else(|| panic!("no case {name}"));
        let bundle = Bundle::new(case.domain, &case.roots).unwrap_or_else(|error| panic!("{name}: {error}"));
        let result = match chain::verify_member(&case.chain, &bundle, case.now) {
            Ok(peer) => {
                assert!(bundle.has(peer.authority()) && peer.is_live_at(case.now), "{name}");
                "accepted".to_owned()
            }
            Err(error) => {
                check_text(name, &error);
                format!("refused ({})", kind(&error))
            }
        };
        if result != *verdict {
            wrong.push(format!("{name}: the table says {verdict}, done is {result}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows.len() > 100, "{} rows", rows.len());
}

/// What an operator reads is short enough to be kept whole, and says what to do.
fn check_text(name: &str, error: &VerifyError) {
    let text = error.to_string();
    assert!(text.len() <= 200, "{} bytes: {text}", text.len());
    let remedy = text.contains("; ") || text.contains(" must ") || text.contains(" may hold only ");
    let plain = matches!(error, VerifyError::Malformed { defect: Defect::SpiffeId(_) | Defect::Der, .. })
        || matches!(error, VerifyError::Untrusted(Distrust::OtherTrustDomain { .. }));
    assert!(remedy || plain, "{name}: {text}");
}

/// Bundles: what is wrong with a root itself is said when the bundle is taken.
#[test]
fn a_bundle_takes_authorities_only() {
    type Spoil = fn(&mut CertificateParams);
    let table: [(Spoil, &str); 8] = [
        (|p| p.is_ca = IsCa::NoCa, "NotAnAuthority"),
        (|p| p.is_ca = IsCa::ExplicitNoCa, "NotAnAuthority"),
        (|p| p.key_usages = vec![Usage::DigitalSignature], "AuthorityMayNotSign"),
        (|p| p.extended_key_usages = vec![Purpose::CodeSigning], "KeyPurpose"),
        (|p| p.subject_alt_names = vec![uri("spiffe://countersign.lab/a")], "AuthorityIdHasPath"),
        (|p| p.subject_alt_names = vec![uri("SPIFFE://countersign.lab")], "SpiffeId(Scheme)"),
        (|p| p.custom_extensions.push(extension(UNKNOWN, true, &[5, 0])), "UnknownCriticalExtension"),
        (|p| lives(p, NOW + 60, NOW - 60), "ReversedLife"),
    ];
    for (spoil, expected) in table {
        let mut params = ca_params("root");
        spoil(&mut params);
        let refused = Bundle::new(domain(), &[Maker::root(params).der]).unwrap_err();
        assert!(format!("{refused:?}").contains(expected), "{refused:?}, not {expected}");
    }
    let weak = Bundle::new(domain(), &[include_bytes!("data/ca-rsa2047.der")]).unwrap_err();
    assert!(format!("{weak:?}").contains("WeakKey"), "{weak:?}");
}
