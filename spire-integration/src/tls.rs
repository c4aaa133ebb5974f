//! TLS 1.3 to a member of our own trust domain, with our own SVID on this side: how SPIRE's server and SPIRE's agent
//! are spoken with. Who may answer is the caller's to say, since both are known by their SPIFFE IDs and not by names.

use std::fmt;
use std::sync::Arc;

use countersign_certs::Svid;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects by gRPC's rules (HTTP/2), to whom `judge` believes.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    /// `name` says in logs who should answer, and is what TLS's interface wants; nobody is known by it.
    /// `judge` is given the certificates that were shown, the leaf first, and the Unix time in seconds; an error is
    /// why they are not believed.
    ///
    /// # Errors
    /// The SVID is none that TLS can speak with.
    pub fn new(
        name: &'static str,
        svid: &Svid,
        judge: impl Fn(&[&[u8]], u64) -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Judged { name, provider: Arc::clone(&provider), judge: Box::new(judge) };
        let key = PrivatePkcs8KeyDer::from(svid.private_key().pkcs8_der().to_vec());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(svid.chain().to_vec(), PrivateKeyDer::Pkcs8(key))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        let name = ServerName::try_from(name).map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Shakes hands over `stream`.
    ///
    /// # Errors
    /// Whoever is at its other end is not believed, or is gone.
    pub async fn over<S>(&self, stream: S) -> std::io::Result<TokioIo<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connector.connect(self.name.clone(), stream).await.map(TokioIo::new)
    }
}

type Judge = dyn Fn(&[&[u8]], u64) -> Result<(), String> + Send + Sync;

struct Judged {
    name: &'static str,
    provider: Arc<CryptoProvider>,
    judge: Box<Judge>,
}

impl fmt::Debug for Judged {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Judged").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Judged {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificates = std::iter::once(end_entity).chain(intermediates);
        let shown: Vec<&[u8]> = certificates.map(|certificate| certificate.as_ref()).collect();
        (self.judge)(&shown, now.as_secs()).map(|()| ServerCertVerified::assertion()).map_err(|why| {
            tracing::warn!(%why, "who answers as {} is not believed", self.name);
            CertificateError::ApplicationVerificationFailure.into()
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
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
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
