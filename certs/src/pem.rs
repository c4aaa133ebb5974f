//! Certificates as text (RFC 7468), for files and for people. Keys are never written by this crate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

/// A certificate in PEM.
#[must_use]
pub fn certificate(der: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn it_can_be_read_back() {
        for length in [0, 47, 48, 49, 1_000] {
            let der = CertificateDer::from(vec![7; length]);
            let text = certificate(&der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap(), der);
        }
    }
}
