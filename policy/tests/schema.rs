//! Every field that a policy may have, and what becomes of those that need a part that is not built: nothing that
//! they speak of is let through, and the policy says which of its fields that is about.

use countersign_policy::identity::{FIRST_CIDR, cidr_labels, reserved};
use countersign_policy::labels::{CLUSTER, Labels, POD_NAMESPACE, Source};
use countersign_policy::model::{Direction, NoteKind};
use countersign_policy::repository::{Enforcement, Repository, Scope, View};
use countersign_policy::{Policy, Settings, parse, yaml};

const WEB: u32 = 1000;
const CLIENT: u32 = 1001;
const OTHER: u32 = 2000;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn labels(namespace: &str, app: &str) -> Labels {
    let mut labels = Labels::new();
    labels.insert(Source::K8s, POD_NAMESPACE, namespace);
    labels.insert(Source::K8s, CLUSTER, "default");
    labels.insert(Source::K8s, "app", app);
    labels.insert(Source::K8s, "io.cilium.k8s.namespace.labels.team", namespace);
    labels
}

fn read(text: &str) -> Policy {
    let document = yaml::parse(text).unwrap().remove(0);
    parse(&document, &Settings::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn cnp(name: &str, spec: &str) -> Policy {
    read(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
    ))
}

fn ccnp(name: &str, spec: &str) -> Policy {
    read(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
    ))
}

fn group(name: &str, team: &str, nets: &str) -> Policy {
    read(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {{name: {name}, labels: {{team: {team}}}}}, \
         spec: {{externalCIDRs: [{nets}]}}}}"
    ))
}

fn world(policies: Vec<Policy>) -> Repository {
    let mut repository = Repository::new();
    for (number, namespace, app) in
        [(WEB, "shop", "web"), (CLIENT, "shop", "client"), (OTHER, "other", "client")]
    {
        repository.upsert_identity(number, labels(namespace, app));
    }
    for policy in policies {
        repository.upsert_policy(policy);
    }
    number_ranges(&mut repository);
    repository
}

fn number_ranges(repository: &mut Repository) {
    for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
        repository.upsert_identity(number, cidr_labels(net));
    }
}

fn passes(repository: &Repository, direction: Direction, peer: u32, protocol: u8, port: u16) -> bool {
    repository.resolve(WEB, 1).lookup(direction, peer, protocol, port).allow
}

fn missing(policy: &Policy) -> Vec<(&str, Option<u32>)> {
    let missing = policy.notes.iter().filter(|note| note.kind == NoteKind::Missing);
    missing.map(|note| (note.path.as_str(), note.line)).collect()
}

