//! Labels, selectors and the numbers of identities.

use std::collections::BTreeMap;

use countersign_policy::identity::{
    END_POD, FIRST_POD, candidates, cidr_labels, identity_number, is_pod, pod_labels, reserved,
    reserved_labels, reserved_name,
};
use countersign_policy::labels::{Labels, Source};
use countersign_policy::objects::{Namespace, Pod};
use countersign_policy::selector::{Operator, PodRange, Requirement, Selector};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod(labels: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        labels: map(labels),
        ..Pod::default()
    }
}

fn shop() -> Namespace {
    Namespace {
        name: "shop".to_owned(),
        labels: map(&[("env", "prod"), ("kubernetes.io/metadata.name", "shop")]),
        annotations: map(&[]),
    }
}

#[test]
fn a_pod_is_what_it_is_and_where_it_is() {
    let labels = pod_labels(&pod(&[("app", "web")]), Some(&shop()), "east");
    assert_eq!(
        labels.to_strings(),
        [
            "k8s:app=web",
            "k8s:io.cilium.k8s.namespace.labels.env=prod",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
            "k8s:io.cilium.k8s.policy.cluster=east",
            "k8s:io.cilium.k8s.policy.serviceaccount=web",
            "k8s:io.kubernetes.pod.namespace=shop",
        ]
    );
    assert_eq!(labels.namespace(), Some("shop"));
    let unknown = pod_labels(&pod(&[]), None, "east");
    assert_eq!(
        unknown.get(Source::K8s, "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"),
        Some("shop")
    );
}

#[test]
fn labels_that_mean_nothing_are_left_out() {
    let noise = [
        ("pod-template-hash", "x"),
        ("controller-revision-hash", "x"),
        ("statefulset.kubernetes.io/pod-name", "web-0"),
        ("apps.kubernetes.io/pod-index", "0"),
        ("batch.kubernetes.io/job-completion-index", "0"),
        ("topology.kubernetes.io/zone", "a"),
        ("kubernetes.io/os", "linux"),
        ("k8s.io/x", "y"),
        ("failure-domain.beta.kubernetes.io/zone", "a"),
        ("io.kubernetes.x", "y"),
    ];
    assert_eq!(pod_labels(&pod(&noise), None, "c"), pod_labels(&pod(&[]), None, "c"));
    let kept = pod_labels(&pod(&[("app.kubernetes.io/name", "web")]), None, "c");
    assert_eq!(kept.get(Source::K8s, "app.kubernetes.io/name"), Some("web"));
}

/// GHSA-pfhr-pccp-hwmh, and its twin on updates (CVE-2023-39347): the same function makes both.
#[test]
fn pods_cannot_forge_what_the_agent_says() {
    let forged = [
        ("io.kubernetes.pod.namespace", "kube-system"),
        ("io.cilium.k8s.namespace.labels.env", "dev"),
        ("io.cilium.k8s.namespace.labels.extra", "x"),
        ("io.cilium.k8s.policy.serviceaccount", "admin"),
        ("io.cilium.k8s.policy.cluster", "west"),
        ("io.cilium.k8s.anything", "x"),
    ];
    assert_eq!(pod_labels(&pod(&forged), Some(&shop()), "c"), pod_labels(&pod(&[]), Some(&shop()), "c"));
}

#[test]
fn numbers_are_in_range_stable_and_tried_once_each() {
    let labels = pod_labels(&pod(&[("app", "web")]), Some(&shop()), "east");
    let number = identity_number(&labels);
    assert!(is_pod(number));
    assert_eq!(
        number, 6_271_915,
        "every node must come to the same number; changing it changes the cluster's"
    );
    let tried: Vec<u32> = candidates(&labels).take(3).collect();
    assert_eq!(tried, [number, number + 1, number + 2]);
    assert_eq!(candidates(&labels).count(), usize::try_from(END_POD - FIRST_POD).unwrap());
    assert_eq!(candidates(&labels).last(), Some(number - 1));
    let other = pod_labels(&pod(&[("app", "db")]), Some(&shop()), "east");
    assert_ne!(number, identity_number(&other));
}

