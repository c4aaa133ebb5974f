//! ClusterNetworkPolicy: rules in an order before and after everybody else's, and what passes.

use countersign_policy::identity::{FIRST_CIDR, cidr_labels, reserved};
use countersign_policy::labels::{CLUSTER, Labels, POD_NAMESPACE, Source};
use countersign_policy::model::Direction;
use countersign_policy::{DocumentError, Policy, Repository, Settings, parse, yaml};

const WEB: u32 = 1000;
const CLIENT: u32 = 1001;
const OTHER: u32 = 2000;
const TCP: u8 = 6;

fn read(text: &str) -> Result<Policy, DocumentError> {
    parse(&yaml::parse(text).unwrap().remove(0), &Settings::default())
}

fn tiered(spec: &str) -> Result<Policy, DocumentError> {
    let name = format!("p{}", spec.len());
    read(&format!(
        "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
    ))
}

fn normal(spec: &str) -> Policy {
    read(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: n, namespace: shop}}, spec: {spec}}}"
    ))
    .unwrap()
}

fn world(policies: Vec<Policy>) -> Repository {
    let mut repository = Repository::new();
    for (number, namespace, app) in
        [(WEB, "shop", "web"), (CLIENT, "shop", "client"), (OTHER, "other", "client")]
    {
        let mut labels = Labels::new();
        labels.insert(Source::K8s, POD_NAMESPACE, namespace);
        labels.insert(Source::K8s, CLUSTER, "default");
        labels.insert(Source::K8s, "app", app);
        labels.insert(Source::K8s, "io.cilium.k8s.namespace.labels.name", namespace);
        repository.upsert_identity(number, labels);
    }
    for policy in policies {
        repository.upsert_policy(policy);
    }
    for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
        repository.upsert_identity(number, cidr_labels(net));
    }
    repository
}

/// `+` allowed, `x` denied by a rule, `-` by nothing that allows.
fn ingress(policies: Vec<Policy>, packets: &[(u32, u16)]) -> String {
    let policy = world(policies).resolve(WEB, 1);
    let sign = |(peer, port): &(u32, u16)| {
        let decision = policy.lookup(Direction::Ingress, *peer, TCP, *port);
        match (decision.allow, decision.deny_rule) {
            (true, _) => '+',
            (false, true) => 'x',
            (false, false) => '-',
        }
    };
    packets.iter().map(sign).collect()
}

const ALL_PODS: &str = "{namespaces: {}}";
const PACKETS: [(u32, u16); 5] =
    [(CLIENT, 80), (CLIENT, 443), (OTHER, 80), (OTHER, 443), (reserved::WORLD, 80)];

fn admin(priority: u32, rules: &str) -> Policy {
    tiered(&format!("{{tier: Admin, priority: {priority}, subject: {ALL_PODS}, ingress: [{rules}]}}"))
        .unwrap()
}

fn baseline(rules: &str) -> Policy {
    tiered(&format!("{{tier: Baseline, priority: 0, subject: {ALL_PODS}, ingress: [{rules}]}}")).unwrap()
}

#[test]
fn tiers_are_asked_one_after_the_other() {
    let from = "from: [{namespaces: {matchLabels: {name: other}}}]";
    let http = "protocols: [{tcp: {destinationPort: {number: 80}}}]";
    let rule = |action: &str, more: &str| format!("{{action: {action}, {from}{more}}}");
    let http = format!(", {http}");
    let deny_all = || normal("{endpointSelector: {}, ingress: [{}]}");
    let allow_all = || normal("{endpointSelector: {}, ingress: [{fromEntities: [all]}]}");
    let deny_other = || {
        let other = "{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}";
        normal(&format!(
            "{{endpointSelector: {{}}, ingress: [{{fromEntities: [all]}}], ingressDeny: [{{fromEndpoints: [{other}]}}]}}"
        ))
    };
    let table: Vec<(Vec<Policy>, &str)> = vec![
        (vec![admin(0, &rule("Deny", ""))], "++xx+"),
        (vec![admin(0, &rule("Deny", &http))], "++x++"),
        (vec![admin(0, &rule("Accept", "")), deny_all()], "--++-"),
        (vec![admin(0, &rule("Accept", &http)), deny_other()], "+++x+"),
        (vec![admin(0, &rule("Deny", "")), allow_all()], "++xx+"),
        // The order of rules, and of priorities.
        (vec![admin(0, &format!("{}, {}", rule("Accept", &http), rule("Deny", "")))], "+++x+"),
        (vec![admin(0, &format!("{}, {}", rule("Deny", ""), rule("Accept", &http)))], "++xx+"),
        (vec![admin(7, &rule("Deny", "")), admin(6, &rule("Accept", &http))], "+++x+"),
        (vec![admin(5, &rule("Deny", "")), admin(600, &rule("Accept", &http))], "++xx+"),
        // Passing leaves it to the others, at one port or at all.
        (vec![admin(0, &format!("{}, {}", rule("Pass", &http), rule("Deny", "")))], "+++x+"),
        (vec![admin(0, &format!("{}, {}", rule("Pass", &http), rule("Deny", ""))), deny_all()], "---x-"),
        (vec![admin(0, &format!("{}, {}", rule("Pass", ""), rule("Deny", &http))), deny_other()], "++xx+"),
        (vec![admin(0, &format!("{}, {}", rule("Pass", ""), rule("Accept", ""))), deny_all()], "-----"),
        (vec![admin(0, &format!("{}, {}", rule("Pass", &http), rule("Accept", ""))), deny_all()], "---+-"),
        // The baseline is asked where nobody else has isolated the pod.
        (vec![baseline(&rule("Deny", ""))], "++xx+"),
        (vec![baseline(&rule("Deny", "")), allow_all()], "+++++"),
        (vec![baseline(&rule("Accept", "")), deny_all()], "-----"),
        (vec![baseline(&format!("{}, {}", rule("Pass", &http), rule("Deny", "")))], "+++x+"),
        (vec![admin(0, &rule("Pass", "")), baseline(&rule("Deny", ""))], "++xx+"),
    ];
    for (index, (policies, expected)) in table.into_iter().enumerate() {
        let text = format!("{policies:#?}");
        assert_eq!(ingress(policies, &PACKETS), expected, "row {index}: {text}");
    }
}

