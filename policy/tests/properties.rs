//! What must hold whatever is written: scope, emptiness, addresses, and that nothing panics.

use std::net::IpAddr;

use countersign_policy::identity::{FIRST_CIDR, cidr_labels, identity_number, is_pod, pod_labels, reserved};
use countersign_policy::labels::Labels;
use countersign_policy::model::Direction;
use countersign_policy::objects::{Namespace, Node, Pod};
use countersign_policy::verdicts::{Manifests, World};
use countersign_policy::yaml::{Document, parse as yaml};
use countersign_policy::{Policy, Repository, Settings, parse};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn policy(value: Value) -> Option<Policy> {
    parse(&Document::from_value(value), &Settings::default()).ok()
}

fn cnp(namespace: &str, spec: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": namespace}, "spec": spec})
}

fn pod_in(namespace: &str, labels: &[(String, String)]) -> Labels {
    let pod =
        Pod { namespace: namespace.to_owned(), labels: labels.iter().cloned().collect(), ..Pod::default() };
    pod_labels(&pod, None, "default")
}

/// Keys an attacker would try.
fn key() -> impl Strategy<Value = String> {
    let sources = ["", "k8s:", "any:", "reserved:", "any.", "k8s.", "k8s:k8s:"];
    let keys = [
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
        "io.cilium.k8s.policy.cluster",
        "io.cilium.k8s.policy.serviceaccount",
        "app",
        "host",
        "",
    ];
    (select(sources.to_vec()), select(keys.to_vec())).prop_map(|(source, key)| format!("{source}{key}"))
}

fn selector() -> impl Strategy<Value = Value> {
    let value = select(&["victim", "own", "default", "web", ""][..]);
    let labels = prop::collection::btree_map(key(), value.clone(), 0..3);
    let valued = (key(), select(&["In", "NotIn"][..]), prop::collection::vec(value, 1..3))
        .prop_map(|(key, operator, values)| json!({"key": key, "operator": operator, "values": values}));
    let bare =
        (key(), select(&["Exists", "DoesNotExist"][..])).prop_map(|(k, o)| json!({"key": k, "operator": o}));
    let expressions = prop::collection::vec(prop_oneof![valued, bare], 0..3);
    (labels, expressions).prop_map(|(labels, list)| json!({"matchLabels": labels, "matchExpressions": list}))
}

fn pod_label() -> impl Strategy<Value = (String, String)> {
    let keys = [
        "app",
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.policy.cluster",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
        "host",
        "world",
    ];
    (select(keys.to_vec()), select(&["web", "own", "victim", ""][..]))
        .prop_map(|(k, v)| (k.to_owned(), v.to_owned()))
}

