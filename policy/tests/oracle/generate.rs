//! Random documents, all of them valid, over a small world in which most of them meet.

use std::collections::BTreeMap;

use countersign_policy::identity::{FIRST_CIDR, cidr_labels, pod_labels, reserved_labels};
use countersign_policy::labels::Labels;
use countersign_policy::objects::{Namespace, Pod};
use countersign_policy::repository::NamedPorts;
use countersign_policy::yaml::Document;
use countersign_policy::{Policy, Repository, Settings, parse};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::naive::{LabelSet, Side};

pub const PORTS: [u16; 12] = [0, 1, 8, 53, 79, 80, 81, 84, 90, 443, 8080, 65535];
pub const PROTOCOLS: [(&str, u8); 6] =
    [("TCP", 6), ("UDP", 17), ("SCTP", 132), ("ICMP", 1), ("ICMPv6", 58), ("GRE", 47)];
const NETS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "10.2.0.0/15",
    "192.0.2.0/24",
    "10.1.2.128/25",
];

/// What can be left out, or be there.
fn maybe(chance: f64, value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    if chance >= 1.0 { value.prop_map(Some).boxed() } else { prop::option::weighted(chance, value).boxed() }
}

fn object(fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let join = move |values: Vec<Option<Value>>| {
        let pairs = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    values.prop_map(join).boxed()
}

fn list(item: impl Strategy<Value = Value> + 'static, sizes: std::ops::Range<usize>) -> BoxedStrategy<Value> {
    prop::collection::vec(item, sizes).prop_map(Value::Array).boxed()
}

fn text(choices: &'static [&'static str]) -> BoxedStrategy<Value> {
    select(choices).prop_map(|text| json!(text)).boxed()
}

const POD_KEYS: [&str; 3] = ["app", "tier", "absent"];
const CILIUM_KEYS: [&str; 11] = [
    "app",
    "k8s:tier",
    "any:app",
    "k8s:absent",
    "io.kubernetes.pod.namespace",
    "k8s:io.kubernetes.pod.namespace",
    "k8s:io.cilium.k8s.namespace.labels.env",
    "io.cilium.k8s.policy.serviceaccount",
    "reserved:host",
    "container:app",
    "node:app",
];
const VALUES: [&str; 7] = ["web", "db", "x", "a", "b", "prod", ""];

fn selector(keys: &'static [&'static str]) -> BoxedStrategy<Value> {
    let labels =
        prop::collection::btree_map(select(keys), select(&VALUES[..]), 0..2).prop_map(|map| json!(map));
    let valued = (select(keys), select(&["In", "NotIn"][..]), subsequence(&VALUES[..], 1..4))
        .prop_map(|(key, operator, values)| json!({"key": key, "operator": operator, "values": values}));
    let bare = (select(keys), select(&["Exists", "DoesNotExist"][..]))
        .prop_map(|(key, operator)| json!({"key": key, "operator": operator}));
    let expressions = list(prop_oneof![valued, bare], 0..2);
    object(vec![("matchLabels", maybe(0.6, labels)), ("matchExpressions", maybe(0.3, expressions))])
}

/// Peers that are pods for certain, so that authentication can be asked of them.
fn plain_selector() -> BoxedStrategy<Value> {
    let labels = prop::collection::btree_map(select(&["app", "k8s:tier"][..]), select(&VALUES[..]), 0..2);
    let namespaces = prop::option::of(select(&["a", "b"][..]));
    (labels, namespaces)
        .prop_map(|(labels, namespace)| {
            let mut labels = json!(labels);
            if let Some(namespace) = namespace {
                labels["k8s:io.kubernetes.pod.namespace"] = json!(namespace);
            }
            json!({"matchLabels": labels})
        })
        .boxed()
}

