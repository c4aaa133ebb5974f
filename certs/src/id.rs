//! SPIFFE IDs and trust domains, parsed once at the edge.
//!
//! The rules are those of the SPIFFE-ID specification, sections 2.1 to 2.3, in their strict form: no
//! normalisation, no percent encoding, no case folding. What is accepted is byte for byte what is
//! compared.

use std::fmt;
use std::sync::Arc;

use crate::limits::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};

const SCHEME: &str = "spiffe://";

/// Why some text is not a SPIFFE ID or not a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It does not begin with `spiffe://`.
    #[error("does not begin with spiffe://")]
    Scheme,
    /// The trust domain is missing.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// The trust domain holds something other than `a-z 0-9 . - _`.
    #[error("the trust domain may hold only a-z, 0-9, '.', '-' and '_'")]
    TrustDomainCharacter,
    /// The trust domain or the ID is longer than the specification allows.
    #[error("too long")]
    TooLong,
    /// A path segment is empty, or the path ends in a slash.
    #[error("a path segment is empty")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("a path segment is '.' or '..'")]
    DotSegment,
    /// A path segment holds something other than `A-Z a-z 0-9 . - _`.
    #[error("a path segment may hold only letters, digits, '.', '-' and '_'")]
    PathCharacter,
}

/// The name of a trust domain: the authority part of a SPIFFE ID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes a bare name (`example.org`), without scheme or path.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::str::FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::parse(name)
    }
}

/// A SPIFFE ID: `spiffe://<trust domain>[/<segment>…]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the trust domain ends and the path (with its slash) begins.
    path_at: usize,
}

impl SpiffeId {
    /// Takes the complete URI.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(IdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        check_trust_domain(domain)?;
        for segment in path.into_iter().flat_map(|path| path.split('/')) {
            check_segment(segment)?;
        }
        Ok(Self { text: text.into(), path_at: SCHEME.len() + domain.len() })
    }

    /// The ID of a trust domain itself, which is that of its authorities.
    #[must_use]
    pub fn of_domain(domain: &TrustDomain) -> Self {
        let text: Arc<str> = format!("{SCHEME}{domain}").into();
        Self { path_at: text.len(), text }
    }

    /// The complete URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_name().into())
    }

    /// The path with its leading slash; empty if the ID names the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// Whether the ID belongs to that trust domain.
    #[must_use]
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain_name() == domain.as_str()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    match name.len() {
        0 => Err(IdError::EmptyTrustDomain),
        length if length > MAX_TRUST_DOMAIN_BYTES => Err(IdError::TooLong),
        _ if !name.bytes().all(allowed) => Err(IdError::TrustDomainCharacter),
        _ => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if !segment.bytes().all(allowed) => Err(IdError::PathCharacter),
        _ => Ok(()),
    }
}
