//! Which flows a filter selects.

mod common;

use common::flow;
use countersign_flows::limits::MAX_FILTER_VALUES;
use countersign_flows::{Filter, FilterError, FilterSpec};

type Set = fn(&mut FilterSpec, &[&str]);

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

const NAMESPACE: Set = |spec, v| spec.namespace = strings(v);
const POD: Set = |spec, v| spec.pod = strings(v);
const FROM: Set = |spec, v| spec.from_pod = strings(v);
const TO: Set = |spec, v| spec.to_pod = strings(v);
const IDENTITY: Set = |spec, v| spec.identity = v.iter().filter_map(|v| v.parse().ok()).collect();
const VERDICT: Set = |spec, v| spec.verdict = strings(v);
const REASON: Set = |spec, v| spec.drop_reason = strings(v);
const PROTOCOL: Set = |spec, v| spec.protocol = strings(v);
const PORT: Set = |spec, v| spec.port = v.iter().filter_map(|v| v.parse().ok()).collect();
const IP: Set = |spec, v| spec.ip = v.iter().filter_map(|v| v.parse().ok()).collect();
const POLICY: Set = |spec, v| spec.policy = strings(v);
const DIRECTION: Set = |spec, v| spec.direction = v.first().map(ToString::to_string);

#[test]
fn each_field() {
    let flow = flow(1, 80);
    let table: &[(&str, Set, &[&str], bool)] = &[
        ("namespace of the source", NAMESPACE, &["default"], true),
        ("namespace of the destination", NAMESPACE, &["shop"], true),
        ("a namespace is no prefix", NAMESPACE, &["sho"], false),
        ("one of two namespaces", NAMESPACE, &["other", "shop"], true),
        ("a pod by prefix", POD, &["serv"], true),
        ("a pod by prefix in its namespace", POD, &["shop/serv"], true),
        ("a pod in another's namespace", POD, &["default/serv"], false),
        ("any pod of a namespace", POD, &["shop/"], true),
        ("the source is from", FROM, &["default/client"], true),
        ("the destination is not from", FROM, &["server"], false),
        ("the destination is to", TO, &["server"], true),
        ("the source is not to", TO, &["client"], false),
        ("identity of the source", IDENTITY, &["4711"], true),
        ("identity of the destination", IDENTITY, &["815"], true),
        ("another identity", IDENTITY, &["816"], false),
        ("its verdict", VERDICT, &["dropped"], true),
        ("another verdict", VERDICT, &["FORWARDED"], false),
        ("its reason by number", REASON, &["189"], true),
        ("its reason by name", REASON, &["auth_required"], true),
        ("its exact reason by number", REASON, &["225"], true),
        ("its exact reason by name", REASON, &["AUTH_BACKOFF"], true),
        ("another reason", REASON, &["POLICY_DENIED"], false),
        ("its protocol", PROTOCOL, &["tcp"], true),
        ("its protocol's number", PROTOCOL, &["6"], true),
        ("another protocol", PROTOCOL, &["udp", "icmp"], false),
        ("its port", PORT, &["80"], true),
        ("the client's port", PORT, &["40000"], true),
        ("another port", PORT, &["8080"], false),
        ("its IPv4 address", IP, &["10.0.1.5/32"], true),
        ("a prefix of IPv6", IP, &["fd00::/64"], true),
        ("another prefix", IP, &["10.0.2.0/24", "fd01::/16"], false),
        ("its policy", POLICY, &["rule1"], true),
        ("its policy with its namespace", POLICY, &["shop/rule1"], true),
        ("its policy's name elsewhere", POLICY, &["default/rule1"], false),
        ("a policy is no prefix", POLICY, &["rule"], false),
        ("its direction", DIRECTION, &["INGRESS"], true),
        ("another direction", DIRECTION, &["egress"], false),
    ];
    for (what, set, values, expected) in table {
        let mut spec = FilterSpec::default();
        set(&mut spec, values);
        assert_ne!(spec, FilterSpec::default(), "{what}");
        let filter = Filter::parse(&spec).expect(what);
        assert_eq!(filter.matches(&flow), *expected, "{what}");
    }
    assert!(Filter::default().matches(&flow));
}

#[test]
fn all_fields_must_match() {
    let mut spec = FilterSpec { namespace: strings(&["shop"]), port: vec![80], ..Default::default() };
    let matches = |spec: &FilterSpec, port| Filter::parse(spec).expect("a filter").matches(&flow(1, port));
    assert!(matches(&spec, 80));
    assert!(!matches(&spec, 443));
    spec.from_pod = strings(&["shop/"]);
    assert!(!matches(&spec, 80));
}

#[test]
fn addresses_that_are_no_pods_match_no_pod() {
    let mut flow = flow(1, 80);
    flow.source.workload = std::sync::Arc::default();
    flow.destination.workload = std::sync::Arc::default();
    let any_pod = FilterSpec { pod: strings(&["/"]), ..Default::default() };
    assert!(!Filter::parse(&any_pod).expect("a filter").matches(&flow));
}

#[test]
fn what_means_nothing_is_refused_with_its_field() {
    let table: &[(&str, Set, &[&str])] = &[
        ("verdict", VERDICT, &["DENIED"]),
        ("drop_reason", REASON, &["NO_SUCH_REASON"]),
        ("drop_reason", REASON, &["0"]),
        ("drop_reason", REASON, &["256"]),
        ("protocol", PROTOCOL, &["http"]),
        ("protocol", PROTOCOL, &["-1"]),
        ("direction", DIRECTION, &["sideways"]),
    ];
    for (expected, set, values) in table {
        let mut spec = FilterSpec::default();
        set(&mut spec, values);
        match Filter::parse(&spec) {
            Err(FilterError::Value { field, .. }) => assert_eq!(field, *expected, "{values:?}"),
            other => panic!("{values:?}: {other:?}"),
        }
    }
    let spec = FilterSpec { port: vec![1; MAX_FILTER_VALUES + 1], ..Default::default() };
    assert_eq!(Filter::parse(&spec), Err(FilterError::TooMany { field: "port" }));
}