fn cidr_set() -> BoxedStrategy<Value> {
    let with = |net: &'static str, inside: &'static [&'static str]| {
        subsequence(inside, 0..=inside.len()).prop_map(move |except| json!({"cidr": net, "except": except}))
    };
    prop_oneof![
        with("0.0.0.0/0", &["10.1.0.0/16", "192.0.2.0/24"]),
        with("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.128/25", "10.2.0.0/15"]),
        with("10.1.0.0/16", &["10.1.2.0/24"]),
    ]
    .boxed()
}

fn cilium_ports() -> BoxedStrategy<Value> {
    let protocol = maybe(0.7, text(&["TCP", "UDP", "SCTP", "ANY"]));
    let single = (select(&PORTS[..]), protocol.clone())
        .prop_map(|(port, protocol)| with_protocol(json!({"port": port.to_string()}), protocol));
    let range = (select(&PORTS[1..]), 0_u16..3000, protocol.clone()).prop_map(|(first, more, protocol)| {
        let last = u32::from(first) + u32::from(more);
        with_protocol(json!({"port": first.to_string(), "endPort": last.min(65535)}), protocol)
    });
    let named = (text(&["http", "dns"]), protocol)
        .prop_map(|(port, protocol)| with_protocol(json!({"port": port}), protocol));
    let portless = text(&["GRE", "47", "ESP"]).prop_map(|protocol| json!({"protocol": protocol}));
    let entry = prop_oneof![4 => single, 3 => range, 1 => named, 1 => portless];
    let plain = list(entry, 1..3).prop_map(|ports| json!({"ports": ports}));
    list(plain, 1..3)
}

/// Ports with something above them, which cannot be allowed as they are.
fn layer_7(ingress: bool) -> BoxedStrategy<Value> {
    let port = (select(&PORTS[1..]), maybe(0.5, text(&["TCP", "ANY"])))
        .prop_map(|(port, protocol)| with_protocol(json!({"port": port.to_string()}), protocol));
    let above = prop_oneof![
        Just(json!({"rules": {"http": [{"method": "GET"}]}})),
        Just(json!({"rules": {"kafka": [{"topic": "a"}]}})),
        Just(json!({"serverNames": ["a.example"]})),
        Just(if ingress { json!({"rules": {}}) } else { json!({"rules": {"dns": [{"matchPattern": "*"}]}}) }),
    ];
    (list(port, 1..3), above)
        .prop_map(|(ports, mut rule)| {
            rule["ports"] = ports;
            rule
        })
        .boxed()
}

fn with_protocol(mut entry: Value, protocol: Option<Value>) -> Value {
    if let Some(protocol) = protocol {
        entry["protocol"] = protocol;
    }
    entry
}

fn icmps() -> BoxedStrategy<Value> {
    let field =
        (maybe(0.5, text(&["IPv4", "IPv6"])), select(&[0, 1, 8, 128][..])).prop_map(|(family, kind)| {
            let mut field = json!({"type": kind});
            if let Some(family) = family {
                field["family"] = family;
            }
            field
        });
    list(list(field, 1..3).prop_map(|fields| json!({"fields": fields})), 1..2)
}

const ENTITIES: [&str; 11] = [
    "all",
    "world",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "none",
    "health",
    "cluster-mesh",
    "world-ipv4",
    "ingress",
];

