//! SPIFFE bundle documents: what a trust domain publishes of itself as a JWK set (SPIFFE trust domain and
//! bundle, section 4; X509-SVID, section 6).
//!
//! A document does not say which trust domain it is of: who fetched it knows, and says so.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::bundle::{Bundle, BundleError};
use crate::id::TrustDomain;
use crate::limits::{
    DEFAULT_REFRESH_SECONDS, MAX_CERTIFICATE_BYTES, MAX_DOCUMENT_BYTES, MAX_DOCUMENT_KEYS,
    MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS,
};

/// The `use` of the keys that X.509-SVIDs are verified with; others (`jwt-svid`) are none of ours.
const X509_SVID: &str = "x509-svid";

/// Key types that are understood; what else there may be is ignored with its key (section 4.2.1).
const KEY_TYPES: [&str; 3] = ["RSA", "EC", "OKP"];

/// Why some bytes are not a bundle document. The caller keeps the last good one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// More bytes than [`MAX_DOCUMENT_BYTES`].
    #[error("the bundle document is {0} bytes long, at most {MAX_DOCUMENT_BYTES} are taken")]
    TooLarge(usize),
    /// More keys than [`MAX_DOCUMENT_KEYS`].
    #[error("the bundle document has {0} keys, at most {MAX_DOCUMENT_KEYS} are taken")]
    TooManyKeys(usize),
    /// Not JSON, or not of a JWK set's shape. Where, and not what: it may be long, and is the publisher's.
    #[error("not a JWK set (line {line}, column {column})")]
    Json {
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// A certificate is not base64.
    #[error("key {0}: its x5c is not base64")]
    Base64(usize),
    /// The certificates are no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// A bundle document, read.
#[derive(Clone, Debug)]
pub struct BundleDocument {
    bundle: Option<Bundle>,
    sequence: Option<u64>,
    refresh_hint: Option<i64>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
    #[serde(default)]
    spiffe_sequence: Option<u64>,
    #[serde(default)]
    spiffe_refresh_hint: Option<i64>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: Option<String>,
    #[serde(rename = "use")]
    key_use: Option<String>,
    x5c: Option<Vec<String>>,
}

impl BundleDocument {
    /// Reads the document of a trust domain.
    pub fn parse(domain: TrustDomain, json: &[u8]) -> Result<Self, DocumentError> {
        if json.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge(json.len()));
        }
        let set: JwkSet = serde_json::from_slice(json)
            .map_err(|error| DocumentError::Json { line: error.line(), column: error.column() })?;
        if set.keys.len() > MAX_DOCUMENT_KEYS {
            return Err(DocumentError::TooManyKeys(set.keys.len()));
        }
        let mut authorities = Vec::new();
        for (index, key) in set.keys.iter().enumerate() {
            if let Some(text) = certificate_of(key) {
                authorities.push(decode(text).ok_or(DocumentError::Base64(index))?);
            }
        }
        let bundle = match authorities.as_slice() {
            [] => None,
            some => Some(Bundle::new(domain, some)?),
        };
        Ok(Self { bundle, sequence: set.spiffe_sequence, refresh_hint: set.spiffe_refresh_hint })
    }

    /// The authorities. `None` says that the trust domain has none (any more): whoever has authenticated this
    /// document must believe none of its members (section 4.1.3). That is not an error, and not the same as
    /// a document that could not be fetched or read.
    #[must_use]
    pub fn bundle(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// The sequence number: it grows with every change.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Whether this document is older than one already seen. An old document may bring a revoked authority
    /// back, so it is not to replace a newer one, whoever signed the connection it came by.
    #[must_use]
    pub fn is_older_than(&self, seen: &Self) -> bool {
        self.sequence.zip(seen.sequence).is_some_and(|(mine, theirs)| mine < theirs)
    }

    /// After how many seconds to look again: the hint, within what is reasonable, or
    /// [`DEFAULT_REFRESH_SECONDS`].
    #[must_use]
    pub fn refresh_seconds(&self) -> u64 {
        match self.refresh_hint.map(u64::try_from) {
            Some(Ok(hint)) if hint > 0 => hint.clamp(MIN_REFRESH_SECONDS, MAX_REFRESH_SECONDS),
            _ => DEFAULT_REFRESH_SECONDS,
        }
    }
}

/// The certificate of a key for X.509-SVIDs: the first of its `x5c`. Keys of other uses and types, and keys
/// without a certificate, are ignored, as the specification asks (X509-SVID section 6.2).
fn certificate_of(key: &Jwk) -> Option<&str> {
    let known = key.kty.as_deref().is_some_and(|kty| KEY_TYPES.contains(&kty));
    if !known || key.key_use.as_deref() != Some(X509_SVID) {
        return None;
    }
    key.x5c.as_deref().and_then(<[String]>::first).map(String::as_str)
}

/// Standard base64 (RFC 7517 section 4.7); nothing larger than a certificate may be is decoded.
fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_CERTIFICATE_BYTES.div_ceil(3) * 4 {
        return None;
    }
    STANDARD.decode(text).ok()
}
