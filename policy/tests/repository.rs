//! What endpoints end up with: table by table, through the maps' own look-up.

use std::collections::BTreeSet;

use countersign_ebpf_common::ladder::Decision;
use countersign_ebpf_common::policy::{PREFIX_PORT, PREFIX_STATIC};
use countersign_policy::identity::{FIRST_CIDR, cidr_labels, reserved};
use countersign_policy::labels::{CLUSTER, Labels, POD_NAMESPACE, Source};
use countersign_policy::model::{Direction, Kind};
use countersign_policy::repository::{NamedPorts, Repository};
use countersign_policy::{Op, Policy, PolicyId, Settings, diff, parse, yaml};

const WEB: u32 = 1000;
const CLIENT: u32 = 1001;
const DB: u32 = 1002;
const OTHER: u32 = 2000;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn labels(namespace: &str, app: &str) -> Labels {
    let mut labels = Labels::new();
    labels.insert(Source::K8s, POD_NAMESPACE, namespace);
    labels.insert(Source::K8s, CLUSTER, "default");
    labels.insert(Source::K8s, "app", app);
    labels
}

fn policy(name: &str, spec: &str) -> Policy {
    let text = format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
    );
    parse(&yaml::parse(&text).unwrap().remove(0), &Settings::default()).unwrap()
}

fn wide(name: &str, spec: &str) -> Policy {
    let text = format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
    );
    parse(&yaml::parse(&text).unwrap().remove(0), &Settings::default()).unwrap()
}

/// Rules for the web pods, one policy each.
fn with(specs: &[&str]) -> Repository {
    let mut repository = Repository::new();
    for (number, namespace, app) in
        [(WEB, "shop", "web"), (CLIENT, "shop", "client"), (DB, "shop", "db"), (OTHER, "other", "client")]
    {
        repository.upsert_identity(number, labels(namespace, app));
    }
    for (index, spec) in specs.iter().enumerate() {
        let spec = format!("{{endpointSelector: {{matchLabels: {{app: web}}}}, {spec}}}");
        repository.upsert_policy(policy(&format!("p{index}"), &spec));
    }
    for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
        repository.upsert_identity(number, cidr_labels(net));
    }
    repository
}

fn decision(repository: &Repository, direction: Direction, peer: u32, protocol: u8, port: u16) -> Decision {
    repository.resolve(WEB, 1).lookup(direction, peer, protocol, port)
}

/// `-` denied, `x` denied by a rule, `+` allowed, `a` with authentication, `f` with one that always fails.
fn ingress(specs: &[&str], packets: &[(u32, u8, u16)]) -> String {
    let repository = with(specs);
    let sign = |(peer, protocol, port): &(u32, u8, u16)| {
        let decision = decision(&repository, Direction::Ingress, *peer, *protocol, *port);
        match (decision.allow, decision.deny_rule, decision.auth_type) {
            (false, false, _) => '-',
            (false, true, _) => 'x',
            (true, _, 0) => '+',
            (true, _, 1) => 'a',
            (true, _, _) => 'f',
        }
    };
    packets.iter().map(sign).collect()
}

const PEERS: [(u32, u8, u16); 6] = [
    (CLIENT, TCP, 80),
    (CLIENT, UDP, 80),
    (OTHER, TCP, 80),
    (reserved::HOST, TCP, 80),
    (reserved::WORLD, TCP, 80),
    (reserved::UNKNOWN, TCP, 80),
];