fn clause(ingress: bool, deny: bool) -> BoxedStrategy<Value> {
    let way = move |name: &'static str| -> &'static str {
        match (ingress, name) {
            (true, "Endpoints") => "fromEndpoints",
            (true, "Entities") => "fromEntities",
            (true, "CIDR") => "fromCIDR",
            (true, _) => "fromCIDRSet",
            (false, "Endpoints") => "toEndpoints",
            (false, "Entities") => "toEntities",
            (false, "CIDR") => "toCIDR",
            (false, _) => "toCIDRSet",
        }
    };
    let one = |name: &'static str, values: BoxedStrategy<Value>| {
        values.prop_map(move |value| json!({ way(name): value })).boxed()
    };
    let groups = prop_oneof![
        text(&["one", "two", "none"])
            .prop_map(|name| json!({"cidrGroupRef": name, "except": ["10.1.2.0/24"]})),
        text(&["x", "y"]).prop_map(|team| json!({"cidrGroupSelector": {"matchLabels": {"team": team}}})),
    ];
    let namespaces = selector(&["env"]).prop_map(|s| json!({"namespaceSelector": s}));
    let unbuilt = unbuilt(ingress, deny);
    let reserved = prop_oneof![
        5 => one("Endpoints", list(selector(&CILIUM_KEYS), 0..3)),
        1 => one("Endpoints", list(namespaces, 0..2)),
        1 => one("CIDRSet", list(groups, 0..2)),
        1 => unbuilt,
        3 => one("Entities", list(text(&ENTITIES), 0..3)),
        2 => one("CIDR", list(text(&NETS), 0..3)),
        2 => one("CIDRSet", list(cidr_set(), 0..3)),
        2 => Just(json!({})),
    ];
    let reserved = (reserved, prop::option::weighted(0.1, Just("disabled")));
    let plain = (one("Endpoints", list(plain_selector(), 0..3)), prop::option::of(auth_mode()));
    let peers = if deny { reserved.boxed() } else { prop_oneof![reserved, plain].boxed() };
    let mixed = (cilium_ports(), layer_7(ingress)).prop_map(|(mut ports, above)| {
        ports.as_array_mut().unwrap().push(above);
        ports
    });
    let above = list(layer_7(ingress), 1..2);
    let above = if deny { cilium_ports() } else { prop_oneof![mixed, above].boxed() };
    let ports = prop_oneof![
        3 => Just(None),
        4 => cilium_ports().prop_map(|ports| Some(("toPorts", ports))),
        1 => above.prop_map(|ports| Some(("toPorts", ports))),
        1 => icmps().prop_map(|icmps| Some(("icmps", icmps))),
    ];
    (peers, ports)
        .prop_map(move |((mut clause, mode), ports)| {
            if let Some((name, value)) = ports {
                clause[name] = value;
            }
            if let (Some(mode), false) = (mode, deny) {
                clause["authentication"] = json!({"mode": mode});
            }
            clause
        })
        .boxed()
}

/// Peers that nobody can find yet.
fn unbuilt(ingress: bool, deny: bool) -> BoxedStrategy<Value> {
    let nodes = json!([{"matchLabels": {"role": "edge"}}]);
    let groups = json!([{"aws": {"region": "x"}}]);
    if ingress {
        return prop_oneof![Just(json!({"fromNodes": nodes})), Just(json!({"fromGroups": groups}))].boxed();
    }
    let services = Just(json!({"toServices": [{"k8sService": {"serviceName": "a"}}]}));
    let names = Just(json!({"toFQDNs": [{"matchName": "a.example"}]}));
    let nodes = Just(json!({"toNodes": nodes}));
    let groups = Just(json!({"toGroups": groups}));
    if deny {
        prop_oneof![nodes, groups, services].boxed()
    } else {
        prop_oneof![nodes, groups, services, names].boxed()
    }
}

fn auth_mode() -> BoxedStrategy<&'static str> {
    prop_oneof![4 => Just("required"), 2 => Just("disabled"), 1 => Just("test-always-fail")].boxed()
}