/// Peers beside `other` clauses: the ones that need a missing part.
#[test]
fn what_needs_a_missing_part_lets_nothing_through_and_says_so() {
    let table = [
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]",
            "spec.ingress[0].toPorts[0].rules",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {kafka: [{role: produce, topic: a}]}}]}]",
            "spec.ingress[0].toPorts[0].rules",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {l7proto: x, l7: [{a: b}]}}]}]",
            "spec.ingress[0].toPorts[0].rules",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {}}]}]",
            "spec.ingress[0].toPorts[0].rules",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], serverNames: ['*.example.com']}]}]",
            "spec.ingress[0].toPorts[0].serverNames",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], terminatingTLS: {secret: {name: a, namespace: b}}}]}]",
            "spec.ingress[0].toPorts[0].terminatingTLS",
        ),
        ("ingress: [{fromNodes: [{matchLabels: {role: edge}}]}]", "spec.ingress[0].fromNodes"),
        ("ingress: [{fromGroups: [{aws: {securityGroupsIds: [sg-1]}}]}]", "spec.ingress[0].fromGroups"),
        (
            "ingress: [{fromEndpoints: [{matchLabels: {'node:role': edge}}]}]",
            "spec.ingress[0].fromEndpoints[0]",
        ),
        (
            "ingress: [{fromEndpoints: [{matchExpressions: [{key: 'fqdn:a', operator: DoesNotExist}]}]}]",
            "spec.ingress[0].fromEndpoints[0]",
        ),
        (
            "egress: [{toFQDNs: [{matchName: api.example.com}, {matchPattern: '*.example.com'}]}]",
            "spec.egress[0].toFQDNs",
        ),
        (
            "egress: [{toServices: [{k8sService: {serviceName: a, namespace: b}}]}]",
            "spec.egress[0].toServices",
        ),
        ("egress: [{toNodes: [{}], toPorts: [{ports: [{port: '80'}]}]}]", "spec.egress[0].toNodes"),
        ("egress: [{toGroups: [{aws: {region: x}}]}]", "spec.egress[0].toGroups"),
        (
            "egress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]}]",
            "spec.egress[0].toPorts[0].rules",
        ),
        (
            "egress: [{toPorts: [{ports: [{port: '80'}], listener: {name: a, envoyConfig: {kind: CiliumEnvoyConfig, name: b}}}]}]",
            "spec.egress[0].toPorts[0].listener",
        ),
    ];
    for (text, path) in table {
        let policy = cnp("p", &format!("{{endpointSelector: {{}}, {text}}}"));
        assert_eq!(missing(&policy), [(path, Some(1))], "{text}");
        let repository = world(vec![policy]);
        let direction = if text.starts_with("egress") { Direction::Egress } else { Direction::Ingress };
        for peer in [CLIENT, OTHER, reserved::WORLD, reserved::REMOTE_NODE, reserved::UNKNOWN] {
            for (protocol, port) in [(TCP, 80), (UDP, 53), (TCP, 443), (1, 8)] {
                assert!(
                    !passes(&repository, direction, peer, protocol, port),
                    "{text}: {peer} {protocol}/{port}"
                );
            }
        }
        let conditions = repository.conditions(&repository.policies().next().unwrap().id);
        assert_eq!(conditions.iter().filter(|note| note.kind == NoteKind::Missing).count(), 1);
    }
}

#[test]
fn what_is_withheld_is_no_wall() {
    let http = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]";
    let client = "fromEndpoints: [{matchLabels: {app: client}}]";
    // Another rule that allows the same without a proxy still does, as it would with one.
    let withheld = format!("{{endpointSelector: {{}}, ingress: [{{{client}, {http}}}]}}");
    let plain = format!("{{endpointSelector: {{}}, ingress: [{{{client}}}]}}");
    let repository = world(vec![cnp("a", &withheld), cnp("b", &plain)]);
    assert!(passes(&repository, Direction::Ingress, CLIENT, TCP, 80));
    // The other ports of the same clause are not withheld.
    let mixed = format!(
        "{{endpointSelector: {{}}, ingress: [{{{client}, toPorts: [{{ports: [{{port: '443', protocol: TCP}}]}}, \
         {{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{}}]}}}}]}}]}}"
    );
    let repository = world(vec![cnp("a", &mixed)]);
    assert!(passes(&repository, Direction::Ingress, CLIENT, TCP, 443));
    assert!(!passes(&repository, Direction::Ingress, CLIENT, TCP, 80));
    let decision = repository.resolve(WEB, 1).lookup(Direction::Ingress, CLIENT, TCP, 80);
    assert_eq!(repository.rule(decision.rule_id).unwrap().name, "a", "the drop is the rule's");
    // Nor does it become an allow where nothing is denied by default.
    let open = format!(
        "{{endpointSelector: {{}}, enableDefaultDeny: {{ingress: false}}, ingress: [{{{client}, {http}}}]}}"
    );
    let repository = world(vec![cnp("a", &open)]);
    assert!(!passes(&repository, Direction::Ingress, CLIENT, TCP, 80));
    assert!(passes(&repository, Direction::Ingress, CLIENT, TCP, 81));
    assert!(passes(&repository, Direction::Ingress, OTHER, TCP, 80));
}