proptest! {
    /// CVE-2023-41333: no selector gets a namespaced policy out of its namespace.
    #[test]
    fn a_namespaced_policy_never_has_subjects_elsewhere(
        selector in selector(),
        labels in prop::collection::vec(pod_label(), 0..4),
    ) {
        let spec = json!({"endpointSelector": selector, "ingress": [{}], "egress": [{}]});
        let Some(policy) = policy(cnp("own", &spec)) else { return Ok(()) };
        let mut repository = Repository::new();
        repository.upsert_identity(1000, pod_in("victim", &labels));
        let affected = repository.upsert_policy(policy);
        prop_assert!(affected.is_empty(), "{:?}", affected);
        prop_assert!(!repository.resolve(1000, 1).ingress_enforced);
    }

    /// Where a peer selector names no namespace and nothing reserved, only pods of the policy's own are chosen.
    #[test]
    fn peers_without_a_namespace_are_at_home(
        app in "[a-z]{1,5}",
        labels in prop::collection::vec(pod_label(), 0..4),
    ) {
        let spec = json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchExpressions": [
            {"key": "app", "operator": "NotIn", "values": [app]},
            {"key": "any:host", "operator": "DoesNotExist"},
        ]}]}]});
        let mut repository = Repository::new();
        repository.upsert_identity(1000, pod_in("own", &[]));
        repository.upsert_identity(1001, pod_in("victim", &labels));
        repository.upsert_policy(policy(cnp("own", &spec)).unwrap());
        let endpoint = repository.resolve(1000, 1);
        for peer in [1001, reserved::WORLD, reserved::REMOTE_NODE, reserved::UNMANAGED, reserved::UNKNOWN] {
            prop_assert!(!endpoint.lookup(Direction::Ingress, peer, 6, 80).allow, "{}", peer);
        }
    }

    /// GHSA-pfhr-pccp-hwmh: whatever labels a pod has, where it is does not change.
    #[test]
    fn no_label_moves_a_pod(labels in prop::collection::vec(pod_label(), 0..6)) {
        let found = pod_in("own", &labels);
        let place = |labels: &Labels| {
            let from_agent = |l: &&countersign_policy::labels::Label| l.key.starts_with("io.");
            labels.iter().filter(from_agent).cloned().collect::<Vec<_>>()
        };
        prop_assert_eq!(place(&found), place(&pod_in("own", &[])));
        prop_assert!(found.iter().all(|label| label.source == countersign_policy::labels::Source::K8s));
        prop_assert!(is_pod(identity_number(&found)));
    }

    /// CVE-2025-64715: a list that is there and empty is never taken for one that is not there.
    #[test]
    fn empty_lists_choose_nobody(
        field in select(&["fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet"][..]),
        ports in any::<bool>(),
        as_text in any::<bool>(),
    ) {
        let mut clause = json!({ field: [] });
        if ports {
            clause["toPorts"] = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
        }
        let value = cnp("own", &json!({"endpointSelector": {}, "ingress": [clause]}));
        let document = if as_text { yaml(&value.to_string()).unwrap().remove(0) } else { Document::from_value(value) };
        let mut repository = Repository::new();
        repository.upsert_identity(1000, pod_in("own", &[]));
        repository.upsert_policy(parse(&document, &Settings::default()).unwrap());
        let endpoint = repository.resolve(1000, 1);
        for peer in [1000, reserved::WORLD, reserved::UNKNOWN] {
            prop_assert!(!endpoint.lookup(Direction::Ingress, peer, 6, 80).allow, "{}", peer);
        }
    }

    /// Rules about addresses mean addresses: the identity of the narrowest range says the same as the address.
    #[test]
    fn ranges_decide_as_their_addresses(
        rules in prop::collection::vec(range_rule(), 1..6),
        addresses in prop::collection::vec(address(), 1..20),
    ) {
        let clause = |rule: &RangeRule| match rule.except.is_empty() {
            true => json!({"toCIDR": [rule.net.to_string()]}),
            false => json!({"toCIDRSet": [{"cidr": rule.net.to_string(), "except": rule.except}]}),
        };
        let list = |deny: bool| rules.iter().filter(|rule| rule.deny == deny).map(clause).collect::<Vec<_>>();
        let spec = json!({"endpointSelector": {}, "egress": list(false), "egressDeny": list(true)});
        let mut repository = Repository::new();
        repository.upsert_identity(1000, pod_in("own", &[]));
        repository.upsert_policy(policy(cnp("own", &spec)).unwrap());
        let ranges: Vec<(u32, IpNet)> = (FIRST_CIDR..).zip(repository.cidrs()).collect();
        for (number, net) in &ranges {
            repository.upsert_identity(*number, cidr_labels(*net));
        }
        let endpoint = repository.resolve(1000, 1);
        for address in addresses {
            let around = ranges.iter().filter(|(_, net)| net.contains(&address));
            let identity = around.max_by_key(|(_, net)| net.prefix_len()).map_or(reserved::WORLD, |(number, _)| *number);
            let hit = |deny: bool| rules.iter().any(|rule| rule.deny == deny && rule.means(address));
            let got = endpoint.lookup(Direction::Egress, identity, 6, 443);
            prop_assert_eq!(got.allow, hit(false) && !hit(true), "{} {:?}", address, rules);
            prop_assert_eq!(got.deny_rule, hit(true), "{} {:?}", address, rules);
        }
    }

    /// What is not said to change does not change, through any history of identities.
    #[test]
    fn only_what_is_named_changes(steps in prop::collection::vec((0_u32..6, 0_usize..4, any::<bool>()), 1..25)) {
        let mut repository = Repository::new();
        let clause = json!([{"fromEndpoints": [{"matchLabels": {"app": "a"}}, {"matchExpressions": [
            {"key": "k8s:io.kubernetes.pod.namespace", "operator": "In", "values": ["two"]},
            {"key": "app", "operator": "NotIn", "values": ["b"]},
        ]}]}]);
        let spec = json!({"endpointSelector": {"matchLabels": {"app": "c"}}, "ingress": clause});
        repository.upsert_policy(policy(cnp("one", &spec)).unwrap());
        let numbers: Vec<u32> = (1000..1006).collect();
        let mut before: Vec<_> = numbers.iter().map(|number| repository.resolve(*number, 1)).collect();
        for (which, app, there) in steps {
            let number = 1000 + which;
            let namespace = if which % 2 == 0 { "one" } else { "two" };
            let touched = if there {
                let label = ("app".to_owned(), ["a", "b", "c", "d"][app].to_owned());
                repository.upsert_identity(number, pod_in(namespace, &[label]))
            } else {
                repository.remove_identity(number)
            };
            let after: Vec<_> = numbers.iter().map(|number| repository.resolve(*number, 1)).collect();
            for ((number, old), new) in numbers.iter().zip(&before).zip(&after) {
                prop_assert!(touched.identities().contains(number) || old == new, "{} changed without being named", number);
            }
            before = after;
        }
    }

    /// Objects and flows of any shape are refused or read, and nothing panics.
    #[test]
    fn objects_and_flows_do_not_panic(text in "[ -~\n]{0,200}", kind in select(&["Pod", "Node", "Namespace"][..])) {
        let wrapped = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "labels": text}, "spec": text});
        let document = Document::from_value(wrapped);
        let _ = (Pod::from_document(&document), Node::from_document(&document), Namespace::from_document(&document));
        let mut world = World::new(Manifests::new(Settings::default()));
        let answer: Value = serde_json::from_str(&world.annotate(&text)).unwrap();
        prop_assert!(answer["error"].is_string());
        let _ = world.annotate(&json!({"from": text, "to": text, "protocol": text}).to_string());
    }
}