fn cilium_spec() -> BoxedStrategy<Value> {
    let switch = object(vec![
        ("ingress", maybe(0.6, any::<bool>().prop_map(Value::Bool))),
        ("egress", maybe(0.4, any::<bool>().prop_map(Value::Bool))),
    ]);
    let spec = object(vec![
        ("endpointSelector", maybe(1.0, selector(&CILIUM_KEYS))),
        ("ingress", maybe(0.8, list(clause(true, false), 0..4))),
        ("ingressDeny", maybe(0.25, list(clause(true, true), 0..3))),
        ("egress", maybe(0.5, list(clause(false, false), 0..4))),
        ("egressDeny", maybe(0.2, list(clause(false, true), 0..3))),
        ("enableDefaultDeny", maybe(0.25, switch)),
    ]);
    spec.prop_map(|mut spec| {
        // Half of the subjects are everybody, so that policies meet; and no rule is silent.
        let subject = &mut spec["endpointSelector"];
        if subject.to_string().len() % 2 == 0 {
            *subject = json!({});
        }
        if !["ingress", "egress"].iter().any(|name| spec.get(*name).is_some()) {
            spec["ingress"] = json!([{}]);
        }
        spec
    })
    .boxed()
}

fn kubernetes_spec() -> BoxedStrategy<Value> {
    let peer = prop_oneof![
        selector(&POD_KEYS).prop_map(|s| json!({"podSelector": s})),
        selector(&["env"]).prop_map(|s| json!({"namespaceSelector": s})),
        (selector(&POD_KEYS), selector(&["env"]))
            .prop_map(|(p, n)| json!({"podSelector": p, "namespaceSelector": n})),
        cidr_set().prop_map(|set| json!({"ipBlock": set})),
    ];
    let protocol = maybe(0.7, text(&["TCP", "UDP", "SCTP"]));
    let entry = (prop::option::weighted(0.8, select(&PORTS[1..])), 0_u16..500, any::<bool>(), protocol)
        .prop_map(|(port, more, ranged, protocol)| {
            let mut entry = json!({});
            if let Some(port) = port {
                entry["port"] = json!(port);
                if ranged {
                    entry["endPort"] = json!((u32::from(port) + u32::from(more)).min(65535));
                }
            }
            with_protocol(entry, protocol)
        });
    let named = text(&["http", "dns"]).prop_map(|name| json!({"port": name}));
    let ports = list(prop_oneof![5 => entry, 1 => named], 0..3).boxed();
    let rule = move |way: &'static str, peer: BoxedStrategy<Value>| {
        object(vec![(way, maybe(0.8, list(peer, 0..3))), ("ports", maybe(0.7, ports.clone()))])
    };
    let (from, to) = (rule("from", peer.clone().boxed()), rule("to", peer.boxed()));
    let types = subsequence(vec!["Ingress", "Egress"], 0..=2).prop_map(|types| json!(types));
    object(vec![
        ("podSelector", maybe(1.0, selector(&POD_KEYS))),
        ("ingress", maybe(0.7, list(from, 0..3))),
        ("egress", maybe(0.5, list(to, 0..3))),
        ("policyTypes", maybe(0.5, types)),
    ])
}

fn tiered_rule(way: &'static str, egress: bool) -> BoxedStrategy<Value> {
    let pods = (selector(&["env"]), selector(&POD_KEYS))
        .prop_map(|(n, p)| json!({"pods": {"namespaceSelector": n, "podSelector": p}}));
    let namespaces = selector(&["env"]).prop_map(|s| json!({"namespaces": s}));
    let networks = text(&NETWORKS).prop_map(|net| json!({"networks": [net]}));
    let nodes = prop_oneof![Just(json!({})), Just(json!({"matchLabels": {"role": "edge"}}))];
    let nodes = nodes.prop_map(|nodes| json!({"nodes": nodes}));
    let peer = if egress {
        prop_oneof![3 => pods, 3 => namespaces, 2 => networks, 1 => nodes].boxed()
    } else {
        prop_oneof![pods, namespaces].boxed()
    };
    let single = select(&PORTS[1..]).prop_map(|port| json!({"destinationPort": {"number": port}}));
    let range = select(&PORTS[1..11])
        .prop_map(|port| json!({"destinationPort": {"range": {"start": port, "end": port + 20}}}));
    let protocol = (select(&["tcp", "udp", "sctp"][..]), prop_oneof![single, range, Just(json!({}))])
        .prop_map(|(name, ports)| json!({name: ports}));
    object(vec![
        ("action", maybe(1.0, text(&["Accept", "Deny", "Pass"]))),
        (way, maybe(1.0, list(peer, 1..3))),
        ("protocols", maybe(0.6, list(protocol, 1..3))),
    ])
}