#[test]
fn verdicts_by_peer() {
    let client = "fromEndpoints: [{matchLabels: {app: client}}]";
    let port = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]";
    let table: &[(&[&str], &str)] = &[
        (&[], "++++++"),
        (&["egress: [{}]"], "++++++"),
        (&["ingress: [{}]"], "---+--"),
        (&["ingress: []"], "---+--"),
        (&[&format!("ingress: [{{{client}}}]")], "++-+--"),
        (&[&format!("ingress: [{{{client}, {port}}}]")], "+--+--"),
        (&[&format!("ingress: [{{{port}}}]")], "+-++++"),
        (&["ingress: [{fromEndpoints: []}]"], "---+--"),
        (&[&format!("ingress: [{{fromEndpoints: [], {port}}}]")], "---+--"),
        (&["ingress: [{fromEndpoints: [{}]}]"], "++-+--"),
        (
            &["ingress: [{fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}]}]"],
            "--++--",
        ),
        (&["ingress: [{fromEntities: [world]}]"], "---++-"),
        (&["ingress: [{fromEntities: [cluster]}]"], "++++--"),
        (&["ingress: [{fromEntities: [all]}]"], "++++++"),
        (&["ingressDeny: [{fromEntities: [host]}]"], "---x--"),
        (&["ingressDeny: [{fromEntities: [host]}], ingress: [{fromEntities: [all]}]"], "+++x++"),
        (&[&format!("ingressDeny: [{{{client}}}], enableDefaultDeny: {{ingress: false}}")], "xx++++"),
        (&["ingressDeny: [{fromEntities: [all]}]", &format!("ingress: [{{{client}, {port}}}]")], "xxxxxx"),
        (&[&format!("ingress: [{{{client}, {port}}}]"), &format!("ingressDeny: [{{{port}}}]")], "x-xxxx"),
        (&["ingress: [{}]", "ingress: [{fromEntities: [all]}]"], "++++++"),
        (&["ingress: [{}], enableDefaultDeny: {ingress: false}"], "++++++"),
        (&["ingress: [{}], enableDefaultDeny: {ingress: false}", "ingress: [{}]"], "---+--"),
    ];
    for (specs, expected) in table {
        assert_eq!(ingress(specs, &PEERS), *expected, "{specs:?}");
    }
}

#[test]
fn authentication_is_asked_where_the_rules_say() {
    let peer = "fromEndpoints: [{matchLabels: {app: client}}]";
    let port = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]";
    let mode = |mode: &str| format!("authentication: {{mode: {mode}}}");
    let (required, disabled, fails) = (mode("required"), mode("disabled"), mode("test-always-fail"));
    let packets = [(CLIENT, TCP, 80), (CLIENT, TCP, 81), (CLIENT, UDP, 80), (reserved::WORLD, TCP, 80)];
    let table: &[(&[String], &str)] = &[
        (&[format!("ingress: [{{{peer}, {required}}}]")], "aaa-"),
        // A narrower rule that does not speak of it takes it over; one that does decides.
        (&[format!("ingress: [{{{peer}, {required}}}]"), format!("ingress: [{{{peer}, {port}}}]")], "aaa-"),
        (
            &[
                format!("ingress: [{{{peer}, {required}}}]"),
                format!("ingress: [{{{peer}, {port}, {disabled}}}]"),
            ],
            "+aa-",
        ),
        // Also where the narrower rule is for everybody.
        (&[format!("ingress: [{{{peer}, {required}}}]"), format!("ingress: [{{{port}}}]")], "aaa+"),
        (
            &[format!("ingress: [{{{peer}, {required}}}]"), format!("ingress: [{{{port}, {disabled}}}]")],
            "+aa+",
        ),
        // A broader rule does not take it away.
        (&[format!("ingress: [{{{peer}, {port}, {required}}}]"), format!("ingress: [{{{peer}}}]")], "a++-"),
        (
            &[
                format!("ingress: [{{{peer}, {port}, {required}}}]"),
                format!("ingress: [{{{peer}, {disabled}}}]"),
            ],
            "a++-",
        ),
        (
            &[
                format!("ingress: [{{{peer}, {port}, {required}}}]"),
                "ingress: [{fromEntities: [all]}]".into(),
            ],
            "a+++",
        ),
        // Two that disagree about one key: the stricter.
        (
            &[format!("ingress: [{{{peer}, {required}}}]"), format!("ingress: [{{{peer}, {disabled}}}]")],
            "aaa-",
        ),
        (&[format!("ingress: [{{{peer}, {fails}}}]"), format!("ingress: [{{{peer}, {required}}}]")], "fff-"),
        // Denied is denied; and without default deny only the selected peer is asked.
        (&[format!("ingress: [{{{peer}, {required}}}], ingressDeny: [{{{peer}, {port}}}]")], "xaa-"),
        (
            &[format!("ingress: [{{{peer}, {port}, {required}}}], enableDefaultDeny: {{ingress: false}}")],
            "a+++",
        ),
    ];
    for (specs, expected) in table {
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        assert_eq!(ingress(&specs, &packets), *expected, "{specs:#?}");
    }
}

