//! What there is to say about the identity source and the SVIDs held.

use countersign_agent_api as api;
use countersign_certs::{KeyAlgorithm, Svid};

use super::{Node, registrar};
use crate::clock;
use crate::endpoints::Endpoint;

impl Node {
    /// What it is called.
    pub(super) fn source_kind(&self) -> &'static str {
        if self.svids.is_spire() { "SPIRE" } else { "embedded CA" }
    }

    pub(super) fn why_no_svid(&self, endpoint: &Endpoint) -> String {
        if !self.svids.is_spire() {
            return "the identity source has not issued one".to_owned();
        }
        let trouble = self.svids.trouble(&endpoint.workload());
        trouble.unwrap_or_else(|| "SPIRE has not answered about it yet".to_owned())
    }

    pub(super) fn spire_status(&self) -> api::SpireStatus {
        let source = self.svids.source();
        let down_since = source.down().map(|(since, _)| since);
        let connections = source.connections.into_iter().map(|connection| api::SpireConnection {
            api: connection.api.to_owned(),
            socket: connection.socket,
            up: connection.is_up,
            since: connection.since,
            last_error: connection.last_error,
        });
        let now = clock::unix();
        let trust_domains = self.svids.bundles().map(|(domain, bundle)| api::TrustDomainEntry {
            name: domain.to_string(),
            own: domain == self.svids.domain(),
            authorities: bundle.authorities().len() as u64,
            expired: bundle.expired(now) as u64,
            lives_until: bundle.lives_until(now),
        });
        let own = self.svids.node_svid().map(|svid| svid_entry(0, svid, Vec::new()));
        let svids = self.svids.held().map(|(identity, svid)| {
            let here = self.endpoints.iter().filter(|e| e.registered && e.identity == identity);
            svid_entry(identity, svid, here.map(pod_name).collect())
        });
        let all: Vec<api::SvidEntry> = own.into_iter().chain(svids).collect();
        api::SpireStatus {
            node: self.config.node_name.clone(),
            kind: self.source_kind().to_owned(),
            trust_domain: self.svids.domain().to_string(),
            connections: connections.collect(),
            down_since,
            trust_domains: trust_domains.collect(),
            renewals_overdue: all.iter().filter(|svid| is_overdue(svid, now)).count() as u64,
            missing: self.missing_svids(),
            svids: all,
            registrar: registrar::read(&self.config.registrar_status),
        }
    }

    /// Whether an endpoint should have an SVID and has none.
    pub(super) fn lacks_svid(&self, endpoint: &Endpoint) -> bool {
        let labels = self.identities.labels(endpoint.identity);
        self.svids.should_have(endpoint, labels) && self.svids.svid(endpoint.identity).is_none()
    }

    fn missing_svids(&self) -> Vec<api::MissingSvid> {
        let missing = self.endpoints.iter().filter(|endpoint| self.lacks_svid(endpoint)).map(|endpoint| {
            api::MissingSvid {
                pod: pod_name(endpoint),
                identity: endpoint.identity,
                spiffe_id: self.spiffe_id(endpoint.identity).map(|id| id.to_string()).unwrap_or_default(),
                why: self.why_no_svid(endpoint),
            }
        });
        missing.collect()
    }
}

fn pod_name(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.saved.spec.namespace, endpoint.saved.spec.name)
}

/// SPIRE renews at half of a life, give or take a tenth; two thirds without a successor is late.
fn is_overdue(svid: &api::SvidEntry, now: u64) -> bool {
    let life = svid.not_after.saturating_sub(svid.not_before);
    now > svid.not_before.saturating_add(life / 3 * 2)
}

fn svid_entry(identity: u32, svid: &Svid, pods: Vec<String>) -> api::SvidEntry {
    let key = match svid.key_algorithm() {
        KeyAlgorithm::EcdsaP256 => "ECDSA P-256",
        KeyAlgorithm::EcdsaP384 => "ECDSA P-384",
        KeyAlgorithm::Rsa => "RSA",
        KeyAlgorithm::Ed25519 => "Ed25519",
    };
    api::SvidEntry {
        identity,
        spiffe_id: svid.spiffe_id().to_string(),
        pods,
        not_before: svid.not_before(),
        not_after: svid.not_after(),
        key: key.to_owned(),
        chain_pem: svid.chain().iter().map(countersign_certs::pem::certificate).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_after_two_thirds_of_a_life() {
        let svid = api::SvidEntry { not_before: 1_000, not_after: 1_300, ..api::SvidEntry::default() };
        assert!(!is_overdue(&svid, 1_200));
        assert!(is_overdue(&svid, 1_201));
    }
}
