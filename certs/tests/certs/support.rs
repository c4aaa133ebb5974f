//! A workshop for certificates, the proper ones and all the others.

use countersign_certs::{Bundle, CertAuthority, Serial, SigningKey, SpiffeId, Svid, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose as Usage, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// The time of all tests.
pub const NOW: u64 = 1_800_000_000;

/// A root or an intermediate, with its key.
pub struct Maker {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub der: Vec<u8>,
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse("countersign.lab").unwrap()
}

pub fn id(number: u32) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://countersign.lab/identity/{number}")).unwrap()
}

pub fn signing_key() -> SigningKey {
    SigningKey::p256(KeyPair::generate().unwrap().serialize_der()).unwrap()
}

pub fn serial(number: u8) -> Serial {
    Serial::from_random([number; 16])
}

/// The embedded CA itself.
pub fn embedded() -> CertAuthority {
    CertAuthority::create(domain(), signing_key(), serial(1), NOW, 1_000_000).unwrap()
}

pub fn issue(ca: &CertAuthority, number: u32) -> Svid {
    ca.issue(&id(number), &signing_key(), serial(2), NOW, 3600).unwrap()
}

pub fn moment(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap()
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = moment(NOW - 100);
    params.not_after = moment(NOW + 100_000);
    params.serial_number = Some(SerialNumber::from_slice(&[7; 16]));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    params
}

/// What a proper leaf says; tests spoil it.
pub fn leaf_params(id: &str) -> CertificateParams {
    let mut params = params("leaf");
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Purpose::ClientAuth, Purpose::ServerAuth];
    params.subject_alt_names = vec![uri(id)];
    params
}

impl Maker {
    pub fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, der }
    }

    pub fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = self.sign(&params, &key);
        Self { params, key, der }
    }

    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }

    /// A leaf with a fresh key.
    pub fn leaf(&self, params: &CertificateParams) -> Vec<u8> {
        self.sign(params, &KeyPair::generate().unwrap())
    }

    pub fn bundle(&self) -> Bundle {
        Bundle::new(domain(), &[&self.der]).unwrap()
    }
}