#[test]
fn modes_that_disagree_are_reported_with_both_rules() {
    let peer = "fromEndpoints: [{matchLabels: {app: client}}]";
    let repository = with(&[
        &format!("ingress: [{{{peer}, authentication: {{mode: required}}}}]"),
        &format!("ingress: [{{{peer}, authentication: {{mode: disabled}}}}]"),
        &format!("ingress: [{{{peer}, authentication: {{mode: required}}}}]"),
    ]);
    let conflicts = repository.resolve(WEB, 1).conflicting_rules();
    let name = |rule: &u32| repository.rule(*rule).unwrap().name.clone();
    let names: Vec<_> = conflicts.iter().map(|(one, other)| (name(one), name(other))).collect();
    assert_eq!(names, [("p0".to_owned(), "p1".to_owned())]);
}

#[test]
fn ranges_of_ports_become_the_fewest_prefixes() {
    let rule = |ports: &str| format!("ingress: [{{toPorts: [{{ports: [{ports}]}}]}}]");
    let places = |ports: &str| {
        let policy = with(&[&rule(ports)]).resolve(WEB, 1);
        let any = policy.entries.keys().filter(|(key, _)| key.identity == 0 && key.direction == 0);
        let mut found: Vec<(u16, u8)> = any.map(|(key, bits)| (u16::from_be(key.port_be), *bits)).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(places("{port: '80', endPort: 90, protocol: TCP}"), [(80, 77), (88, 79), (90, 80)]);
    assert_eq!(places("{port: '80', protocol: TCP}"), [(80, 80)]);
    assert_eq!(places("{port: '0', protocol: TCP}"), [(0, 64)]);
    assert_eq!(places("{port: '1', endPort: 65535, protocol: TCP}").len(), 16);
    assert_eq!(places("{port: '65535', protocol: TCP}"), [(65535, 80)]);
    assert_eq!(places("{port: '32768', endPort: 65535, protocol: TCP}"), [(32768, 65)]);
}

#[test]
fn every_port_of_a_range_is_in_and_no_other() {
    for (first, last) in [(1, 1), (1, 2), (79, 81), (80, 90), (1000, 3001), (65530, 65535), (1, 65535)] {
        let spec = format!(
            "ingress: [{{toPorts: [{{ports: [{{port: '{first}', endPort: {last}, protocol: TCP}}]}}]}}]"
        );
        let policy = with(&[&spec]).resolve(WEB, 1);
        for port in 0..=u16::MAX {
            let found = policy.lookup(Direction::Ingress, CLIENT, TCP, port).allow;
            assert_eq!(found, (first..=last).contains(&port), "{first}-{last}: {port}");
        }
    }
}

#[test]
fn a_narrow_allow_does_not_get_past_a_wide_deny() {
    // CVE-2024-47825, with prefixes of addresses and of ports.
    let repository = with(&[
        "ingress: [{fromCIDR: [10.1.2.0/24], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
        "ingressDeny: [{fromCIDR: [10.0.0.0/8], toPorts: [{ports: [{port: '1', endPort: 1000}]}]}]",
    ]);
    let narrow =
        repository.identities().find(|(_, l)| l.cidrs().any(|net| net.prefix_len() == 24)).unwrap().0;
    assert!(decision(&repository, Direction::Ingress, narrow, TCP, 80).deny_rule);
}

#[test]
fn addresses_have_the_identity_of_the_narrowest_range() {
    let repository =
        with(&["egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}, {toCIDR: [10.1.2.3]}]"]);
    let nets: Vec<String> = repository.cidrs().iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]);
    let of =
        |net: &str| repository.identities().find(|(_, l)| l.cidrs().any(|n| n.to_string() == net)).unwrap().0;
    let allowed = |net: &str| decision(&repository, Direction::Egress, of(net), TCP, 80).allow;
    assert!(allowed("10.0.0.0/8") && !allowed("10.1.0.0/16") && allowed("10.1.2.3/32"));
    assert!(!decision(&repository, Direction::Egress, reserved::WORLD, TCP, 80).allow);
}

