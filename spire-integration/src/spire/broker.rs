//! The way to the Broker API of SPIRE's agent: TLS 1.3 over its socket, with our own SVID on this side and the SPIRE
//! agent's on the other.

use std::path::Path;
use std::sync::Arc;

use countersign_certs::{Bundle, Svid, chain};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::limits::FIRST_ANSWER;

/// SPIRE gives its agents IDs below this path and nobody else.
const AGENTS: &str = "/spire/agent/";

/// Connects when it is used, and again when the socket was made anew. Who was let in stays in: another SVID of ours
/// needs another channel.
pub(super) fn channel(socket: &Path, svid: &Svid, bundle: Arc<Bundle>) -> Result<Channel, Error> {
    let connector = TlsConnector::from(Arc::new(client(svid, bundle)?));
    let socket = socket.to_owned();
    let connect = service_fn(move |_: Uri| {
        let (connector, socket) = (connector.clone(), socket.clone());
        async move {
            let stream = UnixStream::connect(&socket).await?;
            // SPIRE's agent is known by its SPIFFE ID; the name is what TLS's interface wants.
            let name = ServerName::try_from("spire-agent").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://spire-agent").connect_timeout(FIRST_ANSWER);
    Ok(endpoint.connect_with_connector_lazy(connect))
}

fn client(svid: &Svid, bundle: Arc<Bundle>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = IsAgent { provider: Arc::clone(&provider), bundle };
    let key = PrivatePkcs8KeyDer::from(svid.private_key().pkcs8_der().to_vec());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(svid.chain().to_vec(), PrivateKeyDer::Pkcs8(key))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// Believes the SPIRE agents of our trust domain, by the bundle that came with our SVID.
#[derive(Debug)]
struct IsAgent {
    provider: Arc<CryptoProvider>,
    bundle: Arc<Bundle>,
}

impl ServerCertVerifier for IsAgent {
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
        let why = match chain::verify_member(&shown, &self.bundle, now.as_secs()) {
            Ok(peer) if peer.spiffe_id().path().starts_with(AGENTS) => {
                return Ok(ServerCertVerified::assertion());
            }
            Ok(peer) => format!("{} is no SPIRE agent's", peer.spiffe_id()),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%why, "who answers as SPIRE's agent is not believed");
        Err(CertificateError::ApplicationVerificationFailure.into())
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
