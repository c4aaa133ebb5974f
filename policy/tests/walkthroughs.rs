//! Policies as tutorials print them, and what they really do: the traps people fall into, each with its verdict.

use countersign_policy::documents;
use countersign_policy::verdicts::{Flow, Manifests, Outcome, World};
use countersign_policy::{DocumentError, Settings, yaml};

const PODS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: production, labels: {stage: live}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
{apiVersion: v1, kind: Pod, metadata: {name: frontend, namespace: production, labels: {app: frontend, tier: web}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: backend, namespace: production, labels: {app: backend}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: production, labels: {app: db}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: frontend, namespace: web, labels: {app: frontend, tier: web}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}}
";

fn try_world(policies: &str) -> Result<World, DocumentError> {
    let mut manifests = Manifests::new(Settings::default());
    for document in yaml::parse(&format!("{PODS}\n---\n{policies}")).unwrap() {
        manifests.add(&document)?;
    }
    Ok(World::new(manifests))
}

/// `from > to protocol/port` and whether it passes, a line each.
fn check(policies: &str, flows: &str) {
    let mut world = try_world(policies).unwrap();
    for line in flows.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [from, ">", to, at, expected] = words[..] else { panic!("{line}") };
        let (protocol, port) = at.split_once('/').unwrap();
        let flow =
            Flow { from: from.into(), to: to.into(), protocol: protocol.into(), port: port.parse().unwrap() };
        let got = world.verdict(&flow).unwrap();
        assert_eq!(got.verdict == Outcome::Allowed, expected == "yes", "{line}: {got:?}");
    }
}

#[test]
fn deny_all_lets_the_node_probe_and_nobody_else() {
    check(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: deny, namespace: production}, \
          spec: {endpointSelector: {}, ingress: [{}]}}",
        "production/frontend > production/backend TCP/80 no
         web/frontend > production/backend TCP/80 no
         8.8.8.8 > production/backend TCP/80 no
         production/backend > web/frontend TCP/80 yes
         production/backend > 8.8.8.8 TCP/80 yes",
    );
}

#[test]
fn ingress_rules_do_not_restrict_what_their_subject_sends() {
    // The article says 'frontend can only reach backend'; the rule says who may reach frontend.
    check(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: wrong-way, namespace: production}, \
          spec: {endpointSelector: {matchLabels: {app: frontend}}, ingress: [{fromEndpoints: [{matchLabels: {app: backend}}], \
          toPorts: [{ports: [{port: '8080', protocol: TCP}]}]}]}}",
        "production/frontend > production/db TCP/5432 yes
         production/backend > production/frontend TCP/8080 yes
         production/backend > production/frontend TCP/80 no",
    );
}

#[test]
fn peers_are_of_the_policys_own_namespace() {
    check(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: backend, namespace: production}, \
          spec: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: frontend}}], \
          toPorts: [{ports: [{port: '5000', protocol: TCP}]}]}]}}",
        "production/frontend > production/backend TCP/5000 yes
         web/frontend > production/backend TCP/5000 no",
    );
    check(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: backend, namespace: production}, \
          spec: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: \
          [{matchLabels: {app: frontend, 'k8s:io.kubernetes.pod.namespace': web}}]}]}}",
        "production/frontend > production/backend TCP/5000 no
         web/frontend > production/backend TCP/5000 yes",
    );
}

#[test]
fn dns_without_its_namespace_is_cut_off() {
    let dns = |labels: &str| {
        format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: allow-dns, namespace: production}}, \
              spec: {{endpointSelector: {{}}, egress: [{{toEndpoints: [{{matchLabels: {{{labels}}}}}], \
              toPorts: [{{ports: [{{port: '53', protocol: UDP}}, {{port: '53', protocol: TCP}}]}}]}}]}}}}"
        )
    };
    check(&dns("k8s-app: kube-dns"), "production/frontend > kube-system/dns UDP/53 no");
    check(
        &dns("k8s-app: kube-dns, 'k8s:io.kubernetes.pod.namespace': kube-system"),
        "production/frontend > kube-system/dns UDP/53 yes
         production/frontend > kube-system/dns TCP/53 yes
         production/frontend > kube-system/dns UDP/54 no",
    );
}