#[test]
fn networks_mean_pods_and_nodes_too() {
    let rule = |action: &str| {
        tiered(&format!(
            "{{tier: Admin, priority: 1, subject: {ALL_PODS}, egress: [{{action: {action}, to: [{{networks: [10.0.0.0/8]}}]}}]}}"
        ))
        .unwrap()
    };
    let addresses = |list: &[&str]| {
        list.iter()
            .map(|address| [address.parse().unwrap()].into())
            .collect::<countersign_policy::repository::PodAddresses>()
    };
    for (action, inside, across) in [("Deny", false, false), ("Accept", true, true), ("Pass", true, true)] {
        let mut repository = world(vec![rule(action)]);
        repository.set_addresses(CLIENT, addresses(&["10.1.1.1"]));
        // One of these is inside: what denies must not miss it, what accepts must not let in the other.
        repository.set_addresses(OTHER, addresses(&["10.1.1.2", "192.168.0.1"]));
        repository.set_addresses(reserved::REMOTE_NODE, addresses(&["10.0.0.1"]));
        let allowed = |peer| repository.resolve(WEB, 1).lookup(Direction::Egress, peer, TCP, 80).allow;
        assert_eq!(allowed(CLIENT), inside, "{action}");
        assert_eq!(allowed(OTHER), across, "{action}");
        assert_eq!(allowed(reserved::REMOTE_NODE), inside, "{action}");
        assert_eq!(allowed(FIRST_CIDR), inside, "{action}");
        assert!(allowed(reserved::WORLD), "{action}");
    }
}

#[test]
fn what_cannot_be_known_is_closed() {
    let rule = |action: &str, to: &str| {
        let spec = format!(
            "{{tier: Admin, priority: 1, subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{}}}}}}, \
             egress: [{{action: {action}, to: [{to}]}}, {{action: Accept, to: [{{nodes: {{}}}}]}}]}}"
        );
        tiered(&spec).unwrap()
    };
    let nodes = "{nodes: {matchLabels: {role: edge}}}";
    let allowed =
        |policy| world(vec![policy]).resolve(WEB, 1).lookup(Direction::Egress, reserved::HOST, TCP, 80).allow;
    assert!(allowed(rule("Accept", nodes)), "the second rule");
    assert!(!allowed(rule("Deny", nodes)));
    assert!(!allowed(rule("Pass", nodes)), "who might be passed is not accepted below");
    assert_eq!(rule("Accept", "{domainNames: ['*.example.com']}").notes.len(), 1);
}

#[test]
fn documents_are_read_strictly() {
    let rule = |rule: &str| format!("{{tier: Admin, priority: 1, subject: {ALL_PODS}, egress: [{rule}]}}");
    let table = [
        ("{priority: 1, subject: {namespaces: {}}}".to_owned(), "spec"),
        ("{tier: Normal, priority: 1, subject: {namespaces: {}}}".to_owned(), "spec.tier"),
        ("{tier: Admin, priority: 1001, subject: {namespaces: {}}}".to_owned(), "spec.priority"),
        ("{tier: Admin, priority: 1, subject: {}}".to_owned(), "spec.subject"),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}}".to_owned(),
            "spec.subject",
        ),
        (rule("{action: Allow, to: [{namespaces: {}}]}"), "spec.egress[0].action"),
        (rule("{action: Deny, to: []}"), "spec.egress[0].to"),
        (rule("{action: Deny, to: [{}]}"), "spec.egress[0].to[0]"),
        (rule("{action: Deny, to: [{services: {}}]}"), "spec.egress[0].to[0].services"),
        (rule("{action: Deny, from: [{namespaces: {}}]}"), "spec.egress[0]"),
        (rule("{action: Deny, to: [{domainNames: [a.example]}]}"), "spec.egress[0].to[0].domainNames"),
        (rule("{action: Deny, to: [{networks: [10.0.0.0/33]}]}"), "spec.egress[0].to[0].networks[0]"),
        (rule("{action: Deny, to: [{namespaces: {}}], protocols: []}"), "spec.egress[0].protocols"),
        (rule("{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {port: 1}}]}"), "spec.egress[0].protocols[0].tcp.port"),
        (
            rule("{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 9}}}}]}"),
            "spec.egress[0].protocols[0].tcp.destinationPort.range",
        ),
        (
            rule("{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}"),
            "spec.egress[0].protocols[0].destinationNamedPort",
        ),
    ];
    for (text, path) in table {
        assert_eq!(tiered(&text).unwrap_err().path, path, "{text}");
    }
    let ports = rule(
        "{name: web, action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}, \
         {udp: {}}, {sctp: {destinationPort: {number: 5}}}, {destinationNamedPort: http}]}",
    );
    assert!(tiered(&ports).unwrap().notes.is_empty());
}
