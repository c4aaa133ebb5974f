//! What nobody can do without: names, the API server, and where proofs come from.

use std::collections::BTreeSet;

use super::{Known, Lint, Severity, place};
use crate::documents::protocol::{TCP, UDP};
use crate::endpoint::EndpointPolicy;
use crate::identity::reserved;
use crate::model::{Action, AuthMode, Direction, Policy, Rule};

const DNS: u16 = 53;
/// Where agents of SPIRE find their server.
const SPIRE_SERVER: u16 = 8081;
/// Where the API server listens, as a service and itself.
const API_SERVER: [u16; 2] = [443, 6443];
/// Pods named in one finding.
const NAMED: usize = 3;

const ALLOW_DNS: &str = "allow egress to the pods behind kube-dns in kube-system (with the label \
                         k8s:io.kubernetes.pod.namespace: kube-system), port 53, UDP and TCP";

impl Lint {
    pub(super) fn reach(&mut self) {
        let dns: BTreeSet<u32> = self.pods.iter().filter(|p| is_dns(p)).map(|p| p.identity).collect();
        let spire: BTreeSet<u32> = self.pods.iter().filter(|p| is_spire(p)).map(|p| p.identity).collect();
        for policy in self.policies.clone() {
            for rule in &policy.rules {
                let subjects = self.subjects(rule);
                if rule.default_deny_egress {
                    self.names(&policy, rule, subjects.difference(&dns).copied().collect(), &dns);
                    let system = dns.union(&spire).copied().collect();
                    self.api_server(&policy, rule, subjects.intersection(&system).copied().collect());
                }
                if rule.default_deny_ingress {
                    self.servers(&policy, rule, (&subjects, &dns), &spire);
                }
                self.denied_api_server(&policy, rule, &subjects);
                self.circular(&policy, rule, &subjects, &spire);
            }
        }
    }

    /// Pods whose egress is restricted and who cannot ask for a name.
    fn names(&mut self, policy: &Policy, rule: &Rule, subjects: BTreeSet<u32>, dns: &BTreeSet<u32>) {
        let (mut without, mut half) = (Vec::new(), Vec::new());
        for identity in &subjects {
            let resolved = self.repository.resolve(*identity, 1);
            let reaches = |protocol| reaches(&resolved, dns, protocol, DNS);
            match (reaches(UDP), reaches(TCP)) {
                (false, _) => without.push(*identity),
                (true, false) => half.push(*identity),
                (true, true) => {}
            }
        }
        let at = (rule.path.clone(), rule.clauses.iter().find_map(|clause| clause.line));
        if !without.is_empty() {
            let message = format!(
                "restricts egress, and nothing allows DNS: {} cannot resolve names",
                self.list(&without)
            );
            self.report((Severity::Warning, "egress-without-dns"), policy, at.clone(), message, ALLOW_DNS);
        }
        if !half.is_empty() {
            let message = format!(
                "allows DNS over UDP and not over TCP: answers that do not fit a datagram never reach {}",
                self.list(&half)
            );
            self.report(
                (Severity::Warning, "dns-without-tcp"),
                policy,
                at,
                message,
                "allow port 53 of TCP as well",
            );
        }
    }

    fn list(&self, identities: &[u32]) -> String {
        let names: Vec<String> =
            identities.iter().take(NAMED).map(|identity| self.name_of(*identity)).collect();
        let more = identities.len().saturating_sub(NAMED);
        if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
    }

    /// Pods that others need, and that need the API server themselves.
    fn api_server(&mut self, policy: &Policy, rule: &Rule, subjects: BTreeSet<u32>) {
        let who = [reserved::KUBE_APISERVER, reserved::HOST, reserved::REMOTE_NODE, reserved::WORLD].into();
        let cut = |identity: &u32| {
            let resolved = self.repository.resolve(*identity, 1);
            !API_SERVER.iter().any(|port| reaches(&resolved, &who, TCP, *port))
        };
        let cut: Vec<u32> = subjects.into_iter().filter(cut).collect();
        if cut.is_empty() {
            return;
        }
        let at = (rule.path.clone(), rule.clauses.iter().find_map(|clause| clause.line));
        let message = format!("cuts {} off the API server, which it cannot work without", self.list(&cut));
        self.report(
            (Severity::Error, "cuts-off-api-server"),
            policy,
            at,
            message,
            "allow egress to the entity kube-apiserver",
        );
    }