#[test]
fn everything_of_one_family_is_a_range_too() {
    let repository = with(&["egress: [{toCIDR: [0.0.0.0/0]}]"]);
    assert!(decision(&repository, Direction::Egress, FIRST_CIDR, TCP, 80).allow);
    assert!(
        !decision(&repository, Direction::Egress, reserved::WORLD, TCP, 80).allow,
        "IPv6 was not allowed"
    );
}

#[test]
fn the_node_is_not_its_pods() {
    // CVE-2025-30163: what is said of the node must not hold for pods on it, nor the reverse.
    let packets = [(reserved::HOST, TCP, 80), (reserved::REMOTE_NODE, TCP, 80), (CLIENT, TCP, 80)];
    assert_eq!(ingress(&["ingress: [{fromEntities: [remote-node]}]"], &packets), "++-");
    assert_eq!(ingress(&["ingressDeny: [{fromEntities: [host]}]"], &packets), "x--");
    assert_eq!(ingress(&["ingress: [{fromEndpoints: [{}]}]"], &packets), "+-+");
}

#[test]
fn exact_entries_carry_the_final_decision() {
    let repository = with(&[
        "ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
        "ingressDeny: [{toPorts: [{ports: [{port: '80', endPort: 81, protocol: TCP}]}]}]",
    ]);
    let policy = repository.resolve(WEB, 9);
    let (key, entry) = policy.exact.iter().next().unwrap();
    assert_eq!(policy.exact.len(), 1);
    assert_eq!((key.identity, u16::from_be(key.slot_be), u16::from_be(key.port_be)), (CLIENT, 9, 80));
    assert_eq!(repository.rule(entry.rule_id).unwrap().name, "p1");
    assert!(
        policy
            .entries
            .keys()
            .all(|(key, bits)| key.slot_be == 9_u16.to_be() && (PREFIX_STATIC..=PREFIX_PORT).contains(bits))
    );
}

#[test]
fn names_of_ports_are_the_receivers() {
    let named = |port: u16| NamedPorts::from([((TCP, "http".to_owned()), [port].into())]);
    let mut repository = with(&[
        "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: http, protocol: TCP}]}]}]",
        "egress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]",
    ]);
    assert!(!decision(&repository, Direction::Ingress, CLIENT, TCP, 80).allow);
    assert!(repository.set_named_ports(WEB, named(80)).identities().contains(&WEB));
    repository.set_named_ports(CLIENT, named(81));
    assert!(decision(&repository, Direction::Ingress, CLIENT, TCP, 80).allow);
    assert!(!decision(&repository, Direction::Ingress, CLIENT, TCP, 81).allow);
    assert!(decision(&repository, Direction::Egress, CLIENT, TCP, 81).allow);
    assert!(!decision(&repository, Direction::Egress, CLIENT, TCP, 80).allow);
    assert!(!decision(&repository, Direction::Egress, DB, TCP, 81).allow);
    assert!(repository.set_named_ports(WEB, named(80)).is_empty());
}

