//! How TLS is set up: one place for version, algorithms, and what is switched off.

use std::sync::Arc;

use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, version};

use super::cache::ChainCache;
use super::verify::{ClientChains, Nobody};

/// Which key exchange is offered and accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 with every peer that knows it, X25519 or P-256 with the others.
    #[default]
    Prefer,
    /// X25519MLKEM768 or nothing.
    Require,
}

/// What all handshakes of an agent share: the cryptographic provider and the verified chains.
#[derive(Debug)]
pub struct Tls {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) chains: Arc<ChainCache>,
}

impl Tls {
    /// Sets it up.
    #[must_use]
    pub fn new(key_exchange: KeyExchange) -> Arc<Self> {
        let provider = CryptoProvider {
            kx_groups: groups(key_exchange),
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        };
        Arc::new(Self { provider: Arc::new(provider), chains: Arc::default() })
    }

    /// A client that shows `identity` and believes nobody yet: each handshake puts its own verifier in.
    pub(super) fn client(&self, identity: Arc<CertifiedKey>) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Nobody))
            .with_client_cert_resolver(Arc::new(Shown(identity)));
        // A ticket would let an evicted peer come back without showing its chain again.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    /// The server, for all identities.
    pub(super) fn server(
        &self,
        resolver: Arc<dyn ResolvesServerCert>,
        clients: Arc<ClientChains>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(resolver);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

fn groups(key_exchange: KeyExchange) -> Vec<&'static dyn SupportedKxGroup> {
    let hybrid = aws_lc_rs::kx_group::X25519MLKEM768;
    match key_exchange {
        KeyExchange::Require => vec![hybrid],
        KeyExchange::Prefer => vec![hybrid, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
    }
}

/// The one certificate a client shows.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
