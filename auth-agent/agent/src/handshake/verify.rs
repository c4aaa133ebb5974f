//! The two verifiers that rustls asks: both leave the chain to `certs::chain`, and the signature over the
//! transcript to rustls.

use std::sync::{Arc, OnceLock};

use countersign_certs::{Bundle, Distrust, SpiffeId, VerifiedPeer, VerifyError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::cache::ChainCache;
use super::store::SharedSvidStore;

/// What both of rustls' traits ask in the same words: the signature over the transcript is rustls' to check, with
/// the algorithms of our provider.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(tls13_only())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            schemes()
        }
    };
}

/// Verifies one server: made for one handshake, which then takes the result from it.
#[derive(Debug)]
pub(super) struct ServerChain {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) chains: Arc<ChainCache>,
    pub(super) bundle: Arc<Bundle>,
    pub(super) expected: SpiffeId,
    pub(super) result: OnceLock<Result<VerifiedPeer, VerifyError>>,
}

impl ServerChain {
    fn check(&self, chain: &[&[u8]], now: u64) -> Result<VerifiedPeer, VerifyError> {
        let peer = self.chains.verify_member(chain, &self.bundle, now)?;
        if *peer.spiffe_id() == self.expected {
            return Ok(peer);
        }
        let presented = peer.spiffe_id().clone();
        Err(VerifyError::WrongIdentity { expected: self.expected.clone(), presented })
    }
}

impl ServerCertVerifier for ServerChain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self.check(&chain_of(end_entity, intermediates), now.as_secs());
        let answer = result.as_ref().map(|_| ServerCertVerified::assertion()).map_err(to_tls);
        // TLS 1.3 shows the server's chain once per handshake; a second one could not replace the first.
        if self.result.set(result).is_err() {
            return Err(Error::General("the server's chain was shown twice".to_owned()));
        }
        answer
    }

    signatures!();
}

/// Verifies all clients of a server, each against the bundle that the trust domain it claims has at that moment,
/// and against no other.
#[derive(Debug)]
pub(super) struct ClientChains {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) chains: Arc<ChainCache>,
    pub(super) store: SharedSvidStore,
}

impl ClientChains {
    /// Who a client's chain speaks for: any member of our trust domain, or of one we federate with and know
    /// an identity of, until its message names one.
    pub(super) fn verify<C: AsRef<[u8]>>(&self, chain: &[C], now: u64) -> Result<VerifiedPeer, Error> {
        let snapshot = self.store.snapshot();
        let Some(own) = snapshot.own_bundle() else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified = match self.chains.verify_member(chain, own, now) {
            // Said of the leaf alone, before any authority is looked at: the domain it claims chooses the one
            // bundle that is to vouch for it.
            Err(VerifyError::Untrusted(Distrust::OtherTrustDomain { expected, presented })) => {
                match snapshot.federated(&presented.trust_domain()) {
                    Some(theirs) => self.chains.verify_member(chain, theirs, now),
                    None => Err(Distrust::OtherTrustDomain { expected, presented }.into()),
                }
            }
            verified => verified,
        };
        verified.map_err(|error| {
            tracing::debug!(%error, "a client's chain was not believed");
            to_tls(&error)
        })
    }
}

impl ClientCertVerifier for ClientChains {
    /// Empty: which authorities we know is nobody's business before they have authenticated themselves.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(&chain_of(end_entity, intermediates), now.as_secs())
            .map(|_| ClientCertVerified::assertion())
    }

    signatures!();
}

/// Believes nobody: stands in a prepared configuration until a handshake puts its own verifier there, so
/// that forgetting to do so fails closed.
#[derive(Debug)]
pub(super) struct Nobody;

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// What `certs` accepts as a leaf's key can sign with: nothing of PKCS #1 v1.5, SHA-1 or other curves.
fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA512,
    ]
}

fn chain_of<'c>(end_entity: &'c CertificateDer<'_>, behind: &'c [CertificateDer<'_>]) -> Vec<&'c [u8]> {
    std::iter::once(end_entity).chain(behind).map(AsRef::as_ref).collect()
}

/// Chooses the alert that the peer gets; our own side knows the rest.
fn to_tls(error: &VerifyError) -> Error {
    let certificate = match error {
        VerifyError::Untrusted(_) => CertificateError::UnknownIssuer,
        VerifyError::Expired { .. } => CertificateError::Expired,
        VerifyError::NotYetValid { .. } => CertificateError::NotValidYet,
        VerifyError::WrongIdentity { .. } => CertificateError::NotValidForName,
        VerifyError::Malformed { .. } => CertificateError::Other(OtherError(Arc::new(error.clone()))),
    };
    Error::InvalidCertificate(certificate)
}

fn tls13_only() -> Error {
    Error::General("only TLS 1.3 is spoken here".to_owned())
}