#[derive(Clone, Debug)]
struct RangeRule {
    net: IpNet,
    except: Vec<IpNet>,
    deny: bool,
}

impl RangeRule {
    fn means(&self, address: IpAddr) -> bool {
        self.net.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

/// Addresses of two small worlds, so that ranges and addresses meet.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|low| IpAddr::from([10, 0, 0, low])),
        any::<u8>().prop_map(|low| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(low)])),
        Just(IpAddr::from([192, 0, 2, 1])),
    ]
}

fn net(address: IpAddr, free: u8) -> IpNet {
    let whole = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, whole - free).unwrap().trunc()
}

fn range_rule() -> impl Strategy<Value = RangeRule> {
    let except = prop::collection::vec((any::<u8>(), 0_u8..8), 0..3);
    (address(), 0_u8..=9, except, any::<bool>()).prop_map(|(address, free, except, deny)| {
        let whole = net(address, free);
        let inside = |(low, free): (u8, u8)| {
            let address = match address {
                IpAddr::V4(v4) => IpAddr::from([v4.octets()[0], v4.octets()[1], v4.octets()[2], low]),
                IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(low)]),
            };
            net(address, free)
        };
        let except = except.into_iter().map(inside).filter(|part| whole.contains(part)).collect();
        RangeRule { net: whole, except, deny }
    })
}