#[test]
fn what_denies_and_cannot_be_told_apart_denies_all_that_it_could_mean() {
    let table = [
        ("egressDeny: [{toNodes: [{matchLabels: {a: b}}]}]", vec![reserved::HOST, reserved::REMOTE_NODE]),
        ("egressDeny: [{toGroups: [{aws: {region: x}}]}]", vec![reserved::WORLD]),
        ("egressDeny: [{toServices: [{k8sService: {serviceName: a}}]}]", vec![CLIENT, reserved::WORLD]),
        ("egressDeny: [{toEndpoints: [{matchLabels: {'node:a': b}}]}]", vec![CLIENT, reserved::WORLD]),
    ];
    for (text, denied) in table {
        let spec = format!("{{endpointSelector: {{}}, egress: [{{toEntities: [all]}}], {text}}}");
        let repository = world(vec![cnp("p", &spec)]);
        for peer in [CLIENT, reserved::HOST, reserved::REMOTE_NODE, reserved::WORLD] {
            let all = denied.contains(&CLIENT);
            assert_eq!(
                passes(&repository, Direction::Egress, peer, TCP, 80),
                !(all || denied.contains(&peer)),
                "{text}: {peer}"
            );
        }
    }
}

#[test]
fn policies_for_nodes_cut_pods_and_nodes_apart() {
    let policy =
        ccnp("host", "{nodeSelector: {matchLabels: {role: edge}}, ingress: [{fromEntities: [cluster]}]}");
    assert_eq!(missing(&policy), [("spec.nodeSelector", Some(1))]);
    let repository = world(vec![policy]);
    assert!(!passes(&repository, Direction::Egress, reserved::HOST, TCP, 22));
    assert!(!passes(&repository, Direction::Egress, reserved::REMOTE_NODE, TCP, 22));
    assert!(passes(&repository, Direction::Egress, CLIENT, TCP, 22));
    assert!(
        passes(&repository, Direction::Ingress, reserved::HOST, TCP, 22),
        "probes are not what it restricts"
    );
}

#[test]
fn protocols_by_name_and_by_number() {
    let table = [
        ("{protocol: GRE}", 47),
        ("{protocol: ESP, port: '0'}", 50),
        ("{protocol: AH}", 51),
        ("{protocol: VRRP}", 112),
        ("{protocol: IGMP}", 2),
        ("{protocol: IPIP}", 4),
        ("{protocol: IPV6, port: ''}", 41),
        ("{protocol: '89'}", 89),
        ("{protocol: 89}", 89),
        ("{protocol: '6', port: '80'}", TCP),
    ];
    for (entry, number) in table {
        let spec = format!("{{endpointSelector: {{}}, egress: [{{toPorts: [{{ports: [{entry}]}}]}}]}}");
        let repository = world(vec![cnp("p", &spec)]);
        assert!(passes(&repository, Direction::Egress, CLIENT, number, 80), "{entry}");
        assert!(!passes(&repository, Direction::Egress, CLIENT, UDP, 80), "{entry}");
    }
}

#[test]
fn sources_of_labels() {
    let peers = |selector: &str| {
        let spec = format!("{{endpointSelector: {{}}, ingress: [{{fromEndpoints: [{selector}]}}]}}");
        let repository = world(vec![cnp("p", &spec)]);
        [CLIENT, OTHER].map(|peer| passes(&repository, Direction::Ingress, peer, TCP, 80))
    };
    assert_eq!(peers("{matchLabels: {'any:app': client}}"), [true, false]);
    assert_eq!(peers("{matchLabels: {'k8s:app': client}}"), [true, false]);
    for source in ["container", "unspec", "cni", "generated"] {
        assert_eq!(
            peers(&format!("{{matchLabels: {{'{source}:app': client}}}}")),
            [false, false],
            "{source}"
        );
    }
    assert_eq!(peers("{namespaceSelector: {}}"), [true, true]);
    assert_eq!(peers("{namespaceSelector: {matchLabels: {team: other}}}"), [false, true]);
    assert_eq!(
        peers(
            "{matchLabels: {app: client}, namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [other]}]}}"
        ),
        [true, false]
    );
}