#[test]
fn what_changes_is_said() {
    let mut repository = with(&["ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]"]);
    let set = |numbers: &[u32]| numbers.iter().copied().collect::<BTreeSet<u32>>();
    assert_eq!(repository.upsert_identity(3000, labels("shop", "client")).identities(), set(&[WEB, 3000]));
    assert_eq!(repository.upsert_identity(3000, labels("shop", "client")).identities(), set(&[]));
    assert_eq!(repository.upsert_identity(3001, labels("other", "client")).identities(), set(&[3001]));
    assert_eq!(repository.upsert_identity(3000, labels("shop", "db")).identities(), set(&[WEB, 3000]));
    assert_eq!(repository.upsert_identity(3001, labels("shop", "client")).identities(), set(&[WEB, 3001]));
    assert_eq!(repository.remove_identity(3001).identities(), set(&[WEB, 3001]));
    assert_eq!(repository.remove_identity(3001).identities(), set(&[]));
    assert_eq!(repository.upsert_identity(3002, labels("shop", "web")).identities(), set(&[3002]));
    let deny = policy("p0", "{endpointSelector: {matchLabels: {app: db}}, ingress: []}");
    assert_eq!(repository.upsert_policy(deny).identities(), set(&[WEB, DB, 3000, 3002]));
    let id = PolicyId { kind: Kind::CiliumNetworkPolicy, namespace: "shop".into(), name: "p0".into() };
    assert_eq!(repository.remove_policy(&id).identities(), set(&[DB, 3000]));
    assert_eq!(repository.remove_policy(&id).identities(), set(&[]));
    assert_eq!(repository.policies().count(), 0);
}

#[test]
fn the_wildcard_is_nobodys_identity() {
    let mut repository = with(&["ingress: [{fromEndpoints: [{}]}]"]);
    assert!(repository.upsert_identity(0, labels("shop", "client")).is_empty());
    assert!(!decision(&repository, Direction::Ingress, OTHER, TCP, 80).allow);
}

#[test]
fn an_endpoint_that_is_not_known_gets_nothing() {
    let policy = Repository::new().resolve(4711, 1);
    assert!(policy.ingress_enforced && policy.egress_enforced && policy.entries.is_empty());
    assert!(!policy.lookup(Direction::Ingress, reserved::HOST, TCP, 80).allow);
    let init = Repository::new().resolve(reserved::INIT, 1);
    assert!(init.ingress_enforced && !init.lookup(Direction::Egress, reserved::WORLD, TCP, 80).allow);
}

#[test]
fn rules_keep_their_numbers_while_their_document_changes() {
    let spec = |more: &str| format!("{{endpointSelector: {{}}, ingress: [{{fromEndpoints: [{{}}]}}{more}]}}");
    let mut repository = with(&[]);
    repository.upsert_policy(policy("p", &spec("")));
    let first = decision(&repository, Direction::Ingress, CLIENT, TCP, 80).rule_id;
    let origin = repository.rule(first).unwrap().clone();
    assert_eq!(
        (origin.name.as_str(), origin.rule.as_str(), origin.index, origin.line),
        ("p", "spec", 0, Some(1))
    );
    repository.upsert_policy(policy("p", &spec(", {fromEntities: [world]}")));
    assert_eq!(decision(&repository, Direction::Ingress, CLIENT, TCP, 80).rule_id, first);
    let second = decision(&repository, Direction::Ingress, reserved::WORLD, TCP, 80).rule_id;
    repository.upsert_policy(policy("p", &spec("")));
    assert_eq!(repository.rule(second), None);
    assert_eq!(repository.rule(0), None);
}

#[test]
fn required_pairs_are_both_directions() {
    let repository = with(&[
        "ingress: [{fromEndpoints: [{matchLabels: {app: client}}], authentication: {mode: required}}]",
        "egress: [{toEndpoints: [{matchLabels: {app: db}}], authentication: {mode: required}}]",
    ]);
    assert_eq!(repository.required_pairs(WEB), [CLIENT, DB].into());
    assert!(repository.required_pairs(CLIENT).is_empty());
}

#[test]
fn namespaced_policies_stay_at_home_and_wide_ones_do_not() {
    let mut repository = with(&[]);
    repository.upsert_policy(policy("p", "{endpointSelector: {}, ingress: [{}]}"));
    assert!(repository.resolve(WEB, 1).ingress_enforced && !repository.resolve(OTHER, 1).ingress_enforced);
    repository.upsert_policy(wide("w", "{endpointSelector: {matchLabels: {app: client}}, egress: [{}]}"));
    assert!(repository.resolve(OTHER, 1).egress_enforced && repository.resolve(CLIENT, 1).egress_enforced);
    assert!(!repository.resolve(WEB, 1).egress_enforced);
}

