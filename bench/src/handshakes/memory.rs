//! The peer that the agents are compared with: rustls with itself, in memory. No sockets, no packets, no other
//! process; both certificates verified, the same algorithms.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

const NAME: &str = "peer.countersign.lab";

/// Handshakes per second and core, all cores of the machine at it for `span`.
///
/// # Errors
/// Those of rustls: a handshake that fails.
pub fn per_core(span: Duration) -> Result<f64> {
    let peers = Peers::new()?;
    let cores = thread::available_parallelism()?.get();
    let rates: Result<Vec<f64>> = thread::scope(|scope| {
        let running: Vec<_> = (0..cores).map(|_| scope.spawn(|| peers.rate(span))).collect();
        running
            .into_iter()
            .map(|one| one.join().map_err(|_| anyhow!("a measuring thread panicked"))?)
            .collect()
    });
    Ok(rates?.iter().sum::<f64>() / cores as f64)
}

struct Peers {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Peers {
    fn new() -> Result<Self> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
            ..aws_lc_rs::default_provider()
        });
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key)?.der().clone();
        let issuer = Issuer::new(params, key);
        let mut roots = RootCertStore::empty();
        roots.add(root)?;
        let roots = Arc::new(roots);

        let (chain, key) = leaf(&issuer)?;
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();

        let (chain, key) = leaf(&issuer)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    fn rate(&self, span: Duration) -> Result<f64> {
        let (began, mut done) = (Instant::now(), 0_u32);
        while began.elapsed() < span {
            self.handshake()?;
            done += 1;
        }
        Ok(f64::from(done) / began.elapsed().as_secs_f64())
    }

    /// One, with a byte in each direction, as the agents' messages go.
    fn handshake(&self) -> Result<()> {
        let name = ServerName::try_from(NAME)?;
        let mut client = ClientConnection::new(Arc::clone(&self.client), name)?;
        let mut server = ServerConnection::new(Arc::clone(&self.server))?;
        client.writer().write_all(&[1])?;
        server.writer().write_all(&[1])?;
        let mut wire = Vec::with_capacity(8 << 10);
        while client.is_handshaking()
            || server.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire)?;
            }
            feed(&wire, |bytes| server.read_tls(bytes))?;
            server.process_new_packets().context("the server's half")?;
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire)?;
            }
            feed(&wire, |bytes| client.read_tls(bytes))?;
            client.process_new_packets().context("the client's half")?;
        }
        let mut byte = [0; 1];
        ensure!(client.reader().read(&mut byte)? == 1 && server.reader().read(&mut byte)? == 1, "no message");
        Ok(())
    }
}

fn feed(mut bytes: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) -> Result<()> {
    while !bytes.is_empty() {
        ensure!(read(&mut bytes)? > 0, "a full buffer");
    }
    Ok(())
}

fn leaf(issuer: &Issuer<'_, KeyPair>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName(NAME.try_into()?)];
    let certificate = params.signed_by(&key, issuer)?;
    Ok((vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into())))
}
