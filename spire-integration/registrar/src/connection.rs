//! The way to the SPIRE server: its own socket on the same machine, or TLS with the registrar's SVID.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::{SpiffeId, TrustDomain, chain};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::limits::{CONNECT_DEADLINE, REQUEST_DEADLINE};
use crate::workload::{self, Credentials, Own};

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its admin socket; who may open it is an administrator.
    Socket(PathBuf),
    /// Its TCP address (`host:port`). The registrar's SVID comes from the Workload API at the socket, and its
    /// SPIFFE ID is among the server's `admin_ids`.
    Network {
        /// `host:port`.
        address: String,
        /// Socket of the SPIRE agent beside us.
        workload_socket: PathBuf,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(out, "{}", path.display()),
            Self::Network { address, .. } => out.write_str(address),
        }
    }
}

/// Channels to the server; a new one when our SVID is.
#[derive(Debug)]
pub(crate) struct Connection {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Socket(Channel),
    Network {
        address: String,
        server: SpiffeId,
        own: watch::Receiver<Own>,
        current: Option<(Arc<Credentials>, Channel)>,
    },
}

impl Connection {
    /// Connects when it is used. Must be called within a tokio runtime.
    pub(crate) fn new(target: &Target, domain: &TrustDomain) -> anyhow::Result<Self> {
        let kind = match target {
            Target::Socket(path) => {
                let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()))?;
                Kind::Socket(bounded(endpoint).connect_lazy())
            }
            Target::Network { address, workload_socket } => Kind::Network {
                address: address.clone(),
                server: SpiffeId::parse(&format!("spiffe://{domain}/spire/server"))?,
                own: workload::follow(workload_socket.clone(), domain.clone()),
                current: None,
            },
        };
        Ok(Self { kind })
    }

    /// The channel to use now.
    pub(crate) fn channel(&mut self) -> Result<Channel, String> {
        match &mut self.kind {
            Kind::Socket(channel) => Ok(channel.clone()),
            Kind::Network { address, server, own, current } => {
                let newest = own.borrow_and_update().clone()?;
                if let Some((credentials, channel)) = current
                    && Arc::ptr_eq(credentials, &newest)
                {
                    return Ok(channel.clone());
                }
                let channel = network(address.clone(), server, &newest).map_err(|error| error.to_string())?;
                *current = Some((newest, channel.clone()));
                Ok(channel)
            }
        }
    }

    /// Resolves when there is another SVID of ours than last time; never for a socket.
    pub(crate) async fn renewed(&mut self) {
        match &mut self.kind {
            Kind::Socket(_) => std::future::pending().await,
            Kind::Network { own, .. } => {
                if own.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn bounded(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(CONNECT_DEADLINE).timeout(REQUEST_DEADLINE)
}

fn network(address: String, server: &SpiffeId, own: &Arc<Credentials>) -> anyhow::Result<Channel> {
    let connector = TlsConnector::from(Arc::new(client(server, own)?));
    let connect = service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            // SPIRE's server is known by its SPIFFE ID; the name is what TLS's interface wants.
            let name = ServerName::try_from("spire-server").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Ok(bounded(Endpoint::from_static("http://spire-server")).connect_with_connector_lazy(connect))
}

fn client(server: &SpiffeId, own: &Arc<Credentials>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        ServerIs { provider: Arc::clone(&provider), expected: server.clone(), own: Arc::clone(own) };
    let key = PrivatePkcs8KeyDer::from(own.svid.private_key().pkcs8_der().to_vec());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(own.svid.chain().to_vec(), PrivateKeyDer::Pkcs8(key))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// Believes the server of our trust domain, by the bundle that came with our SVID.
#[derive(Debug)]
struct ServerIs {
    provider: Arc<CryptoProvider>,
    expected: SpiffeId,
    own: Arc<Credentials>,
}

impl ServerCertVerifier for ServerIs {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<&[u8]> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|certificate| certificate.as_ref())
            .collect();
        let verified = chain::verify(&chain, &self.own.bundle, &self.expected, now.as_secs());
        verified.map(|_| ServerCertVerified::assertion()).map_err(|error| {
            tracing::warn!(%error, "who answers as the SPIRE server is not believed");
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