#[test]
fn nothing_changed_is_nothing_to_do() {
    let policy = with(&["ingress: [{fromEntities: [all]}]"]).resolve(WEB, 1);
    assert!(diff(&policy, &policy).is_empty());
}

#[test]
fn a_new_endpoint_is_filled_and_an_old_one_emptied() {
    let policy =
        with(&["ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]"])
            .resolve(WEB, 1);
    let nothing = countersign_policy::EndpointPolicy { slot: 1, ..Default::default() };
    let filled = diff(&nothing, &policy);
    assert_eq!(filled.len(), policy.entries.len() + policy.exact.len());
    assert!(filled.iter().all(|op| matches!(op, Op::Set(..) | Op::SetExact(..))));
    let emptied = diff(&policy, &nothing);
    assert_eq!(emptied.len(), policy.entries.len() + policy.exact.len());
    assert!(emptied.iter().all(|op| matches!(op, Op::Delete(..) | Op::DeleteExact(..))));
    let moved = with(&["ingress: [{fromEntities: [all]}]"]).resolve(WEB, 2);
    assert!(diff(&policy, &moved).len() >= policy.entries.len() + moved.entries.len());
}

#[test]
fn denials_come_first_and_removals_after_their_replacement() {
    let deny = "ingressDeny: [{fromEndpoints: [{matchLabels: {app: db}}]}]";
    let old = with(&["ingress: [{fromEndpoints: [{}]}]"]).resolve(WEB, 1);
    let new = with(&["ingress: [{fromEntities: [all]}]", deny]).resolve(WEB, 1);
    let ops = diff(&old, &new);
    let position = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted).unwrap();
    let denied =
        position(&|op| matches!(op, Op::Set(key, _, entry) if key.identity == DB && entry.flags & 1 != 0));
    let opened = position(&|op| matches!(op, Op::Set(key, ..) if key.identity == 0));
    let closed = position(&|op| matches!(op, Op::Delete(key, _) if key.identity == CLIENT));
    assert!(denied < opened && opened < closed, "{ops:?}");
}

/// The same signs as [`ingress`], for what web pods send.
fn egress(specs: &[&str], packets: &[(u32, u8, u16)]) -> String {
    let repository = with(specs);
    let sign = |(peer, protocol, port): &(u32, u8, u16)| {
        let decision = decision(&repository, Direction::Egress, *peer, *protocol, *port);
        match (decision.allow, decision.deny_rule, decision.auth_type) {
            (false, false, _) => '-',
            (false, true, _) => 'x',
            (true, _, 0) => '+',
            (true, _, _) => 'a',
        }
    };
    packets.iter().map(sign).collect()
}

#[test]
fn what_pods_send_is_decided_by_egress_rules_alone() {
    let db = "toEndpoints: [{matchLabels: {app: db}}]";
    let packets = [
        (DB, TCP, 5432),
        (DB, UDP, 53),
        (CLIENT, TCP, 80),
        (reserved::HOST, TCP, 80),
        (reserved::WORLD, TCP, 443),
    ];
    let table: &[(&[&str], &str)] = &[
        (&[], "+++++"),
        (&["ingress: [{}]"], "+++++"),
        // The node is let in always, but not reached always.
        (&["egress: [{}]"], "-----"),
        (&[&format!("egress: [{{{db}}}]")], "++---"),
        (&[&format!("egress: [{{{db}, toPorts: [{{ports: [{{port: '5432', protocol: TCP}}]}}]}}]")], "+----"),
        (&["egress: [{toPorts: [{ports: [{port: '53', protocol: UDP}]}]}]"], "-+---"),
        (&["egress: [{toEntities: [world]}]"], "----+"),
        (&["egress: [{toEntities: [cluster]}]"], "++++-"),
        (&["egress: [{toEntities: [host, world]}]"], "---++"),
        (&["egress: [{toEntities: [all]}]", &format!("egressDeny: [{{{db}}}]")], "xx+++"),
        (&[&format!("egress: [{{{db}, authentication: {{mode: required}}}}]")], "aa---"),
        (
            &[&format!(
                "egress: [{{{db}, authentication: {{mode: required}}}}], enableDefaultDeny: {{egress: false}}"
            )],
            "aa+++",
        ),
    ];
    for (specs, expected) in table {
        assert_eq!(egress(specs, &packets), *expected, "{specs:?}");
    }
}

