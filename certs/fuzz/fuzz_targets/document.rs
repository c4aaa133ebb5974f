//! Bundle documents, as a federated trust domain publishes them.
#![no_main]

use countersign_certs::limits::{MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS};
use countersign_certs::{BundleDocument, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let domain = TrustDomain::parse("spire.example").expect("a trust domain");
    if let Ok(document) = BundleDocument::parse(domain.clone(), data) {
        assert!((MIN_REFRESH_SECONDS..=MAX_REFRESH_SECONDS).contains(&document.refresh_seconds()));
        assert!(!document.is_older_than(&document));
        assert!(document.bundle().is_none_or(|bundle| *bundle.trust_domain() == domain));
    }
});
