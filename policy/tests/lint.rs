//! The traps that people fall into, each found in manifests as they write them.

use countersign_policy::lint::{Finding, Severity, lint};
use countersign_policy::verdicts::Manifests;
use countersign_policy::{Settings, yaml};

const PODS: &str = r"
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop, labels: {app: client}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: front, namespace: edge, labels: {app: front}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: spire, namespace: spire, labels: {app: spire-server}}}
---
";

fn findings(policies: &str) -> Vec<Finding> {
    let mut manifests = Manifests::new(Settings::default());
    for document in yaml::parse(&format!("{PODS}{policies}")).unwrap() {
        manifests.add(&document).unwrap_or_else(|error| panic!("{error}\n{policies}"));
    }
    lint(&manifests)
}

fn cnp(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}

fn checks(policies: &str) -> Vec<&'static str> {
    findings(policies).into_iter().map(|finding| finding.check).collect()
}

const DNS: &str = "{matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, k8s-app: kube-dns}}";

#[test]
fn every_trap_is_found_and_what_is_well_is_not() {
    let dns = |ports: &str| format!("{{toEndpoints: [{DNS}], toPorts: [{{ports: [{ports}]}}]}}");
    let both = dns("{port: '53', protocol: UDP}, {port: '53', protocol: TCP}");
    let udp = dns("{port: '53', protocol: UDP}");
    let web = "endpointSelector: {matchLabels: {app: web}}";
    let client = "fromEndpoints: [{matchLabels: {app: client}}]";
    let table: Vec<(String, Vec<&str>)> = vec![
        (cnp("shop", "a", &format!("{{{web}, ingress: [{{{client}}}], egress: [{both}]}}")), vec![]),
        (
            cnp(
                "shop",
                "a",
                &format!("{{{web}, ingress: [{{fromEndpoints: [{{matchLabels: {{app: front}}}}]}}]}}"),
            ),
            vec!["peer-namespace"],
        ),
        (
            cnp(
                "shop",
                "a",
                &format!("{{{web}, ingress: [{{fromEndpoints: [{{matchLabels: {{app: nobody}}}}]}}]}}"),
            ),
            vec!["selects-no-peer"],
        ),
        (
            cnp("shop", "a", "{endpointSelector: {matchLabels: {app: nobody}}, ingress: [{}]}"),
            vec!["selects-no-pod"],
        ),
        (
            cnp("shop", "a", &format!("{{{web}, egress: [{{toEntities: [world]}}]}}")),
            vec!["egress-without-dns"],
        ),
        (cnp("shop", "a", &format!("{{{web}, egress: [{udp}]}}")), vec!["dns-without-tcp"]),
        (
            cnp(
                "shop",
                "a",
                &format!("{{{web}, egress: [{both}, {{toFQDNs: [{{matchPattern: '*.example.com'}}]}}]}}"),
            ),
            vec!["missing-part", "wildcard-depth"],
        ),
        (
            cnp("shop", "a", &format!("{{{web}, ingress: [{{{client}}}]}}"))
                + &cnp("shop", "b", &format!("{{{web}, ingress: [{{fromEndpoints: [{{}}]}}]}}")),
            vec!["void"],
        ),
        (
            cnp("shop", "a", &format!("{{{web}, ingress: [{{{client}}}]}}"))
                + &cnp("shop", "b", &format!("{{{web}, ingressDeny: [{{{client}}}]}}")),
            vec!["void"],
        ),
        (cnp("kube-system", "a", "{endpointSelector: {}, ingress: [{}]}"), vec!["cuts-off-dns"]),
        (
            cnp(
                "kube-system",
                "a",
                "{endpointSelector: {}, ingress: [{fromEntities: [cluster]}], egress: [{}]}",
            ),
            vec!["cuts-off-api-server"],
        ),
        (
            cnp("spire", "a", "{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"),
            vec!["cuts-off-spire"],
        ),
        (
            cnp(
                "spire",
                "a",
                "{endpointSelector: {}, ingress: [{fromEntities: [host, remote-node]}, {fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': shop}}], authentication: {mode: required}}]}",
            ),
            vec!["proof-needs-itself"],
        ),
    ];
    for (policies, expected) in table {
        assert_eq!(checks(&policies), expected, "{policies}");
    }
}

#[test]
fn findings_say_where_and_what_to_do() {
    let policy = cnp(
        "shop",
        "a",
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: front}}]}]}",
    );
    let found = findings(&policy).remove(0);
    assert_eq!((found.severity, found.path.as_str()), (Severity::Warning, "spec.ingress[0]"));
    assert!(found.line.is_some() && found.message.contains("1 in edge"), "{found:?}");
    assert_eq!(found.fix, "add the label k8s:io.kubernetes.pod.namespace: edge");
    let void = cnp(
        "shop",
        "a",
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]}",
    ) + &cnp(
        "shop",
        "b",
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{}]}]}",
    );
    let found = findings(&void).remove(0);
    assert!(found.policy.name == "a" && found.message.contains("shop/b spec.ingress[0]"), "{found:?}");
}

/// The tutorials' own manifests: what each is known to get wrong is found.
#[test]
fn the_defects_of_the_walkthroughs() {
    let dns = cnp(
        "shop",
        "allow-dns",
        "{endpointSelector: {}, egress: [{toEndpoints: [{matchLabels: {k8s-app: kube-dns}}], toPorts: [{ports: [{port: '53', protocol: UDP}, {port: '53', protocol: TCP}]}]}]}",
    );
    assert_eq!(checks(&dns), ["egress-without-dns", "peer-namespace"]);
    let kafka = cnp(
        "shop",
        "kafka",
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '9092', protocol: TCP}], rules: {kafka: [{role: produce, topic: a}]}}]}]}",
    );
    assert_eq!(checks(&kafka), ["missing-part"]);
    let old = "---\n{apiVersion: cilium.io/v1alpha1, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: shop}, spec: {endpointSelector: {}, ingress: []}}\n";
    assert_eq!(checks(old), ["remark", "remark"]);
}
