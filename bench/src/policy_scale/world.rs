//! A cluster of namespaces with a hundred applications each, and a policy for every one of them.

use anyhow::{Result, anyhow};
use countersign_policy::identity::{FIRST_CIDR, cidr_labels, pod_labels};
use countersign_policy::labels::Labels;
use countersign_policy::objects::{Namespace, Pod};
use countersign_policy::yaml::Document;
use countersign_policy::{Policy, Repository, Settings, parse};
use serde_json::{Value, json};

/// Applications of a namespace.
const APPS: u32 = 100;
/// The number of the first identity.
const FIRST: u32 = 1_000;

/// Sizes of the cluster.
pub struct World {
    /// Policies.
    pub policies: u32,
    /// Identities.
    pub identities: u32,
}

impl World {
    /// Every identity: its number and labels, ten of them.
    pub fn labels(&self) -> impl Iterator<Item = (u32, Labels)> {
        (0..self.identities).map(|index| (FIRST + index, labels(index, "stable")))
    }

    /// The identity of an endpoint here: they are spread over the cluster.
    pub fn endpoint(&self, index: u32, of: u32) -> u32 {
        FIRST + index * (self.identities / of.max(1)).max(1)
    }

    /// An identity that is not there yet: another version of an application.
    pub fn newcomer(&self, trial: u32) -> (u32, Labels) {
        let like = trial.wrapping_mul(7_919) % self.identities;
        (FIRST + self.identities + trial, labels(like, "canary"))
    }

    /// A policy for every application: three of its namespace and one of the next may come in, and it may go to
    /// two others, to DNS and to a range outside.
    pub fn policies(&self) -> Result<Vec<Policy>> {
        (0..self.policies).map(|index| policy(&format!("p{index}"), index % self.identities)).collect()
    }

    /// One more policy, for an application with an endpoint here.
    pub fn one_more(&self, trial: u32, endpoints: u32) -> Result<Policy> {
        let index = self.endpoint(trial % endpoints, endpoints) - FIRST;
        policy(&format!("more{trial}"), index)
    }
}

fn namespace(index: u32) -> String {
    format!("team-{}", index / APPS)
}

fn app(index: u32) -> String {
    format!("app-{}", index % APPS)
}

fn labels(index: u32, track: &str) -> Labels {
    let text = |key: &str, value: String| (key.to_owned(), value);
    let labels = [
        text("app", app(index)),
        text("track", track.to_owned()),
        text("tier", format!("tier-{}", index % 4)),
        text("app.kubernetes.io/part-of", format!("product-{}", index % 20)),
        text("app.kubernetes.io/version", "1.2.3".to_owned()),
    ];
    let pod = Pod {
        namespace: namespace(index),
        labels: labels.into(),
        service_account: app(index),
        ..Pod::default()
    };
    let team = text("team", namespace(index));
    let name = text("kubernetes.io/metadata.name", namespace(index));
    let namespace =
        Namespace { name: pod.namespace.clone(), labels: [team, name].into(), ..Namespace::default() };
    pod_labels(&pod, Some(&namespace), "default")
}

fn policy(name: &str, index: u32) -> Result<Policy> {
    let peer = |offset: u32| json!({"matchLabels": {"app": format!("app-{}", (index + offset) % APPS)}});
    let next = json!({"matchLabels": {
        "app": app(index),
        "k8s:io.kubernetes.pod.namespace": format!("team-{}", index / APPS + 1),
    }});
    let ports = |list: &[(u16, &str)]| {
        let ports: Vec<Value> = list
            .iter()
            .map(|(port, protocol)| json!({"port": port.to_string(), "protocol": protocol}))
            .collect();
        json!([{ "ports": ports }])
    };
    let dns = json!({"matchLabels": {
        "k8s-app": "kube-dns", "k8s:io.kubernetes.pod.namespace": "kube-system",
    }});
    let range = format!("10.{}.{}.0/24", index / 256 % 64, index % 256);
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": app(index)}},
        "ingress": [
            {"fromEndpoints": [peer(1), peer(2), peer(3)], "toPorts": ports(&[(8080, "TCP"), (9090, "TCP")])},
            {"fromEndpoints": [next], "toPorts": ports(&[(8443, "TCP")]), "authentication": {"mode": "required"}},
        ],
        "egress": [
            {"toEndpoints": [peer(4), peer(5)], "toPorts": ports(&[(5432, "TCP")])},
            {"toEndpoints": [dns], "toPorts": ports(&[(53, "UDP"), (53, "TCP")])},
            {"toCIDR": [range], "toPorts": [{"ports": [{"port": "1024", "endPort": 2047, "protocol": "TCP"}]}]},
        ],
    });
    read(name, &namespace(index), &spec)
}

fn read(name: &str, namespace: &str, spec: &Value) -> Result<Policy> {
    let document = Document::from_value(json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    }));
    parse(&document, &Settings::default()).map_err(|error| anyhow!("{error}"))
}

/// Every pod of the cluster may reach the first application at one port.
pub fn wide(index: u32) -> Result<Policy> {
    let anybody =
        json!({"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}]});
    let port = json!([{"ports": [{"port": (8000 + index).to_string(), "protocol": "TCP"}]}]);
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "app-0"}},
        "ingress": [{"fromEndpoints": [anybody], "toPorts": port}],
    });
    read(&format!("wide{index}"), "team-0", &spec)
}

/// One application may reach the first at this port.
pub fn narrow(port: u16) -> Result<Policy> {
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "app-0"}},
        "ingress": [{
            "fromEndpoints": [{"matchLabels": {"app": "app-7"}}],
            "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}],
        }],
    });
    read("narrow", "team-0", &spec)
}

/// Gives every range that policies mention its identity.
pub fn number_ranges(repository: &mut Repository) {
    for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
        repository.upsert_identity(number, cidr_labels(net));
    }
}
