//! Every limit of this crate, each with its reason.

/// Longest SPIFFE ID in bytes (SPIFFE-ID section 2.3: implementations support up to 2,048).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// Longest trust domain name in bytes (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Most certificates in a peer's chain: a leaf, and the intermediates of nested SPIRE servers below an
/// upstream authority, which are three or four. Checked before anything is parsed.
pub const MAX_CHAIN_CERTIFICATES: usize = 8;

/// Largest single certificate. An ECDSA SVID is 600 bytes, one with an RSA-8192 issuer below 4 KiB.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Largest chain in sum. Together with the count it bounds the work of one verification.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Most authorities in one trust domain's bundle. A rotation has two or three at a time.
pub const MAX_BUNDLE_AUTHORITIES: usize = 32;

/// Largest bundle, in DER one after another or in PEM: all of its authorities at their largest, and what
/// PEM adds.
pub const MAX_BUNDLE_BYTES: usize = 512 * 1024;

/// Most trust domains whose bundles are kept. Federation is set up by hand, domain by domain.
pub const MAX_TRUST_DOMAINS: usize = 256;

/// Largest bundle document: a full bundle in base64, and as much again of other keys.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Most keys in a bundle document, those of other uses included.
pub const MAX_DOCUMENT_KEYS: usize = 256;

/// How often a bundle document is fetched unless it says so itself (the specification proposes 5 min).
pub const DEFAULT_REFRESH_SECONDS: u64 = 300;

/// However often a document asks to be fetched: its publisher must not choose our load.
pub const MIN_REFRESH_SECONDS: u64 = 10;

/// However seldom a document asks to be fetched: a revoked authority is believed until the next time.
pub const MAX_REFRESH_SECONDS: u64 = 3600;

/// Smallest RSA modulus in bits that is believed (as in webpki and NIST SP 800-131A).
pub const MIN_RSA_BITS: usize = 2048;

/// Largest RSA modulus in bits: verification time grows with its square.
pub const MAX_RSA_BITS: usize = 8192;

/// Largest private key in PKCS #8: an RSA-8192 key is 4.7 KiB.
pub const MAX_PRIVATE_KEY_BYTES: usize = 8 * 1024;

/// How far before "now" a fresh certificate's validity begins, so that a peer whose clock is a little
/// behind accepts it (SPIRE backdates by the same 10 s).
pub const BACKDATE_SECONDS: u64 = 10;

/// Shortest life of a fresh SVID: below it, rotation at half life would run into the backdating.
pub const MIN_TTL_SECONDS: u64 = 20;

/// Largest message that is signed or checked in one piece.
pub const MAX_SIGNED_MESSAGE_BYTES: usize = 16 * 1024;

/// Largest signature: that of an RSA key of [`MAX_RSA_BITS`]. ECDSA's are at most 104 bytes.
pub const MAX_SIGNATURE_BYTES: usize = MAX_RSA_BITS / 8;