#[test]
fn icmp_is_a_protocol_of_its_own() {
    // GHSA-c66w-hq56-4q97: what is allowed of TCP says nothing of ICMP, and one type nothing of another.
    let packets = [(CLIENT, 1, 8), (CLIENT, 1, 0), (CLIENT, 58, 128), (CLIENT, 58, 8), (CLIENT, TCP, 8)];
    let echo = "icmps: [{fields: [{type: EchoRequest}, {type: EchoRequest, family: IPv6}]}]";
    let peer = "fromEndpoints: [{matchLabels: {app: client}}]";
    let required = "authentication: {mode: required}";
    assert_eq!(
        ingress(&[&format!("ingress: [{{{peer}, toPorts: [{{ports: [{{port: '0'}}]}}]}}]")], &packets),
        "----+"
    );
    assert_eq!(ingress(&[&format!("ingress: [{{{peer}, {echo}}}]")], &packets), "+-+--");
    assert_eq!(ingress(&[&format!("ingress: [{{{echo}}}]")], &packets), "+-+--");
    assert_eq!(ingress(&[&format!("ingress: [{{{peer}}}]")], &packets), "+++++");
    assert_eq!(ingress(&[&format!("ingress: [{{{peer}, {echo}, {required}}}]")], &packets), "a-a--");
    assert_eq!(
        ingress(
            &[&format!("ingress: [{{{peer}, {required}}}]"), &format!("ingress: [{{{echo}}}]")],
            &packets
        ),
        "aaaaa"
    );
}

#[test]
fn wide_policies_and_namespaced_ones_add_up() {
    let mut repository = with(&["ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]"]);
    let allowed =
        |repository: &Repository, peer| decision(repository, Direction::Ingress, peer, TCP, 80).allow;
    assert!(allowed(&repository, CLIENT) && !allowed(&repository, OTHER));
    repository.upsert_policy(wide("open", "{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"));
    assert!(
        allowed(&repository, CLIENT) && allowed(&repository, OTHER) && !allowed(&repository, reserved::WORLD)
    );
    let shut = "{endpointSelector: {}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]}";
    repository.upsert_policy(wide("shut", shut));
    assert!(!allowed(&repository, CLIENT) && !allowed(&repository, OTHER) && allowed(&repository, DB));
    let id = PolicyId {
        kind: Kind::CiliumClusterwideNetworkPolicy,
        namespace: String::new(),
        name: "shut".into(),
    };
    repository.remove_policy(&id);
    assert!(allowed(&repository, CLIENT) && allowed(&repository, OTHER));
}

