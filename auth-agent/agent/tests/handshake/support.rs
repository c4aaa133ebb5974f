//! Two agents on loopback, and peers that are none.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_agent::handshake::{
    Assertion, Client, Deadlines, Inbound, InboundAccept, KeyExchange, PeerNames, Refusal, Request, Server,
    ServerConfig, SvidStore, Tls,
};
use countersign_certs::{CertAuthority, IdTemplate, Serial, SigningKey, SpiffeId, Svid, TrustDomain};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose as Purpose, Issuer, KeyPair, KeyUsagePurpose as Usage,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub const DOMAIN: &str = "countersign.lab";

/// Short, so that tests of silence are too.
pub const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_millis(300),
    exchange: Duration::from_millis(600),
    total: Duration::from_millis(1000),
};

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

pub fn id(number: u32) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}/identity/{number}")).unwrap()
}

pub fn node_id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}/node/{name}")).unwrap()
}

pub fn signing_key() -> SigningKey {
    SigningKey::p256(KeyPair::generate().unwrap().serialize_der()).unwrap()
}

/// A root that has been there for a day.
pub fn authority(domain: &str) -> CertAuthority {
    let domain = TrustDomain::parse(domain).unwrap();
    let begin = now() - 86_400;
    CertAuthority::create(domain, signing_key(), Serial::from_random([1; 16]), begin, 1_000_000).unwrap()
}

pub fn issue_at(ca: &CertAuthority, id: &SpiffeId, now: u64, ttl: u64) -> Svid {
    ca.issue(id, &signing_key(), Serial::from_random([2; 16]), now, ttl).unwrap()
}

pub fn issue(ca: &CertAuthority, number: u32) -> Svid {
    issue_at(ca, &id(number), now(), 3600)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the node's task of an agent saw.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<Inbound>>>);

impl Seen {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn last(&self) -> Inbound {
        self.0.lock().unwrap().pop().unwrap()
    }
}

/// An agent: store, client, server, and a node's task that accepts everything.
pub struct Agent {
    pub name: String,
    pub store: SvidStore,
    pub client: Client,
    pub server: Server,
    pub seen: Seen,
    pub confirmed: Arc<Mutex<Vec<bool>>>,
}

/// What the node's task answers with.
pub type Answer = fn() -> Result<InboundAccept, Refusal>;

pub fn accept() -> Result<InboundAccept, Refusal> {
    let assertions = vec![Assertion { ip: ip("10.0.2.7"), generation: 3 }];
    Ok(InboundAccept { assertions, not_after: u64::MAX, confirmed: None })
}

pub fn empty_store(key_exchange: KeyExchange) -> SvidStore {
    SvidStore::new(Tls::new(key_exchange), domain(), PeerNames::ByNumber(IdTemplate::default()))
}

pub fn store(ca: &CertAuthority, numbers: &[u32]) -> SvidStore {
    let store = empty_store(KeyExchange::Prefer);
    store.set_bundle(Arc::new(ca.bundle().unwrap()));
    for number in numbers {
        store.put(*number, &issue(ca, *number)).unwrap();
    }
    store
}

impl Agent {
    pub async fn start(name: &str, ca: &CertAuthority, numbers: &[u32]) -> Self {
        Self::with(name, store(ca, numbers), DEADLINES, accept).await
    }

    pub async fn with(name: &str, store: SvidStore, deadlines: Deadlines, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (inbound, requests) = mpsc::channel(1024);
        let config = ServerConfig { node: name.to_owned(), deadlines };
        let server = Server::spawn(listener, config, store.share(), inbound).unwrap();
        let client = Client::new(store.share(), deadlines);
        let (seen, confirmed) = (Seen::default(), Arc::default());
        tokio::spawn(answer_all(requests, answer, seen.clone(), Arc::clone(&confirmed)));
        Self { name: name.to_owned(), store, client, server, seen, confirmed }
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// To prove `local` here and `remote` there.
    pub fn request(&self, local: u32, remote: u32, to: &str, addr: SocketAddr) -> Request {
        Request {
            local_identity: local,
            remote_identity: remote,
            remote_id: id(remote),
            addr,
            own_node: self.name.clone(),
            remote_node: to.to_owned(),
            assertions: vec![Assertion { ip: ip("fd00::1"), generation: 9 }],
            not_after: u64::MAX,
            disowned: Vec::new(),
            tunnel: None,
            moved: None,
        }
    }
}

async fn answer_all(
    mut requests: mpsc::Receiver<Inbound>,
    answer: Answer,
    seen: Seen,
    confirmed: Arc<Mutex<Vec<bool>>>,
) {
    while let Some(mut inbound) = requests.recv().await {
        let (notify, notified) = tokio::sync::oneshot::channel();
        let respond = std::mem::replace(&mut inbound.respond, tokio::sync::oneshot::channel().0);
        seen.0.lock().unwrap().push(inbound);
        let mut given = answer();
        if let Ok(accept) = &mut given {
            accept.confirmed = Some(notify);
        }
        let _ = respond.send(given);
        let confirmed = Arc::clone(&confirmed);
        tokio::spawn(async move {
            let came = notified.await.is_ok();
            confirmed.lock().unwrap().push(came);
        });
    }
}

/// Waits until something becomes true, up to a second.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// A chain and key that no store would take.
pub struct Forged {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl From<&Svid> for Forged {
    fn from(svid: &Svid) -> Self {
        let key = svid.private_key().pkcs8_der().to_vec();
        Self { chain: svid.chain().to_vec(), key: PrivateKeyDer::Pkcs8(key.into()) }
    }
}

/// A leaf like a proper one, spoiled; signed by the authority itself.
pub fn forge(ca: &CertAuthority, key: &SigningKey, spoil: impl FnOnce(&mut CertificateParams)) -> Forged {
    let pair = KeyPair::try_from(key.pkcs8_der()).unwrap();
    let issuer = Issuer::from_ca_cert_der(ca.certificate(), pair).unwrap();
    let mut params = CertificateParams::default();
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Purpose::ClientAuth, Purpose::ServerAuth];
    params.subject_alt_names = vec![rcgen::SanType::URI(id(301).as_str().try_into().unwrap())];
    spoil(&mut params);
    let leaf = KeyPair::generate().unwrap();
    let chain = vec![params.signed_by(&leaf, &issuer).unwrap().der().clone()];
    Forged { chain, key: PrivateKeyDer::Pkcs8(leaf.serialize_der().into()) }
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that is no agent: does TLS with what it was given, believes every client, then does `then`.
pub async fn fake_server<F, R>(forged: Forged, then: F) -> SocketAddr
where
    F: Fn(tokio_rustls::server::TlsStream<TcpStream>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(forged.chain, forged.key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(tcp).await {
                tokio::spawn(then(stream));
            }
        }
    });
    addr
}

/// A client that is no agent; shows what it was given, believes every server.
pub fn fake_client(forged: Option<Forged>) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    match forged {
        Some(forged) => builder.with_client_auth_cert(forged.chain, forged.key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

pub async fn connect_tls(
    config: rustls::ClientConfig,
    addr: SocketAddr,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// Believes everybody.
#[derive(Debug)]
pub struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl rustls::server::danger::ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
