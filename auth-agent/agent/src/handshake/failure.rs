//! Why a handshake failed, told apart by who has to do something about it.

use std::fmt;
use std::io;

use countersign_auth_proto::FailureKind;
use countersign_certs::VerifyError;
use rustls::{AlertDescription, CertificateError};

use super::limits::MAX_DETAIL_BYTES;

/// Where a handshake was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Before anything was sent.
    Prepare,
    /// Connecting.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The messages inside TLS.
    Message,
    /// Waiting for this agent's node to answer.
    Answer,
    /// Waiting for the client's acknowledgement.
    Ack,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Message => "message",
            Self::Answer => "answer",
            Self::Ack => "ack",
        }
    }
}

/// A failed handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind it is.
    pub kind: FailureKind,
    /// Where it happened.
    pub step: Step,
    /// More for people; at most [`MAX_DETAIL_BYTES`], printable.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, step: Step, detail: impl fmt::Display) -> Self {
        Self { kind, step, detail: printable(&detail.to_string()) }
    }

    pub(super) fn timeout(step: Step) -> Self {
        Self::new(FailureKind::Timeout, step, "deadline passed")
    }

    /// What a verifier found out about the peer's chain.
    pub(super) fn from_verify(error: &VerifyError) -> Self {
        let kind = match error {
            VerifyError::Untrusted(_) => FailureKind::Untrusted,
            VerifyError::WrongIdentity { .. } => FailureKind::WrongIdentity,
            VerifyError::Expired { .. } | VerifyError::NotYetValid { .. } => FailureKind::Expired,
            VerifyError::Malformed { .. } => FailureKind::Malformed,
        };
        Self::new(kind, Step::Tls, error)
    }

    pub(super) fn from_io(step: Step, error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::from_tls(step, tls);
        }
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => FailureKind::Refused,
            io::ErrorKind::TimedOut => FailureKind::Timeout,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => FailureKind::Unreachable,
            io::ErrorKind::InvalidData => FailureKind::Malformed,
            _ if is_exhaustion(error) => FailureKind::Overload,
            _ => FailureKind::Closed,
        };
        Self::new(kind, step, error)
    }

    pub(super) fn from_tls(step: Step, error: &rustls::Error) -> Self {
        use rustls::Error as E;
        let kind = match error {
            E::InvalidCertificate(certificate) => certificate_kind(certificate),
            E::NoCertificatesPresented => FailureKind::Untrusted,
            // Our server says access_denied in the handshake for an identity it has not got now.
            E::AlertReceived(AlertDescription::AccessDenied) if step == Step::Tls => FailureKind::NotLocal,
            E::AlertReceived(_) => FailureKind::Refused,
            E::General(_) if step == Step::Tls => FailureKind::NotLocal,
            _ => FailureKind::Malformed,
        };
        Self::new(kind, step, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({}): {}", self.kind.as_str(), self.step.name(), self.detail)
    }
}

impl std::error::Error for Failure {}

/// Whether it is this process or machine that has run out of something: descriptors, memory, local ports.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

fn certificate_kind(error: &CertificateError) -> FailureKind {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => FailureKind::Expired,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => FailureKind::Untrusted,
        CertificateError::ApplicationVerificationFailure => FailureKind::WrongIdentity,
        _ => FailureKind::Malformed,
    }
}

/// Cut to size and without control characters: parts of it come from the peer.
fn printable(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(MAX_DETAIL_BYTES));
    for character in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if kept.len() + character.len_utf8() > MAX_DETAIL_BYTES {
            break;
        }
        kept.push(character);
    }
    kept
}