#[test]
fn pods_in_a_block_of_addresses_are_meant() {
    let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, \
                spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}}";
    let mut repository = with(&["egress: [{toCIDR: [10.0.0.0/24]}]"]);
    repository.upsert_policy(parse(&yaml::parse(text).unwrap().remove(0), &Settings::default()).unwrap());
    let pods = |pods: &[&[&str]]| {
        let addresses = |pod: &&[&str]| pod.iter().map(|address| address.parse().unwrap()).collect();
        pods.iter().map(addresses).collect::<countersign_policy::repository::PodAddresses>()
    };
    let table: &[(&[&[&str]], bool)] = &[
        (&[&["10.0.0.1"]], true),
        (&[&["10.0.0.1", "fd00::1"]], true),
        (&[&["10.0.0.1"], &["10.9.0.1"]], true),
        // One verdict for all pods of an identity: who is let in must be inside, every one of them.
        (&[&["10.0.0.1"], &["192.168.0.1"]], false),
        (&[&["10.0.0.1"], &["10.1.0.1"]], false),
        (&[&["10.0.0.1", "10.1.0.1"]], false),
        (&[&["192.168.0.1"]], false),
        (&[&["fd00::1"]], false),
        (&[], false),
    ];
    for (addresses, passes) in table {
        let touched = repository.set_addresses(OTHER, pods(addresses));
        assert_eq!(
            decision(&repository, Direction::Ingress, OTHER, TCP, 80).allow,
            *passes,
            "{addresses:?} {touched:?}"
        );
    }
    assert!(repository.set_addresses(OTHER, pods(&[&["10.0.0.1"]])).identities().contains(&WEB));
    assert!(repository.set_addresses(OTHER, pods(&[&["10.0.0.2"]])).is_empty(), "still inside");
    repository.upsert_identity(OTHER, labels("other", "server"));
    assert!(decision(&repository, Direction::Ingress, OTHER, TCP, 80).allow, "where it is has not changed");
    assert!(
        !repository.resolve(WEB, 1).lookup(Direction::Egress, OTHER, TCP, 80).allow,
        "toCIDR is not about pods"
    );
}

/// Applies the first `count` operations.
fn after(
    old: &countersign_policy::EndpointPolicy,
    ops: &[Op],
    count: usize,
) -> countersign_policy::EndpointPolicy {
    let mut state = old.clone();
    for op in &ops[..count] {
        match op {
            Op::SetExact(key, entry) => drop(state.exact.insert(*key, *entry)),
            Op::DeleteExact(key) => drop(state.exact.remove(key)),
            Op::Set(key, bits, entry) => drop(state.entries.insert((*key, *bits), *entry)),
            Op::Delete(key, bits) => drop(state.entries.remove(&(*key, *bits))),
        }
    }
    state
}

#[test]
fn authentication_is_never_lost_on_the_way() {
    // What is required of one peer by name becomes required of a port, and the reverse; at no point is it neither.
    let peer = "fromEndpoints: [{matchLabels: {app: client}}]";
    let port = "toPorts: [{ports: [{port: '1', endPort: 1000, protocol: TCP}]}]";
    let required = "authentication: {mode: required}";
    let by_peer = format!("ingress: [{{{peer}, {required}}}, {{fromEntities: [all]}}]");
    let by_port = format!("ingress: [{{{peer}, {port}, {required}}}, {{{port}}}]");
    for (old, new) in [(&by_peer, &by_port), (&by_port, &by_peer)] {
        let (old, new) = (with(&[old.as_str()]).resolve(WEB, 1), with(&[new.as_str()]).resolve(WEB, 1));
        let ops = diff(&old, &new);
        assert!(!ops.is_empty());
        for count in 0..=ops.len() {
            let got = after(&old, &ops, count).lookup(Direction::Ingress, CLIENT, TCP, 80);
            assert!(got.allow && got.auth_type == 1, "after {count} of {ops:#?}");
        }
        assert_eq!(after(&old, &ops, ops.len()).entries, new.entries);
    }
}

#[test]
fn a_changed_rule_touches_its_own_entries_only() {
    let ports = |last: u16| {
        let range = format!("{{port: '2000', endPort: {last}, protocol: TCP}}");
        format!(
            "ingress: [{{fromEndpoints: [{{}}], toPorts: [{{ports: [{{port: '80', protocol: TCP}}, {range}]}}]}}]"
        )
    };
    let (old, new) = (with(&[&ports(2003)]).resolve(WEB, 1), with(&[&ports(2007)]).resolve(WEB, 1));
    for op in diff(&old, &new) {
        let (Op::SetExact(key, _) | Op::DeleteExact(key) | Op::Set(key, ..) | Op::Delete(key, _)) = op;
        assert_eq!(u16::from_be(key.port_be), 2000, "{op:?}");
    }
}