#[test]
fn entities_of_other_clusters_and_of_one_family() {
    let mut far = labels("shop", "client");
    far.insert(Source::K8s, CLUSTER, "west");
    let mut repository = world(vec![
        cnp("a", "{endpointSelector: {}, ingress: [{fromEntities: [cluster-mesh]}]}"),
        cnp("b", "{endpointSelector: {}, egress: [{toEntities: [world-ipv4]}]}"),
    ]);
    repository.upsert_identity(3000, far);
    assert!(passes(&repository, Direction::Ingress, 3000, TCP, 80));
    assert!(!passes(&repository, Direction::Ingress, CLIENT, TCP, 80));
    assert_eq!(repository.cidrs().iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0/0"]);
    assert!(passes(&repository, Direction::Egress, FIRST_CIDR, TCP, 80));
    assert!(!passes(&repository, Direction::Egress, reserved::WORLD, TCP, 80), "IPv6 is not meant");
}

#[test]
fn groups_of_ranges_come_and_go() {
    let spec = "{endpointSelector: {}, egress: [{toCIDRSet: [{cidrGroupRef: partners, except: [203.0.113.128/25]}]}, \
                {toCIDRSet: [{cidrGroupSelector: {matchLabels: {team: cdn}}}]}]}";
    let mut repository = world(vec![cnp("p", spec)]);
    let id = repository.policies().next().unwrap().id.clone();
    assert!(repository.cidrs().is_empty());
    assert!(repository.conditions(&id)[0].message.contains("no CiliumCIDRGroup partners"));
    repository.upsert_policy(group("partners", "sales", "203.0.113.0/24, 203.0.113.192/26"));
    repository.upsert_policy(group("edge", "cdn", "198.51.100.0/24"));
    number_ranges(&mut repository);
    assert!(repository.conditions(&id).is_empty());
    let of = |repository: &Repository, net: &str| {
        let found =
            repository.identities().find(|(_, labels)| labels.cidrs().any(|known| known.to_string() == net));
        found.is_some_and(|(identity, _)| passes(repository, Direction::Egress, identity, TCP, 443))
    };
    assert!(of(&repository, "203.0.113.0/24") && of(&repository, "198.51.100.0/24"));
    assert!(!of(&repository, "203.0.113.128/25") && !of(&repository, "203.0.113.192/26"));
    let touched = repository.upsert_policy(group("edge", "other", "198.51.100.0/24"));
    assert!(touched.identities().contains(&WEB) && !of(&repository, "198.51.100.0/24"));
    let gone = group("partners", "sales", "").id;
    assert!(repository.remove_policy(&gone).identities().contains(&WEB));
    assert!(!of(&repository, "203.0.113.0/24"));
}

#[test]
fn older_versions_and_slips_that_have_one_meaning_are_taken_with_a_remark() {
    let old = read(
        "{apiVersion: cilium.io/v1alpha1, kind: CiliumNetworkPolicy, metadata: {name: p, namespace: shop}, \
         spec: {endpointSelector: {}, ingress: [{}]}}",
    );
    assert_eq!((old.notes[0].kind, old.notes[0].path.as_str()), (NoteKind::Remark, "apiVersion"));
    // HTTP and Kafka speak TCP; the ports are withheld, and UDP is not spoken of.
    let policy = cnp(
        "p",
        "{endpointSelector: {}, enableDefaultDeny: {ingress: false}, \
         ingress: [{toPorts: [{ports: [{port: '8081'}], rules: {http: [{path: /}]}}]}]}",
    );
    assert!(policy.notes.iter().any(|note| note.message.contains("read as TCP")));
    let repository = world(vec![policy]);
    assert!(!passes(&repository, Direction::Ingress, CLIENT, TCP, 8081));
    assert!(passes(&repository, Direction::Ingress, CLIENT, UDP, 8081));
    let logged =
        cnp("p", "{endpointSelector: {}, log: {value: 'ticket 42'}, ingress: [{fromEntities: [all]}]}");
    let repository = world(vec![logged]);
    let decision = repository.resolve(WEB, 1).lookup(Direction::Ingress, CLIENT, TCP, 80);
    assert_eq!(repository.rule(decision.rule_id).unwrap().log, "ticket 42");
}

#[test]
fn modes_of_enforcement() {
    let mut repository =
        world(vec![cnp("p", "{endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}")]);
    let verdicts = |repository: &Repository| {
        let of = |identity: u32, direction| {
            repository.resolve(identity, 1).lookup(direction, OTHER, TCP, 80).allow
        };
        [of(WEB, Direction::Ingress), of(WEB, Direction::Egress), of(CLIENT, Direction::Ingress)]
    };
    assert_eq!(verdicts(&repository), [false, true, true]);
    assert!(repository.set_enforcement(Enforcement::Always).identities().contains(&CLIENT));
    assert_eq!(verdicts(&repository), [false, false, false]);
    assert!(passes(&repository, Direction::Ingress, reserved::HOST, TCP, 80), "probes");
    repository.set_enforcement(Enforcement::Never);
    assert_eq!(verdicts(&repository), [true, true, true]);
    assert!(!repository.resolve(reserved::INIT, 1).lookup(Direction::Egress, WEB, TCP, 80).allow);
    assert!(repository.set_enforcement(Enforcement::Never).is_empty());
}

#[test]
fn audited_policies_drop_nothing_and_have_a_verdict_of_their_own() {
    let audited = read(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: shop, \
         annotations: {policy.countersign.dev/mode: audit}}, spec: {endpointSelector: {matchLabels: {app: web}}, \
         ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]}}",
    );
    let mut repository = world(vec![audited]);
    let as_if = |repository: &Repository, peer| {
        let policy = repository.resolve_as_if(WEB, 1);
        policy.map(|policy| policy.lookup(Direction::Ingress, peer, TCP, 80))
    };
    assert!(passes(&repository, Direction::Ingress, CLIENT, TCP, 80));
    let would = as_if(&repository, CLIENT).unwrap();
    assert!(!would.allow && repository.rule(would.rule_id).unwrap().name == "a");
    assert!(repository.resolve_as_if(CLIENT, 1).is_none(), "nothing is audited there");
    // A namespace as a whole.
    repository.upsert_policy(cnp("b", "{endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}"));
    assert!(!passes(&repository, Direction::Ingress, OTHER, TCP, 80));
    assert!(repository.set_audited(["shop".to_owned()].into()).identities().contains(&WEB));
    assert!(passes(&repository, Direction::Ingress, OTHER, TCP, 80));
    assert!(!as_if(&repository, OTHER).unwrap().allow);
    assert!(repository.set_audited(["shop".to_owned()].into()).is_empty());
    repository.set_audited([].into());
    assert!(!passes(&repository, Direction::Ingress, OTHER, TCP, 80));
    names_of_default_deny(&mut repository);
    let text = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, \
                annotations: {policy.countersign.dev/mode: audti}}, spec: {endpointSelector: {}, ingress: []}}";
    let error = parse(&yaml::parse(text).unwrap().remove(0), &Settings::default()).unwrap_err();
    assert_eq!(error.path, "metadata.annotations[\"policy.countersign.dev/mode\"]");
}