const NETWORKS: [&str; 4] = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"];

fn tiered() -> BoxedStrategy<Value> {
    let subject = prop_oneof![
        selector(&["env"]).prop_map(|s| json!({"namespaces": s})),
        (selector(&["env"]), selector(&POD_KEYS))
            .prop_map(|(n, p)| json!({"pods": {"namespaceSelector": n, "podSelector": p}})),
    ];
    let spec = object(vec![
        ("tier", maybe(1.0, text(&["Admin", "Admin", "Baseline"]))),
        ("priority", maybe(1.0, (0_u32..3).prop_map(|priority| json!(priority)))),
        ("subject", maybe(1.0, subject)),
        ("ingress", maybe(0.7, list(tiered_rule("from", false), 0..4))),
        ("egress", maybe(0.7, list(tiered_rule("to", true), 0..4))),
    ]);
    spec.prop_map(|spec| {
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {}, "spec": spec})
    })
    .boxed()
}

fn group() -> BoxedStrategy<Value> {
    (text(&["x", "y"]), subsequence(&["10.1.0.0/16", "10.1.2.128/25", "192.0.2.0/24"][..], 0..3))
        .prop_map(|(team, nets)| {
            json!({
                "apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"labels": {"team": team}},
                "spec": {"externalCIDRs": nets},
            })
        })
        .boxed()
}

fn node_policy() -> BoxedStrategy<Value> {
    let lists = subsequence(&["ingress", "egress"][..], 1..=2);
    lists
        .prop_map(|lists| {
            let mut spec = json!({"nodeSelector": {"matchLabels": {"role": "edge"}}});
            for name in lists {
                spec[name] = json!([{}]);
            }
            with_specs("CiliumClusterwideNetworkPolicy", None, vec![spec])
        })
        .boxed()
}

fn document() -> BoxedStrategy<Value> {
    let spec = || prop::collection::vec(cilium_spec(), 1..3);
    let cilium = (select(&["a", "b"][..]), spec())
        .prop_map(|(namespace, specs)| with_specs("CiliumNetworkPolicy", Some(namespace), specs));
    let wide = spec().prop_map(|specs| with_specs("CiliumClusterwideNetworkPolicy", None, specs));
    let kubernetes = (select(&["a", "b"][..]), kubernetes_spec()).prop_map(|(namespace, spec)| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace}, "spec": spec})
    });
    prop_oneof![12 => cilium, 3 => wide, 6 => kubernetes, 6 => tiered(), 2 => group(), 1 => node_policy()]
        .boxed()
}

fn with_specs(kind: &str, namespace: Option<&str>, mut specs: Vec<Value>) -> Value {
    let mut document = json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {}});
    if let Some(namespace) = namespace {
        document["metadata"]["namespace"] = json!(namespace);
    }
    document["spec"] = specs.remove(0);
    if !specs.is_empty() {
        document["specs"] = Value::Array(specs);
    }
    document
}

/// Some documents, each with a name of its own.
pub fn documents() -> BoxedStrategy<Vec<Value>> {
    prop::collection::vec(document(), 1..5)
        .prop_map(|mut documents| {
            for (index, document) in documents.iter_mut().enumerate() {
                let group = document["kind"] == "CiliumCIDRGroup";
                let name = if group { ["one", "two"][index % 2].to_owned() } else { format!("p{index}") };
                document["metadata"]["name"] = json!(name);
            }
            let mut seen = std::collections::BTreeSet::new();
            documents.retain(|document| seen.insert(document["metadata"]["name"].to_string()));
            documents
        })
        .boxed()
}

