//! Why a flow passes or not, in words that name what to change.

use countersign_policy::explain::Fit;
use countersign_policy::verdicts::{Explanation, Flow, Manifests, Outcome, World};
use countersign_policy::{Settings, yaml};

const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: n1}, status: {podIP: 10.0.1.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop, labels: {app: client}}, spec: {nodeName: n1}, status: {podIP: 10.0.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: other, labels: {app: client}}, spec: {nodeName: n1}, status: {podIP: 10.0.1.3}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    authentication: {mode: required}
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "443", protocol: TCP}], rules: {http: [{method: GET}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: dry, namespace: shop, annotations: {policy.countersign.dev/mode: audit}}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{}]
"#;

fn explain(from: &str, to: &str, port: u16) -> Explanation {
    let mut manifests = Manifests::new(Settings::default());
    for document in yaml::parse(MANIFESTS).unwrap() {
        manifests.add(&document).unwrap();
    }
    let flow = Flow { from: from.into(), to: to.into(), protocol: "TCP".into(), port };
    World::new(manifests).explain(&flow).unwrap()
}

#[test]
fn the_rule_that_decides_is_named_with_its_line() {
    let explained = explain("shop/client", "shop/web", 80);
    assert_eq!(explained.verdict, Outcome::Allowed);
    let ingress = explained.ingress.unwrap();
    assert_eq!(
        ingress.reason,
        "allowed by CiliumNetworkPolicy shop/web spec.ingress[0] (line 14), once the two have authenticated"
    );
    assert_eq!(ingress.auth, "required");
    let egress = explained.egress.unwrap();
    assert_eq!(egress.reason, "allowed: no policy restricts what this endpoint may send");
    assert_eq!(egress.audit.as_deref(), Some("would be dropped by default"));
    let matching: Vec<_> = ingress.rules.iter().filter(|rule| rule.fit == Fit::Match).collect();
    assert_eq!(matching.len(), 1);
    assert_eq!(
        (matching[0].rule.as_str(), matching[0].why.as_str()),
        ("spec.ingress[0]", "allows it, authenticated")
    );
}

#[test]
fn of_every_other_rule_it_is_said_why_not() {
    let why = |from: &str, port| {
        let explained = explain(from, "shop/web", port);
        assert_eq!(explained.verdict, Outcome::Denied);
        let side = explained.ingress.unwrap();
        (side.reason, side.rules.into_iter().map(|rule| rule.why).collect::<Vec<_>>())
    };
    let (reason, rules) = why("other/client", 80);
    assert!(reason.contains("none allows this"), "{reason}");
    assert!(rules[0].contains("means pods of namespace shop, and this one is in other"), "{rules:?}");
    let (_, rules) = why("shop/client", 81);
    assert_eq!(rules[0], "is about other ports: TCP/80");
    let (reason, _) = why("shop/client", 443);
    assert!(reason.contains("by a part that is not built yet"), "{reason}");
    let (_, rules) = why("8.8.8.8", 80);
    assert!(rules[0].contains("does not mean 8.8.8.8"), "{rules:?}");
    assert!(
        rules.iter().any(|rule| rule.starts_with("is not for shop/web: it wants app = client")),
        "{rules:?}"
    );
}

#[test]
fn a_pod_and_itself_and_what_is_outside_have_no_sides() {
    let explained = explain("shop/web", "shop/web", 80);
    assert!(
        explained.egress.is_none() && explained.ingress.is_none() && explained.verdict == Outcome::Allowed
    );
    let explained = explain("shop/web", "8.8.8.8", 53);
    assert!(explained.ingress.is_none() && explained.egress.is_some());
}
