//! Bundles in DER and PEM, as an identity source hands them over.
#![no_main]

use countersign_certs::{Bundle, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let domain = TrustDomain::parse("spire.example").expect("a trust domain");
    if let Ok(bundle) = Bundle::from_der(domain.clone(), data) {
        // What is taken is what was given, and taking it again changes nothing.
        let again = Bundle::new(domain.clone(), bundle.authorities()).expect("taken before");
        assert_eq!(bundle, again);
        let change = again.change_from(&bundle);
        assert!(change.added.is_empty() && change.removed.is_empty());
    }
    let _ = Bundle::from_pem(domain, data);
});
