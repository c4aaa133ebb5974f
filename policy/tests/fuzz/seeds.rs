//! What mutation starts from: every kind of document, as people write them and as programs do.

use std::io::{BufRead as _, BufReader};
use std::sync::OnceLock;

use countersign_policy::yaml::{self, Document};
use flate2::read::GzDecoder;
use serde_json::Value;

const POLICIES: &str = include_str!("../data/policies.yaml");
const CONFORMANCE: &[u8] = include_bytes!("../data/networkpolicy-verdicts.jsonl.gz");
/// One in so many of the conformance suite's policies.
const SHARE: usize = 16;

/// Objects that are no policies, and policies of kinds and fields that the files above lack.
const OBJECTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {a/b: c}}, spec: {nodeName: n1, hostNetwork: false, serviceAccountName: web, securityContext: {supplementalGroups: [1, 2]}, containers: [{name: c, command: [a], args: [b], env: [{name: A, value: b}], ports: [{name: http, containerPort: 80, protocol: TCP}]}]}, status: {phase: Running, podIP: 10.1.2.3, podIPs: [{ip: 10.1.2.3}, {ip: "fd00::1"}], hostIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {env: prod}, annotations: {policy.countersign.dev/mode: audit}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {role: edge}}, spec: {podCIDR: 10.1.0.0/16, podCIDRs: [10.1.0.0/16, "fd00::/64"]}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
---
{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: partners, labels: {team: x}}, spec: {externalCIDRs: [192.0.2.0/24, "2001:db8::/32"]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: t}, spec: {tier: Admin, priority: 7, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}, ingress: [{name: a, action: Deny, from: [{namespaces: {matchLabels: {env: dev}}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}]}], egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}, {nodes: {}}]}]}}
---
{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: all, namespace: shop}, specs: [{endpointSelector: {matchExpressions: [{key: app, operator: In, values: [a, b]}, {key: x, operator: DoesNotExist}]}, description: d, labels: [{key: k, value: v, source: s}], ingressDeny: [{fromCIDR: [10.0.0.0/8], icmps: [{fields: [{type: 8}]}]}], egress: [{toServices: [{k8sService: {serviceName: s, namespace: n}}]}, {toEntities: [world], toPorts: [{ports: [{port: "9092"}], rules: {kafka: [{topic: t, apiKey: produce}]}}]}, {toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}, serverNames: [a.example]}]}], egressDeny: [{toNodes: [{matchLabels: {role: edge}}]}]}]}
"#;

/// The pods that every text is compiled with.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a, env: prod}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {ns: x}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p1, namespace: shop, labels: {app: web}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}, status: {podIP: 10.1.2.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p2, namespace: x, labels: {pod: a, app: a}}, status: {podIP: 192.168.1.1}}
"#;

/// A cluster for policies to be about.
pub fn cluster() -> &'static [Document] {
    static READ: OnceLock<Vec<Document>> = OnceLock::new();
    READ.get_or_init(|| yaml::parse(CLUSTER).expect("the cluster is YAML"))
}

/// Every seed, as text.
pub fn texts() -> Vec<String> {
    let written = POLICIES.split("\n---\n").chain(OBJECTS.split("\n---\n")).map(str::to_owned);
    let suite = BufReader::new(GzDecoder::new(CONFORMANCE)).lines().step_by(SHARE);
    let suite = suite.flat_map(|line| {
        let step: Value = serde_json::from_str(&line.expect("the suite is text")).expect("the suite is JSON");
        let policies = step["Policies"].as_array().cloned().unwrap_or_default();
        policies.into_iter().map(|mut policy| {
            policy["apiVersion"] = "networking.k8s.io/v1".into();
            policy["kind"] = "NetworkPolicy".into();
            policy.to_string()
        })
    });
    written.chain(suite).collect()
}
