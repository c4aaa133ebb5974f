//! A node's statement "this is my WireGuard key", and how it travels.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_ANNOUNCEMENT, MAX_CERTIFICATE, MAX_CHAIN, MAX_NODE_NAME, MAX_SIGNATURE, MAX_TRUST_DOMAIN,
};
use crate::{KeyError, PublicKey};

/// The annotation of a Node object that carries the announcement.
pub const ANNOTATION: &str = "countersign.dev/wireguard";
/// The annotation of a Node object that carries the announcement of the node's next key, while it changes keys.
pub const ANNOTATION_NEXT: &str = "countersign.dev/wireguard-next";

/// Begins everything that is signed here, so that a signature made for one purpose never serves another.
const DOMAIN: &[u8] = b"countersign.dev/wireguard-key/v1\0";
/// The encoding's version.
const VERSION: u32 = 1;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The trust domain of the signer.
    pub trust_domain: String,
    /// The node that speaks.
    pub node: String,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// Grows with every new key of this node (milliseconds since the Unix epoch at the key's creation), and
    /// stays while the key does. Its lowest bit says in which devices the key is used ([`crate::Slot`]), and is
    /// never that of the key before.
    pub epoch: u64,
    /// Unix seconds after which the statement is void.
    pub not_after: u64,
}

impl Statement {
    /// The bytes to sign: a constant that names the purpose, then the fields in order, text with its length
    /// before it (big-endian u32), numbers as big-endian u64.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = DOMAIN.to_vec();
        for text in [&self.trust_domain, &self.node] {
            // Both are bounded when decoded; a longer one made here is cut in its length, and thus refused.
            bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.public_key.as_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.not_after.to_be_bytes());
        bytes
    }
}

/// A statement with the certificates and the signature that are to prove it. Proves nothing by itself: see
/// [`crate::KeyRing::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What is stated.
    pub statement: Statement,
    /// The signer's certificate chain, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's signature of [`Statement::signing_bytes`].
    pub signature: Vec<u8>,
}

/// Why a text is not an announcement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Something is longer than [`crate::limits`] allows, or empty where it must not be.
    #[error("{0} is too long, or missing")]
    Size(&'static str),
    /// Not JSON of the expected shape.
    #[error("not an announcement: {0}")]
    Json(String),
    /// Written by a later version.
    #[error("version {0} is not known here")]
    Version(u32),
    /// A field that should be base64 is not.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// The key is not a key.
    #[error("key: {0}")]
    Key(#[from] KeyError),
}

/// The form on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    version: u32,
    trust_domain: String,
    node: String,
    key: String,
    epoch: u64,
    not_after: u64,
    chain: Vec<String>,
    signature: String,
}

impl Announcement {
    /// One line of JSON, for the annotation [`ANNOTATION`].
    pub fn encode(&self) -> Result<String, DecodeError> {
        self.check()?;
        let wire = Wire {
            version: VERSION,
            trust_domain: self.statement.trust_domain.clone(),
            node: self.statement.node.clone(),
            key: self.statement.public_key.to_string(),
            epoch: self.statement.epoch,
            not_after: self.statement.not_after,
            chain: self.chain.iter().map(|der| STANDARD.encode(der)).collect(),
            signature: STANDARD.encode(&self.signature),
        };
        let text = serde_json::to_string(&wire).map_err(|error| DecodeError::Json(error.to_string()))?;
        if text.len() > MAX_ANNOUNCEMENT { Err(DecodeError::Size("announcement")) } else { Ok(text) }
    }

    /// From the annotation's value. Bounded; nothing is verified but the form.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        if text.len() > MAX_ANNOUNCEMENT {
            return Err(DecodeError::Size("announcement"));
        }
        let wire: Wire = serde_json::from_str(text).map_err(|error| DecodeError::Json(error.to_string()))?;
        if wire.version != VERSION {
            return Err(DecodeError::Version(wire.version));
        }
        let decode = |what, text: &String| STANDARD.decode(text).map_err(|_| DecodeError::Base64(what));
        let announcement = Self {
            statement: Statement {
                trust_domain: wire.trust_domain,
                node: wire.node,
                public_key: wire.key.parse()?,
                epoch: wire.epoch,
                not_after: wire.not_after,
            },
            chain: wire.chain.iter().map(|der| decode("chain", der)).collect::<Result<_, _>>()?,
            signature: decode("signature", &wire.signature)?,
        };
        announcement.check().map(|()| announcement)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let within = |what, len: usize, max: usize| match len {
            0 => Err(DecodeError::Size(what)),
            len if len > max => Err(DecodeError::Size(what)),
            _ => Ok(()),
        };
        within("trustDomain", self.statement.trust_domain.len(), MAX_TRUST_DOMAIN)?;
        within("node", self.statement.node.len(), MAX_NODE_NAME)?;
        within("chain", self.chain.len(), MAX_CHAIN)?;
        self.chain.iter().try_for_each(|der| within("certificate", der.len(), MAX_CERTIFICATE))?;
        within("signature", self.signature.len(), MAX_SIGNATURE)
    }
}