/// `a` is audited and denies nothing by default, `b` is enforced and does.
fn names_of_default_deny(repository: &mut Repository) {
    let names = |repository: &Repository, direction, as_if| {
        let ids = repository.isolating(WEB, direction, as_if);
        ids.into_iter().map(|id| id.name).collect::<Vec<_>>()
    };
    assert_eq!(names(repository, Direction::Ingress, false), ["b"]);
    assert_eq!(names(repository, Direction::Ingress, true), ["a", "b"]);
    assert!(names(repository, Direction::Egress, true).is_empty());
    repository.set_audited(["shop".to_owned()].into());
    assert!(names(repository, Direction::Ingress, false).is_empty());
    assert!(repository.is_audited(WEB) && !repository.is_audited(CLIENT));
    // An endpoint in audit mode drops nothing, whatever is enforced elsewhere; one without an identity stays closed.
    repository.set_audited([].into());
    let mut open = repository.resolve(WEB, 1);
    let _ = repository.refresh_as(View::Open, WEB, &mut open, Scope::Whole);
    assert!(open.lookup(Direction::Ingress, OTHER, TCP, 80).allow && !open.ingress_enforced);
    let mut closed = repository.resolve(reserved::INIT, 1);
    let _ = repository.refresh_as(View::Open, reserved::INIT, &mut closed, Scope::Whole);
    assert!(!closed.lookup(Direction::Egress, WEB, TCP, 80).allow);
}
