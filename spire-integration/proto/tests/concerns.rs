//! Which identities are concerned, against the policy maps themselves.

use std::collections::BTreeMap;

use countersign_policy::identity::security_labels;
use countersign_policy::labels::Labels;
use countersign_policy::objects::Pod;
use countersign_policy::yaml::Document;
use countersign_policy::{Policy, Repository, Settings, parse};
use countersign_spire_proto::Concern;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn labels(namespace: &str, app: &str) -> Labels {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let pod = Pod { namespace: namespace.to_owned(), labels, ..Pod::default() };
    security_labels(&pod, None, "default")
}

fn cluster() -> Vec<(u32, Labels)> {
    let pods = ["n", "m"].into_iter().flat_map(|namespace| ["x", "y", "z"].map(|app| (namespace, app)));
    (1000..).zip(pods).map(|(number, (namespace, app))| (number, labels(namespace, app))).collect()
}

fn policy(name: &str, namespace: &str, spec: &Value) -> Option<Policy> {
    let metadata = json!({"name": name, "namespace": namespace});
    let document = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec});
    parse(&Document::from_value(document), &Settings::default()).ok()
}

fn selector() -> impl Strategy<Value = Value> {
    let app = select(vec!["x", "y", "z"]);
    let outside = app
        .clone()
        .prop_map(|app| json!({"matchLabels": {"k8s:app": app, "k8s:io.kubernetes.pod.namespace": "m"}}));
    let not = app
        .clone()
        .prop_map(|app| json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [app]}]}));
    prop_oneof![
        4 => app.prop_map(|app| json!({"matchLabels": {"app": app}})),
        2 => outside,
        1 => not,
        1 => Just(json!({})),
    ]
}

fn clause(peers: &'static str) -> impl Strategy<Value = Value> {
    let mode = select(vec!["", "required", "required", "disabled", "test-always-fail"]);
    let ports = select(vec![Value::Null, json!([{"ports": [{"port": "80", "protocol": "TCP"}]}])]);
    let of = prop::option::weighted(0.9, prop::collection::vec(selector(), 0..3));
    (mode, ports, of).prop_map(move |(mode, ports, of)| {
        let mut clause = json!({});
        if let Some(of) = of {
            clause[peers] = Value::Array(of);
        }
        if !mode.is_empty() {
            clause["authentication"] = json!({"mode": mode});
        }
        if !ports.is_null() {
            clause["toPorts"] = ports;
        }
        clause
    })
}

fn spec() -> impl Strategy<Value = Value> {
    let ingress = prop::collection::vec(clause("fromEndpoints"), 0..3);
    let egress = prop::collection::vec(clause("toEndpoints"), 0..3);
    (selector(), ingress, egress).prop_map(|(subject, ingress, egress)| {
        json!({"endpointSelector": subject, "ingress": ingress, "egress": egress})
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_whom_the_maps_name_is_left_out(
        specs in prop::collection::vec((select(vec!["n", "m"]), spec()), 1..4)
    ) {
        let mut repository = Repository::new();
        let mut concern = Concern::new();
        for (number, labels) in cluster() {
            repository.upsert_identity(number, labels);
        }
        for (index, (namespace, spec)) in specs.iter().enumerate() {
            let Some(policy) = policy(&format!("p{index}"), namespace, spec) else { continue };
            concern.upsert(&policy);
            repository.upsert_policy(policy);
        }
        for (number, labels) in cluster() {
            for peer in repository.required_pairs(number) {
                prop_assert!(concern.concerns(&labels), "{} has to show an SVID to {}", number, peer);
                // 0 in a key is every peer.
                let peers = cluster().into_iter().filter(|(other, _)| peer == 0 || *other == peer);
                for (peer, labels) in peers {
                    prop_assert!(concern.concerns(&labels), "{} has to show an SVID to {}", peer, number);
                }
            }
        }
    }
}

#[test]
fn who_is_not_asked_has_no_part_in_it() {
    let spec = json!({
        "endpointSelector": {"matchLabels": {"app": "x"}},
        "ingress": [
            {"fromEndpoints": [{"matchLabels": {"app": "y"}}], "authentication": {"mode": "required"}},
            {"fromEndpoints": [{"matchLabels": {"app": "z"}}]},
        ],
    });
    let mut concern = Concern::new();
    let policy = policy("p", "n", &spec).unwrap();
    assert!(concern.upsert(&policy));
    assert!(!concern.upsert(&policy), "the same again changes nothing");
    let concerned: Vec<bool> = cluster().iter().map(|(_, labels)| concern.concerns(labels)).collect();
    assert_eq!(concerned, [true, true, false, false, false, false]);
    assert!(concern.remove(&policy.id));
    assert!(!concern.remove(&policy.id));
    assert!(cluster().iter().all(|(_, labels)| !concern.concerns(labels)));
}

#[test]
fn a_policy_that_stops_asking_is_forgotten() {
    let asking = |mode: &str| {
        policy("p", "n", &json!({
            "endpointSelector": {"matchLabels": {"app": "x"}},
            "egress": [{"toEndpoints": [{"matchLabels": {"app": "y"}}], "authentication": {"mode": mode}}],
        }))
        .unwrap()
    };
    let mut concern = Concern::new();
    assert!(!concern.upsert(&asking("disabled")));
    assert!(concern.upsert(&asking("required")));
    assert!(concern.upsert(&asking("disabled")));
    assert!(!concern.concerns(&labels("n", "x")));
}

#[test]
fn unregistered_pods_are_others() {
    let mut pod = Pod { namespace: "n".to_owned(), ..Pod::default() };
    assert!(countersign_policy::identity::may_have_svid(&pod));
    let before = security_labels(&pod, None, "default");
    pod.annotations.insert("countersign.dev/svid".to_owned(), "none".to_owned());
    assert!(!countersign_policy::identity::may_have_svid(&pod));
    assert_ne!(security_labels(&pod, None, "default"), before, "an identity of their own");
}
