//! What real SPIRE (1.15.3) made is believed: `data/spire/make.sh` says how.

use countersign_certs::{
    Bundle, BundleDocument, Distrust, KeyAlgorithm, SpiffeId, Svid, TrustDomain, VerifyError, chain,
    signature,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

struct Fixture {
    name: &'static str,
    chain: &'static str,
    key: &'static str,
    pem: &'static str,
    document: &'static str,
    now: &'static str,
    certificates: usize,
    algorithm: KeyAlgorithm,
}

macro_rules! fixture {
    ($name:literal, $certificates:literal, $algorithm:ident) => {
        Fixture {
            name: $name,
            chain: include_str!(concat!("data/spire/", $name, "/chain.pem")),
            key: include_str!(concat!("data/spire/", $name, "/key.pem")),
            pem: include_str!(concat!("data/spire/", $name, "/bundle.pem")),
            document: include_str!(concat!("data/spire/", $name, "/bundle.json")),
            now: include_str!(concat!("data/spire/", $name, "/now")),
            certificates: $certificates,
            algorithm: KeyAlgorithm::$algorithm,
        }
    };
}

/// Kinds of the CA's key; a CA below a company's root that has no key usage; one below an intermediate
/// (P-384) of a P-521 root; and an RSA leaf by way of an agent.
const FIXTURES: [Fixture; 6] = [
    fixture!("ec", 1, EcdsaP256),
    fixture!("p384", 1, EcdsaP256),
    fixture!("rsa", 1, EcdsaP256),
    fixture!("upstream", 2, EcdsaP256),
    fixture!("nested", 3, EcdsaP256),
    fixture!("agent-rsa", 1, Rsa),
];

fn td() -> TrustDomain {
    TrustDomain::parse("spire.example").unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://spire.example/identity/300").unwrap()
}

impl Fixture {
    fn now(&self) -> u64 {
        self.now.trim().parse().unwrap()
    }

    fn chain(&self) -> Vec<Vec<u8>> {
        let ders = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        ders.map(|der| der.unwrap().to_vec()).collect()
    }

    fn key(&self) -> Vec<u8> {
        PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes()).unwrap().secret_pkcs8_der().to_vec()
    }

    fn document(&self) -> BundleDocument {
        BundleDocument::parse(td(), self.document.as_bytes()).unwrap()
    }
}

#[test]
fn what_spire_issues_is_believed() {
    for fixture in &FIXTURES {
        let (name, now) = (fixture.name, fixture.now());
        let bundle = Bundle::from_pem(td(), fixture.pem.as_bytes()).unwrap();
        let svid = Svid::from_der(&fixture.chain().concat(), fixture.key()).unwrap();
        assert_eq!((svid.spiffe_id(), svid.chain().len()), (&id(), fixture.certificates), "{name}");
        assert_eq!(svid.key_algorithm(), fixture.algorithm, "{name}");
        let peer = chain::verify(svid.chain(), &bundle, &id(), now).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(peer.not_after(), svid.not_after(), "{name}: the leaf ends first");
        assert!(peer.not_before() <= now && bundle.has(peer.authority()), "{name}");
        // SPIRE backdates its leaves by 10 s.
        assert!(now - svid.not_before() >= 10, "{name}: {}", now - svid.not_before());
        let late = chain::verify(svid.chain(), &bundle, &id(), svid.not_after() + 1);
        assert!(matches!(late, Err(VerifyError::Expired { certificate: 0, .. })), "{name}: {late:?}");
    }
}

#[test]
fn the_document_and_the_other_forms_are_one_bundle() {
    for fixture in &FIXTURES {
        let (pem, document) = (Bundle::from_pem(td(), fixture.pem.as_bytes()).unwrap(), fixture.document());
        assert_eq!(document.bundle(), Some(&pem), "{}: the jwt-svid keys are ignored", fixture.name);
        assert!(fixture.document.contains("jwt-svid"), "{}", fixture.name);
        assert!(document.sequence().is_some_and(|sequence| sequence > 0), "{}", fixture.name);
        let der: Vec<u8> = pem.authorities().iter().flat_map(|der| der.to_vec()).collect();
        assert_eq!(Bundle::from_der(td(), &der).unwrap(), pem, "{}", fixture.name);
    }
}

#[test]
fn servers_of_one_name_are_strangers_to_each_other() {
    for (at, fixture) in FIXTURES.iter().enumerate() {
        for (other_at, other) in FIXTURES.iter().enumerate() {
            // "rsa" and "agent-rsa" are of one server.
            let same = at == other_at || fixture.name.ends_with("rsa") && other.name.ends_with("rsa");
            let document = other.document();
            let result = chain::verify(&fixture.chain(), document.bundle().unwrap(), &id(), fixture.now());
            match result {
                Ok(_) => assert!(same, "{} below {}", fixture.name, other.name),
                Err(error) => {
                    assert!(!same, "{} below {}: {error}", fixture.name, other.name);
                    assert_eq!(error, VerifyError::Untrusted(Distrust::NoPath));
                }
            }
        }
    }
}

#[test]
fn statements_are_signed_with_spires_keys() {
    let fixture = &FIXTURES[3];
    let svid = Svid::from_der(&fixture.chain().concat(), fixture.key()).unwrap();
    let signed = signature::sign(&svid, b"x").unwrap();
    let document = fixture.document();
    signature::verify(svid.chain(), document.bundle().unwrap(), &id(), fixture.now(), b"x", &signed).unwrap();
}