#[test]
fn the_canonical_text_does_not_depend_on_the_order_of_arrival() {
    let (mut one, mut other) = (Labels::new(), Labels::new());
    for (labels, order) in [(&mut one, [0, 1, 2]), (&mut other, [2, 1, 0])] {
        for index in order {
            let (source, key) = [(Source::K8s, "b"), (Source::Reserved, "a"), (Source::K8s, "a")][index];
            labels.insert(source, key, "v");
        }
    }
    assert_eq!(one, other);
    assert_eq!(one.canonical(), "k8s:a=v\nreserved:a=v\nk8s:b=v\n");
    one.insert(Source::K8s, "a", "w");
    assert_eq!(one.get(Source::K8s, "a"), Some("w"));
    assert_eq!(one.iter().count(), 3);
}

#[test]
fn reserved_identities() {
    let labels = reserved_labels();
    assert_eq!(labels.len(), 8);
    assert!(labels[&reserved::KUBE_APISERVER].is_reserved("remote-node"));
    assert_eq!(reserved_name(reserved::WORLD), Some("world"));
    assert_eq!(reserved_name(4711), None);
    assert!(!is_pod(reserved::HOST) && !is_pod(0x0100_0001));
    let cidr = cidr_labels("10.1.2.3/8".parse().unwrap());
    assert_eq!(cidr.to_strings(), ["cidr:10.0.0.0/8", "reserved:world"]);
}

#[test]
fn requirements_hold_as_kubernetes_says() {
    let labels: Labels = [(Source::K8s, "app", "web"), (Source::Reserved, "app", "x")]
        .map(|(source, key, value)| (source, key.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let check = |source, key: &str, operator| {
        Selector::labels(vec![Requirement { key: key.to_owned(), source, operator }]).matches(&labels)
    };
    let values = |list: &[&str]| list.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let k8s = Some(Source::K8s);
    let table = [
        (check(k8s, "app", Operator::In(values(&["web", "db"]))), true),
        (check(k8s, "app", Operator::In(values(&["x"]))), false),
        (check(None, "app", Operator::In(values(&["x"]))), true),
        (check(k8s, "app", Operator::NotIn(values(&["web"]))), false),
        (check(k8s, "none", Operator::NotIn(values(&["web"]))), true),
        (check(None, "app", Operator::NotIn(values(&["x"]))), false),
        (check(k8s, "app", Operator::Exists), true),
        (check(Some(Source::Cidr), "app", Operator::Exists), false),
        (check(k8s, "none", Operator::DoesNotExist), true),
        (check(k8s, "ap", Operator::Exists), false),
    ];
    for (index, (found, expected)) in table.into_iter().enumerate() {
        assert_eq!(found, expected, "row {index}");
    }
    assert!(Selector::labels(Vec::new()).matches(&Labels::new()));
}

#[test]
fn ranges_choose_what_is_inside() {
    let cidr = |net: &str, except: &[&str], pods| Selector::Cidr {
        net: net.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
        pods,
    };
    let inside = cidr_labels("10.1.0.0/16".parse().unwrap());
    assert!(cidr("10.0.0.0/8", &[], PodRange::None).matches(&inside));
    assert!(cidr("10.1.0.0/16", &[], PodRange::None).matches(&inside));
    assert!(
        !cidr("10.1.2.0/24", &[], PodRange::None).matches(&inside),
        "narrower ranges have identities of their own"
    );
    assert!(!cidr("10.0.0.0/8", &["10.1.0.0/16"], PodRange::None).matches(&inside));
    assert!(cidr("10.0.0.0/8", &["10.1.2.0/24"], PodRange::None).matches(&inside));
    assert!(!cidr("::/0", &[], PodRange::None).matches(&inside));
    let pods = [["10.1.0.1".parse().unwrap()].into(), ["10.2.0.1".parse().unwrap()].into()];
    let table = [
        ("10.0.0.0/8", PodRange::None, false),
        ("10.0.0.0/8", PodRange::Whole, true),
        ("10.1.0.0/16", PodRange::Whole, false),
        ("10.1.0.0/16", PodRange::Part, true),
        ("10.3.0.0/16", PodRange::Part, false),
    ];
    for (net, meant, expected) in table {
        assert_eq!(cidr(net, &[], meant).matches_addresses(&pods), expected, "{net} {meant:?}");
    }
    assert!(!cidr("10.0.0.0/8", &[], PodRange::Whole).matches_addresses(&[]), "nobody is nowhere");
}