#[test]
fn policies_add_up() {
    // A cluster-wide rule that keeps the outside out re-allows what a narrower one left out.
    let narrow = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: backend, namespace: production}, \
          spec: {endpointSelector: {matchLabels: {app: backend}}, egress: [{toEndpoints: [{matchLabels: {app: db}}], \
          toPorts: [{ports: [{port: '5432', protocol: TCP}]}]}]}}";
    let wide = "
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: deny-external-by-default}
spec:
  endpointSelector:
    matchExpressions:
    - {key: io.kubernetes.pod.namespace, operator: NotIn, values: [kube-system, ingress-nginx]}
  egress:
  - toEntities: [cluster]
  - toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: kube-system}}]
    toPorts: [{ports: [{port: '53', protocol: UDP}]}]
";
    check(
        narrow,
        "production/backend > production/db TCP/5432 yes
         production/backend > production/frontend TCP/80 no
         production/backend > kube-system/dns UDP/53 no",
    );
    check(
        &format!("{narrow}\n---\n{wide}"),
        "production/backend > production/frontend TCP/80 yes
         production/backend > kube-system/dns UDP/53 yes
         production/backend > 8.8.8.8 TCP/443 no
         web/frontend > 8.8.8.8 TCP/443 no
         kube-system/dns > 8.8.8.8 TCP/443 yes",
    );
}

#[test]
fn an_empty_cluster_wide_policy_denies_everything() {
    check(
        "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: default-deny}, \
          spec: {endpointSelector: {}, ingress: [], egress: []}}",
        "production/frontend > production/backend TCP/80 no
         production/frontend > 8.8.8.8 TCP/443 no
         8.8.8.8 > production/frontend TCP/443 no
         production/frontend > production/frontend TCP/80 yes",
    );
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    check(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p, namespace: web}, \
          spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: \
          {'k8s:io.cilium.k8s.namespace.labels.stage': live}}]}]}}",
        "production/db > web/frontend TCP/80 yes
         kube-system/dns > web/frontend TCP/80 no",
    );
}

#[test]
fn what_would_become_a_plain_allow_allows_nothing() {
    let with = |clause: &str| {
        format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p, namespace: production}}, \
              spec: {{endpointSelector: {{}}, ingress: [{clause}]}}}}"
        )
    };
    let kafka =
        "{toPorts: [{ports: [{port: '9092', protocol: TCP}], rules: {kafka: [{role: produce, topic: a}]}}]}";
    let pruned = "{toPorts: [{ports: [{port: '9092', protocol: TCP}], rules: {}}]}";
    let namespaces = "{fromEndpoints: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}";
    let plain = "{toPorts: [{ports: [{port: '9092', protocol: TCP}]}]}";
    for (clause, passes) in [(kafka, false), (pruned, false), (plain, true)] {
        let expected = if passes { "yes" } else { "no" };
        check(&with(clause), &format!("web/frontend > production/backend TCP/9092 {expected}"));
    }
    check(&with(namespaces), "web/frontend > production/backend TCP/80 no");
    check(
        &with(
            "{fromEndpoints: [{matchLabels: {app: frontend}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]}",
        ),
        "web/frontend > production/backend TCP/80 yes
         production/frontend > production/backend TCP/80 no",
    );
}

#[test]
fn kinds_are_known_whatever_their_version() {
    let kind = |text: &str| documents::kind(&yaml::parse(text).unwrap()[0]).map(|kind| kind.name());
    assert_eq!(
        kind("{apiVersion: cilium.io/v1alpha1, kind: CiliumNetworkPolicy}"),
        Some("CiliumNetworkPolicy")
    );
    assert_eq!(kind("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy}"), Some("NetworkPolicy"));
    assert_eq!(kind("{apiVersion: cilium.io/v2, kind: CiliumEndpoint}"), None);
    assert_eq!(kind("{apiVersion: example.io/v2, kind: CiliumNetworkPolicy}"), None);
}
