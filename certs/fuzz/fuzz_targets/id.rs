//! SPIFFE IDs, trust domains and templates.
#![no_main]

use countersign_certs::{IdSubject, IdTemplate, SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
        assert!(TrustDomain::parse(id.trust_domain_name()).is_ok());
    }
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(SpiffeId::of_domain(&domain).trust_domain(), domain);
    }
    if let Ok(template) = IdTemplate::parse(text) {
        assert_eq!(IdTemplate::parse(&template.to_string()), Ok(template.clone()));
        let domain = TrustDomain::parse("td").expect("a trust domain");
        let subject = IdSubject { number: 7, namespace: "n", service_account: "s" };
        assert!(template.render(&domain, &subject).is_ok_and(|id| id.is_member_of(&domain)));
    }
});
