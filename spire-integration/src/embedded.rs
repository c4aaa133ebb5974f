//! The embedded CA: a directory with a root's certificate and key. A development stand-in for SPIRE.

mod task;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_certs::{
    Bundle, CertAuthority, CertificateDer, IssueError, Serial, SigningKey, SpiffeId, Svid, TrustDomain, pem,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use crate::files;
use crate::limits::CA_TTL_SECONDS;

pub use task::{EmbeddedConfig, spawn};

/// What is wrong with a CA's directory.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A file could not be read, written or locked.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is a certificate but not its key, so nothing can be issued below it, and making a new one
    /// would cut off everybody who trusts the old.
    #[error("{} has a certificate but no key", .0.display())]
    KeyMissing(PathBuf),
    /// A file is not what it should be.
    #[error("{} is not the PEM expected", .0.display())]
    Pem(PathBuf),
    /// The certificate is not a root of this trust domain, or the key is not its.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A key could not be made.
    #[error("no key could be made: {0}")]
    Key(String),
}

/// The root in a directory: `ca.pem`, `ca.key` (mode 0600), and `ca.lock`. Several processes may share
/// the directory; the first one makes the root.
#[derive(Debug)]
pub struct EmbeddedCa {
    authority: CertAuthority,
}

impl EmbeddedCa {
    /// Loads the root of a trust domain from a directory, or makes one there. `now` is in Unix seconds.
    pub fn open(directory: &Path, domain: &TrustDomain, now: u64) -> Result<Self, EmbeddedError> {
        files::private_directory(directory).map_err(at(directory))?;
        let lock = directory.join("ca.lock");
        let _locked = files::lock(&lock).map_err(at(&lock))?;
        let key_path = directory.join("ca.key");
        let certificate_path = directory.join("ca.pem");
        let key = files::read_private(&key_path).map_err(at(&key_path))?;
        let certificate = files::read(&certificate_path).map_err(at(&certificate_path))?;
        let authority = match (key, certificate) {
            (Some(key), Some(certificate)) => {
                let certificate = CertificateDer::from_pem_slice(&certificate)
                    .map_err(|_| EmbeddedError::Pem(certificate_path))?;
                CertAuthority::load(domain.clone(), &certificate, key_from_pem(&key, &key_path)?)?
            }
            // Made, but not finished, by somebody who died in between: go on with the same key.
            (Some(key), None) => create(domain, key_from_pem(&key, &key_path)?, &certificate_path, now)?,
            (None, Some(_)) => return Err(EmbeddedError::KeyMissing(directory.to_owned())),
            (None, None) => create(domain, new_ca_key(&key_path)?, &certificate_path, now)?,
        };
        Ok(Self { authority })
    }

    /// Issues an SVID with a fresh ECDSA P-256 key for `ttl` seconds from `now` (Unix seconds).
    pub fn issue(&self, id: &SpiffeId, now: u64, ttl: u64) -> Result<Svid, EmbeddedError> {
        let (key, _) = fresh_key()?;
        Ok(self.authority.issue(id, &key, fresh_serial()?, now, ttl)?)
    }

    /// The bundle with this root.
    pub fn bundle(&self) -> Result<Bundle, EmbeddedError> {
        Ok(self.authority.bundle()?)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn create(
    domain: &TrustDomain,
    key: SigningKey,
    path: &Path,
    now: u64,
) -> Result<CertAuthority, EmbeddedError> {
    let authority = CertAuthority::create(domain.clone(), key, fresh_serial()?, now, CA_TTL_SECONDS)?;
    files::write_atomically(path, pem::certificate(authority.certificate()).as_bytes(), 0o644)
        .map_err(at(path))?;
    Ok(authority)
}

fn new_ca_key(path: &Path) -> Result<SigningKey, EmbeddedError> {
    let (key, text) = fresh_key()?;
    files::write_atomically(path, text.as_bytes(), 0o600).map_err(at(path))?;
    Ok(key)
}

fn key_from_pem(text: &[u8], path: &Path) -> Result<SigningKey, EmbeddedError> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| EmbeddedError::Pem(path.to_owned()))?;
    Ok(SigningKey::p256(der.secret_pkcs8_der().to_vec()).map_err(IssueError::from)?)
}

/// A key, and its PEM. All copies are wiped.
fn fresh_key() -> Result<(SigningKey, Zeroizing<String>), EmbeddedError> {
    let failed = |error: &dyn std::fmt::Display| EmbeddedError::Key(error.to_string());
    let mut pair = rcgen::KeyPair::generate().map_err(|error| failed(&error))?;
    let text = Zeroizing::new(pair.serialize_pem());
    let key = SigningKey::p256(pair.serialize_der()).map_err(|error| failed(&error));
    pair.zeroize();
    Ok((key?, text))
}

fn fresh_serial() -> Result<Serial, EmbeddedError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| EmbeddedError::Key("no randomness".to_owned()))?;
    Ok(Serial::from_random(bytes))
}

fn at(path: &Path) -> impl Fn(io::Error) -> EmbeddedError + '_ {
    move |source| EmbeddedError::File { path: path.to_owned(), source }
}