pub fn policies(documents: &[Value]) -> Vec<Policy> {
    let settings = Settings::default();
    let read = |value: &Value| match parse(&Document::from_value(value.clone()), &settings) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}\n{value:#}"),
    };
    documents.iter().map(read).collect()
}

/// The pods of the small world, with the numbers of their identities.
fn pods() -> Vec<(u32, Pod, Namespace)> {
    let mut pods = Vec::new();
    for (number, (namespace, env, app, tier)) in (1000..).zip([
        ("a", "prod", "web", "x"),
        ("a", "prod", "db", "x"),
        ("b", "", "web", "b"),
        ("b", "", "db", "prod"),
    ]) {
        let labels =
            BTreeMap::from([("app".to_owned(), app.to_owned()), ("tier".to_owned(), tier.to_owned())]);
        let (namespace, env) = (namespace.to_owned(), env.to_owned());
        let pod =
            Pod { namespace: namespace.clone(), labels, service_account: app.to_owned(), ..Pod::default() };
        let labels = if env.is_empty() { BTreeMap::new() } else { BTreeMap::from([("env".to_owned(), env)]) };
        pods.push((number, pod, Namespace { name: namespace, labels, ..Namespace::default() }));
    }
    pods
}

fn named(app: &str) -> NamedPorts {
    let key = |protocol, name: &str| (protocol, name.to_owned());
    match app {
        "web" => NamedPorts::from([(key(6, "http"), [80].into())]),
        _ => NamedPorts::from([(key(6, "http"), [8080].into()), (key(17, "dns"), [53].into())]),
    }
}

/// A repository with the small world in it, and its sides as the oracle sees them.
pub fn world(policies: &[Policy]) -> (Repository, Vec<Side>) {
    let mut repository = Repository::new();
    for policy in policies {
        repository.upsert_policy(policy.clone());
    }
    let mut sides = Vec::new();
    for (number, labels) in reserved_labels() {
        sides.push(side(number, &labels, None));
    }
    for (number, pod, namespace) in pods() {
        let labels = pod_labels(&pod, Some(&namespace), "default");
        repository.upsert_identity(number, labels.clone());
        repository.set_named_ports(number, named(&pod.service_account));
        let mut side = side(number, &labels, None);
        side.pods = addresses(number);
        let at = |pod: &u32| [std::net::IpAddr::from(pod.to_be_bytes())].into();
        repository.set_addresses(number, side.pods.iter().map(at).collect());
        for ((protocol, name), ports) in named(&pod.service_account) {
            let protocol = PROTOCOLS.iter().find(|(_, n)| *n == protocol).unwrap().0.to_owned();
            side.named.insert((protocol, name), *ports.first().unwrap());
        }
        sides.push(side);
    }
    for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
        let labels = cidr_labels(net);
        repository.upsert_identity(number, labels.clone());
        let ipnet::IpNet::V4(v4) = net else { continue };
        sides.push(side(number, &labels, Some((u32::from(v4.addr()), v4.prefix_len()))));
    }
    (repository, sides)
}

fn side(identity: u32, labels: &Labels, range: Option<(u32, u8)>) -> Side {
    let labels: LabelSet = labels
        .iter()
        .map(|label| (format!("{}:{}", label.source.name(), label.key), label.value.clone()))
        .collect();
    Side { identity, labels, range, named: BTreeMap::new(), pods: Vec::new() }
}

/// Where the pods of an identity are: some of one identity inside a range, and some outside.
fn addresses(identity: u32) -> Vec<u32> {
    let ip = |a, b, c, d| u32::from_be_bytes([a, b, c, d]);
    match identity {
        1000 => vec![ip(10, 1, 2, 3)],
        1001 => vec![ip(10, 1, 2, 4), ip(10, 2, 0, 1)],
        1002 => vec![ip(192, 0, 2, 9), ip(10, 1, 2, 200)],
        _ => vec![ip(172, 16, 0, 1)],
    }
}