    /// A rule that denies the API server by name.
    fn denied_api_server(&mut self, policy: &Policy, rule: &Rule, subjects: &BTreeSet<u32>) {
        for clause in
            rule.clauses.iter().filter(|c| c.direction == Direction::Egress && c.action == Action::Deny)
        {
            let Some(first) = subjects.first() else { continue };
            let resolved = self.repository.resolve(*first, 1);
            let denied = API_SERVER.iter().all(|port| {
                let decision = resolved.lookup(Direction::Egress, reserved::KUBE_APISERVER, TCP, *port);
                let by = self.repository.rule(decision.rule_id);
                !decision.allow && by.is_some_and(|by| by.policy() == policy.id && by.index == clause.index)
            });
            if denied {
                let message = format!("denies {} the API server", self.name_of(*first));
                let fix = "deny less, or choose fewer pods";
                self.report(
                    (Severity::Warning, "cuts-off-api-server"),
                    policy,
                    (place(rule, clause), clause.line),
                    message,
                    fix,
                );
            }
        }
    }

    /// Servers whose ingress is restricted so that none of their clients is left.
    fn servers(
        &mut self,
        policy: &Policy,
        rule: &Rule,
        (subjects, dns): (&BTreeSet<u32>, &BTreeSet<u32>),
        spire: &BTreeSet<u32>,
    ) {
        let at = (rule.path.clone(), rule.clauses.iter().find_map(|clause| clause.line));
        let clients: BTreeSet<u32> =
            self.pods.iter().map(|pod| pod.identity).filter(|id| !dns.contains(id)).collect();
        for identity in subjects.intersection(dns) {
            let resolved = self.repository.resolve(*identity, 1);
            let asks = |peer: &u32| resolved.lookup(Direction::Ingress, *peer, UDP, DNS).allow;
            if !clients.is_empty() && !clients.iter().any(asks) {
                let message = format!("lets no pod ask {} for a name", self.name_of(*identity));
                let fix = "allow ingress to port 53, UDP and TCP, from the entity cluster";
                self.report((Severity::Error, "cuts-off-dns"), policy, at.clone(), message, fix);
            }
        }
        for identity in subjects.intersection(spire) {
            let resolved = self.repository.resolve(*identity, 1);
            if !resolved.lookup(Direction::Ingress, reserved::REMOTE_NODE, TCP, SPIRE_SERVER).allow {
                let message = format!(
                    "keeps the agents of other nodes from {}: no SVID is renewed",
                    self.name_of(*identity)
                );
                let fix = "allow ingress to port 8081 of TCP from the entities host and remote-node";
                self.report((Severity::Error, "cuts-off-spire"), policy, at.clone(), message, fix);
            }
        }
    }

    /// Authentication of those that authentication depends on.
    fn circular(&mut self, policy: &Policy, rule: &Rule, subjects: &BTreeSet<u32>, spire: &BTreeSet<u32>) {
        for clause in
            rule.clauses.iter().filter(|clause| clause.auth.is_some_and(|m| m != AuthMode::Disabled))
        {
            let peer = match &clause.peers {
                crate::model::Peers::Any => None,
                crate::model::Peers::Of(selectors) => {
                    spire.iter().find(|identity| self.repository.chooses(selectors, **identity))
                }
            };
            let Some(who) = peer.or_else(|| subjects.intersection(spire).next()) else { continue };
            let message = format!(
                "asks {} for a proof, which only SPIRE could issue: neither can begin",
                self.name_of(*who)
            );
            let fix = "leave SPIRE's server out of rules that require authentication";
            self.report(
                (Severity::Error, "proof-needs-itself"),
                policy,
                (place(rule, clause), clause.line),
                message,
                fix,
            );
        }
    }
}

/// Whether one of these peers is reached; where none is known, whether anybody at all is.
fn reaches(policy: &EndpointPolicy, peers: &BTreeSet<u32>, protocol: u8, port: u16) -> bool {
    let allows = |peer: &u32| policy.lookup(Direction::Egress, *peer, protocol, port).allow;
    if !peers.is_empty() {
        return peers.iter().any(allows);
    }
    let known: BTreeSet<u32> = policy.entries.keys().map(|(key, _)| key.identity).collect();
    known.iter().any(allows)
}

fn is_dns(known: &Known) -> bool {
    let label = known.pod.labels.get("k8s-app").map(String::as_str);
    let named = known.pod.ports.iter().any(|port| port.port == DNS && port.protocol == "UDP");
    matches!(label, Some("kube-dns" | "coredns" | "node-local-dns"))
        || (named && known.pod.namespace == "kube-system")
}

fn is_spire(known: &Known) -> bool {
    let label = |key: &str| known.pod.labels.get(key).map(String::as_str);
    [label("app"), label("app.kubernetes.io/name")].contains(&Some("spire-server"))
}
