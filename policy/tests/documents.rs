//! What documents mean, and which are refused: the field, its line, what to do.

use countersign_policy::model::{Action, AuthMode, Direction, Peers, PortMatch, Ports};
use countersign_policy::yaml::{Document, parse as yaml};
use countersign_policy::{DocumentError, Policy, Settings, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(text: &str) -> Result<Policy, DocumentError> {
    parse(&yaml(text).unwrap().remove(0), &Settings::default())
}

/// A CiliumNetworkPolicy in namespace `shop` with this rule.
fn rule(spec: &str) -> Result<Policy, DocumentError> {
    read(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    ))
}

/// The same with this ingress clause.
fn clause(text: &str) -> Result<Policy, DocumentError> {
    rule(&format!("{{endpointSelector: {{}}, ingress: [{text}]}}"))
}

fn ports(text: &str) -> Ports {
    clause(text).unwrap().rules.remove(0).clauses.remove(0).ports
}

fn peers(text: &str) -> Vec<String> {
    match clause(text).unwrap().rules.remove(0).clauses.remove(0).peers {
        Peers::Any => vec!["any".to_owned()],
        Peers::Of(selectors) => selectors.iter().map(ToString::to_string).collect(),
    }
}

const WHOLE: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: whole
  namespace: shop
  uid: abc
spec:
  description: everything there is
  labels:
  - {key: owner, value: us}
  endpointSelector:
    matchLabels: {app: web}
  enableDefaultDeny: {ingress: true, egress: false}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: client}
    authentication:
      mode: required
    toPorts:
    - ports:
      - {port: "80", protocol: TCP}
  - fromCIDRSet:
    - cidr: 10.0.0.0/8
      except: [10.1.0.0/16]
  ingressDeny:
  - fromEntities: [world]
  egress:
  - toEndpoints: [{}]
    icmps:
    - fields: [{type: EchoRequest}]
status: {conditions: []}
"#;

#[test]
fn a_document_in_full() {
    let policy = read(WHOLE).unwrap();
    assert_eq!(policy.id.to_string(), "CiliumNetworkPolicy shop/whole");
    assert_eq!(policy.uid, "abc");
    assert!(policy.notes.is_empty());
    let rule = &policy.rules[0];
    assert_eq!((rule.path.as_str(), rule.description.as_str()), ("spec", "everything there is"));
    assert_eq!(rule.labels, ["unspec:owner=us"]);
    assert_eq!(rule.subject.to_string(), "any:app in (web), k8s:io.kubernetes.pod.namespace in (shop)");
    assert!(rule.default_deny_ingress && !rule.default_deny_egress);
    let table: Vec<_> =
        rule.clauses.iter().map(|c| (c.direction, c.action, c.index, c.line, c.auth)).collect();
    assert_eq!(
        table,
        [
            (Direction::Ingress, Action::Allow, 0, Some(16), Some(AuthMode::Required)),
            (Direction::Ingress, Action::Allow, 1, Some(23), None),
            (Direction::Ingress, Action::Deny, 0, Some(27), None),
            (Direction::Egress, Action::Allow, 0, Some(29), None),
        ]
    );
}

#[test]
fn default_deny_follows_what_is_there() {
    let table = [
        ("{endpointSelector: {}, ingress: [{}]}", (true, false)),
        ("{endpointSelector: {}, egress: [{}]}", (false, true)),
        ("{endpointSelector: {}, ingressDeny: [{fromEntities: [all]}]}", (true, false)),
        ("{endpointSelector: {}, egressDeny: [{toEntities: [all]}], ingress: [{}]}", (true, true)),
        ("{endpointSelector: {}, ingress: []}", (true, false)),
        ("{endpointSelector: {}, ingress: [], egress: []}", (true, true)),
        ("{endpointSelector: {}, ingress: [{}], egress: null}", (true, false)),
        ("{endpointSelector: {}, ingress: [{}], ingressDeny: [], egressDeny: []}", (true, false)),
        ("{endpointSelector: {}, ingress: [{}], enableDefaultDeny: {ingress: false}}", (false, false)),
        ("{endpointSelector: {}, ingress: [{}], enableDefaultDeny: {egress: true}}", (true, true)),
        ("{endpointSelector: {}, enableDefaultDeny: {ingress: true}}", (true, false)),
    ];
    for (text, expected) in table {
        let policy = rule(text).unwrap();
        let found = (policy.rules[0].default_deny_ingress, policy.rules[0].default_deny_egress);
        assert_eq!(found, expected, "{text}");
        let empty = text.contains("gress: []");
        assert_eq!(!policy.notes.is_empty(), empty, "{text}: {:?}", policy.notes);
    }
}

#[test]
fn nothing_null_and_empty_are_three_things() {
    assert!(peers("{}").is_empty(), "an empty clause selects nobody");
    assert!(peers("{fromEndpoints: null}").is_empty());
    assert!(peers("{fromEndpoints: []}").is_empty());
    assert!(peers("{fromEndpoints: [], toPorts: [{ports: [{port: '80'}]}]}").is_empty());
    assert!(peers("{fromCIDR: [], toPorts: [{ports: [{port: '80'}]}]}").is_empty());
    assert!(peers("{fromEntities: [none]}").is_empty());
    assert_eq!(peers("{toPorts: [{ports: [{port: '80'}]}]}"), ["any"]);
    assert_eq!(peers("{fromEndpoints: null, toPorts: [{ports: [{port: '80'}]}]}"), ["any"]);
    assert_eq!(peers("{fromEntities: [all]}"), ["any"]);
    let here = "k8s:io.cilium.k8s.policy.cluster in (default), k8s:io.kubernetes.pod.namespace in (shop)";
    assert_eq!(peers("{fromEndpoints: [{}]}"), [here]);
}

#[test]
fn peers_are_scoped() {
    let cluster = "k8s:io.cilium.k8s.policy.cluster in (default)";
    let scope =
        |labels: &str| peers(&format!("{{fromEndpoints: [{{matchLabels: {{{labels}}}}}]}}")).remove(0);
    assert_eq!(
        scope("app: a"),
        format!("any:app in (a), {cluster}, k8s:io.kubernetes.pod.namespace in (shop)")
    );
    assert_eq!(
        scope("'k8s:app': a"),
        format!("k8s:app in (a), {cluster}, k8s:io.kubernetes.pod.namespace in (shop)")
    );
    let other = "k8s:io.kubernetes.pod.namespace";
    assert_eq!(scope(&format!("'{other}': b")), format!("{cluster}, {other} in (b)"));
    assert_eq!(
        scope("io.kubernetes.pod.namespace: b"),
        format!("{cluster}, any:io.kubernetes.pod.namespace in (b)")
    );
    let env = "io.cilium.k8s.namespace.labels.env";
    assert_eq!(scope(&format!("'k8s:{env}': x")), format!("k8s:{env} in (x), {cluster}"));
    assert_eq!(scope("'reserved:host': ''"), "reserved:host in ()");
    assert_eq!(scope("io.cilium.k8s.policy.cluster: c2").matches("policy.cluster").count(), 1);
}

#[test]
fn a_cluster_wide_policy_means_all_pods_and_no_more() {
    let text = "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: p}, \
                spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}}";
    let policy = read(text).unwrap();
    assert_eq!(policy.rules[0].subject.to_string(), "everything");
    let Peers::Of(selectors) = &policy.rules[0].clauses[0].peers else { panic!() };
    let expected = "k8s:io.cilium.k8s.policy.cluster in (default), k8s:io.kubernetes.pod.namespace";
    assert_eq!(selectors[0].to_string(), expected);
    assert!(policy.id.namespace.is_empty());
}

#[test]
fn a_subject_stays_in_its_namespace() {
    let own = "k8s:io.kubernetes.pod.namespace in (shop)";
    let table = [
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}", own.to_owned(), 1),
        ("{matchLabels: {io.kubernetes.pod.namespace: other}}", own.to_owned(), 1),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': shop}}", own.to_owned(), 0),
        (
            "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: In, values: [other]}]}",
            format!("any:io.kubernetes.pod.namespace in (other), {own}"),
            0,
        ),
        (
            "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: DoesNotExist}]}",
            format!("{own}, not k8s:io.kubernetes.pod.namespace"),
            0,
        ),
    ];
    for (selector, expected, notes) in table {
        let policy = rule(&format!("{{endpointSelector: {selector}, ingress: [{{}}]}}")).unwrap();
        assert_eq!(policy.rules[0].subject.to_string(), expected, "{selector}");
        assert_eq!(policy.notes.len(), notes, "{selector}");
    }
}

#[test]
fn ports_and_protocols() {
    let entry = |text: &str| ports(&format!("{{toPorts: [{{ports: [{text}]}}]}}"));
    let of = |matches: &[PortMatch]| Ports::Of(matches.to_vec());
    assert_eq!(entry("{port: '80', protocol: TCP}"), of(&[PortMatch::Range(6, 80, 80)]));
    assert_eq!(entry("{port: 80, protocol: SCTP}"), of(&[PortMatch::Range(132, 80, 80)]));
    let three = [6, 17, 132].map(|protocol| PortMatch::Range(protocol, 80, 80));
    assert_eq!(entry("{port: '80'}"), of(&three));
    assert_eq!(entry("{port: '80', protocol: ANY}"), of(&three));
    assert_eq!(entry("{port: '0', protocol: UDP}"), of(&[PortMatch::Protocol(17)]));
    assert_eq!(entry("{port: '0'}"), of(&[6, 17, 132].map(PortMatch::Protocol)));
    assert_eq!(entry("{port: '80', endPort: 90, protocol: TCP}"), of(&[PortMatch::Range(6, 80, 90)]));
    assert_eq!(entry("{port: '80', endPort: 0, protocol: TCP}"), of(&[PortMatch::Range(6, 80, 80)]));
    assert_eq!(entry("{port: HTTP, protocol: TCP}"), of(&[PortMatch::Named(6, "http".to_owned())]));
    let icmps = ports("{icmps: [{fields: [{type: 8}, {type: EchoReply, family: IPv6}, {type: '3'}]}]}");
    assert_eq!(
        icmps,
        of(&[PortMatch::Range(1, 8, 8), PortMatch::Range(58, 129, 129), PortMatch::Range(1, 3, 3)])
    );
    assert_eq!(ports("{fromEntities: [all]}"), Ports::All);
}

#[test]
fn entities_and_ranges() {
    assert_eq!(peers("{fromEntities: [world, host]}"), ["reserved:world", "reserved:host"]);
    let cluster = peers("{fromEntities: [cluster]}");
    assert_eq!(cluster.len(), 8);
    assert!(
        cluster.contains(&"reserved:kube-apiserver".to_owned())
            && !cluster.contains(&"reserved:world".to_owned())
    );
    assert_eq!(
        peers("{fromCIDR: [10.0.0.1, 10.1.2.3/8, '2001:db8::1']}"),
        ["10.0.0.1/32", "10.0.0.0/8", "2001:db8::1/128"]
    );
    assert_eq!(
        peers("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.2.0.0/16, 10.1.0.0/16]}]}"),
        ["10.0.0.0/8 without 10.1.0.0/16, 10.2.0.0/16"]
    );
    assert_eq!(peers("{fromEndpoints: [], fromCIDR: [10.0.0.0/8]}"), ["10.0.0.0/8"]);
}

#[test]
fn specs_each_count() {
    let text = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, \
                spec: {endpointSelector: {}, ingress: [{}]}, specs: [{endpointSelector: {}, egress: [{}]}]}";
    let policy = read(text).unwrap();
    assert_eq!(policy.id.namespace, "default");
    assert_eq!(policy.rules.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(), ["spec", "specs[0]"]);
}

#[test]
fn what_is_unknown_or_not_enforced_is_refused_with_its_path() {
    let table = [
        // the rule
        ("{ingress: [{}]}", "spec", "endpointSelector"),
        ("{endpointSelector: {}}", "spec", "says nothing"),
        ("{endpointSelector: {}, ingressDeny: []}", "spec", "says nothing"),
        ("{endpointSelector: {}, enableDefaultDeny: {ingress: false}}", "spec", "says nothing"),
        ("{endpointSelector: {}, ingres: [{}], ingress: [{}]}", "spec.ingres", "not a known field"),
        ("{nodeSelector: {}, ingress: [{}]}", "spec.nodeSelector", "CiliumClusterwideNetworkPolicy only"),
        ("{endpointSelector: {}, nodeSelector: {}, ingress: [{}]}", "spec.nodeSelector", "beside"),
        (
            "{endpointSelector: {}, log: {value: 'more than thirty-two characters!!'}, ingress: [{}]}",
            "spec.log.value",
            "at most 32",
        ),
        ("{endpointSelector: {}, ingress: {}}", "spec.ingress", "must be a list"),
        ("{endpointSelector: {}, ingress: [null]}", "spec.ingress[0]", "must be a map"),
        (
            "{endpointSelector: {}, ingress: [{}], enableDefaultDeny: {ingress: 'no'}}",
            "spec.enableDefaultDeny.ingress",
            "true or false",
        ),
        (
            "{endpointSelector: {matchLabels: {app: 1}}, ingress: [{}]}",
            "spec.endpointSelector.matchLabels.app",
            "must be a string",
        ),
        (
            "{endpointSelector: {matchLabels: {'planet:x': a}}, ingress: [{}]}",
            "spec.endpointSelector.matchLabels[\"planet:x\"]",
            "source",
        ),
        (
            "{endpointSelector: {matchLabels: {app: 'a b'}}, ingress: [{}]}",
            "spec.endpointSelector.matchLabels.app",
            "value of a label",
        ),
        (
            "{endpointSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}, ingress: [{}]}",
            "spec.endpointSelector.matchExpressions[0].operator",
            "operator",
        ),
        (
            "{endpointSelector: {matchExpressions: [{key: a, operator: In}]}, ingress: [{}]}",
            "spec.endpointSelector.matchExpressions[0]",
            "needs `values`",
        ),
        (
            "{endpointSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}, ingress: [{}]}",
            "spec.endpointSelector.matchExpressions[0]",
            "takes no",
        ),
        (
            "{endpointSelector: {matchExpresions: []}, ingress: [{}]}",
            "spec.endpointSelector.matchExpresions",
            "known field",
        ),
    ];
    for (text, path, message) in table {
        let error = rule(text).unwrap_err();
        assert_eq!(error.path, path, "{text}");
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, Some(1));
    }
}

#[test]
fn clauses_are_refused_rather_than_widened() {
    let table = [
        ("{fromEndpoints: [{namespaceSelector: []}]}", "fromEndpoints[0].namespaceSelector", "must be a map"),
        ("{fromEndpoints: {}}", "fromEndpoints", "must be a list"),
        ("{fromEndpoints: [{}], fromEntities: [world]}", "", "cannot be combined"),
        ("{fromRequires: [{}]}", "fromRequires", "no longer"),
        ("{fromNodes: [{matchLabel: {}}]}", "fromNodes[0].matchLabel", "not a known field"),
        ("{fromGroups: [{azure: {}}]}", "fromGroups[0].azure", "not a known field"),
        ("{fromNodes: [{}], fromCIDR: [10.0.0.0/8]}", "", "cannot be combined"),
        ("{toEndpoints: [{}]}", "toEndpoints", "not a known field"),
        ("{fromEntities: [planet]}", "fromEntities[0]", "not an entity"),
        ("{fromCIDR: [10.0.0.0/33]}", "fromCIDR[0]", "not an address"),
        ("{fromCIDR: ['::ffff:10.0.0.1']}", "fromCIDR[0]", "never match"),
        ("{fromCIDRSet: [{cidr: 10.0.0.1}]}", "fromCIDRSet[0].cidr", "not a range"),
        (
            "{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}",
            "fromCIDRSet[0].except[0]",
            "not inside",
        ),
        ("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: ['::/0']}]}", "fromCIDRSet[0].except[0]", "not inside"),
        ("{fromCIDRSet: [{except: [10.0.0.0/8]}]}", "fromCIDRSet[0]", "`cidr` is missing"),
        ("{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: x}]}", "fromCIDRSet[0]", "more than one way"),
        ("{toPorts: []}", "toPorts", "empty"),
        ("{toPorts: [{}]}", "toPorts[0]", "`ports` is missing"),
        ("{toPorts: [{ports: []}]}", "toPorts[0].ports", "empty"),
        (
            "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{paths: /}]}}]}",
            "toPorts[0].rules.http[0].paths",
            "not a known field",
        ),
        (
            "{toPorts: [{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}]}",
            "toPorts[0].ports[0]",
            "must be TCP",
        ),
        (
            "{toPorts: [{ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}}]}",
            "toPorts[0].ports[0].port",
            "every port",
        ),
        (
            "{toPorts: [{ports: [{port: '80'}], rules: {http: [], kafka: []}}]}",
            "toPorts[0].rules",
            "more than one protocol",
        ),
        ("{toPorts: [{ports: [{port: '53'}], rules: {dns: [{}]}}]}", "toPorts[0].rules.dns", "egress"),
        (
            "{toPorts: [{ports: [{port: '80'}], serverNames: []}]}",
            "toPorts[0].serverNames",
            "names of servers",
        ),
        (
            "{toPorts: [{ports: [{port: '80'}], listener: {name: a, envoyConfig: {name: b}}}]}",
            "toPorts[0].listener",
            "egress",
        ),
        ("{toPorts: [{ports: [{protocol: TCP}]}]}", "toPorts[0].ports[0]", "`port` is missing"),
        (
            "{toPorts: [{ports: [{port: '80', protocol: tcp}]}]}",
            "toPorts[0].ports[0].protocol",
            "not a protocol",
        ),
        ("{toPorts: [{ports: [{port: '80', protocol: ICMP}]}]}", "toPorts[0].ports[0].protocol", "no ports"),
        ("{toPorts: [{ports: [{port: '80', protocol: GRE}]}]}", "toPorts[0].ports[0].port", "no ports"),
        (
            "{toPorts: [{ports: [{port: '0', protocol: '256'}]}]}",
            "toPorts[0].ports[0].protocol",
            "not a protocol",
        ),
        ("{toPorts: [{ports: [{port: '65536'}]}]}", "toPorts[0].ports[0].port", "not a port"),
        ("{toPorts: [{ports: [{port: '-1'}]}]}", "toPorts[0].ports[0].port", "not a port"),
        ("{toPorts: [{ports: [{port: '90', endPort: 80}]}]}", "toPorts[0].ports[0].endPort", "before"),
        ("{toPorts: [{ports: [{port: '0', endPort: 80}]}]}", "toPorts[0].ports[0].endPort", "port 0"),
        ("{toPorts: [{ports: [{port: http, endPort: 80}]}]}", "toPorts[0].ports[0].endPort", "name"),
        ("{toPorts: [{ports: [{port: h_ttp}]}]}", "toPorts[0].ports[0].port", "name of a port"),
        ("{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '80'}]}]}", "icmps", "beside"),
        ("{icmps: [{fields: [{type: 256}]}]}", "icmps[0].fields[0].type", "whole number"),
        ("{icmps: [{fields: [{type: Ping}]}]}", "icmps[0].fields[0].type", "not an ICMP type"),
        ("{icmps: [{fields: [{type: 8, family: v4}]}]}", "icmps[0].fields[0].family", "not a family"),
        ("{authentication: {mode: always}}", "authentication.mode", "not a mode"),
        ("{authentication: {}}", "authentication", "missing"),
    ];
    for (text, path, message) in table {
        let error = clause(text).unwrap_err();
        let path =
            if path.is_empty() { "spec.ingress[0]".to_owned() } else { format!("spec.ingress[0].{path}") };
        assert_eq!(error.path, path, "{text}");
        assert!(error.message.contains(message), "{text}: {error}");
    }
    let many = vec!["{port: '80'}"; 41].join(", ");
    assert!(
        clause(&format!("{{toPorts: [{{ports: [{many}]}}]}}")).unwrap_err().message.contains("at most 40")
    );
    let deny =
        "{endpointSelector: {}, ingressDeny: [{fromEndpoints: [{}], authentication: {mode: required}}]}";
    assert_eq!(rule(deny).unwrap_err().path, "spec.ingressDeny[0].authentication");
    let names = "{endpointSelector: {}, egressDeny: [{toFQDNs: [{matchName: a.example}]}]}";
    assert_eq!(rule(names).unwrap_err().path, "spec.egressDeny[0].toFQDNs");
    let above =
        "{endpointSelector: {}, ingressDeny: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]}";
    assert_eq!(rule(above).unwrap_err().path, "spec.ingressDeny[0].toPorts[0].rules");
}

#[test]
fn authentication_with_what_has_no_certificate_is_refused_and_says_whom() {
    let table = [
        ("fromEntities: [all]", "everybody"),
        ("fromEntities: [host]", "reserved:host"),
        ("fromEntities: [world]", "reserved:world"),
        ("fromEntities: [remote-node]", "reserved:remote-node"),
        ("fromEntities: [cluster]", "reserved:host"),
        ("fromEntities: [kube-apiserver]", "reserved:kube-apiserver"),
        ("fromCIDR: [10.0.0.0/8]", "10.0.0.0/8"),
        ("fromCIDRSet: [{cidr: 10.0.0.0/8}]", "10.0.0.0/8"),
        ("toPorts: [{ports: [{port: '80'}]}]", "everybody"),
        ("fromEndpoints: [{matchLabels: {'reserved:host': ''}}]", "reserved:host"),
        ("fromEndpoints: [{matchExpressions: [{key: 'reserved:host', operator: DoesNotExist}]}]", "reserved"),
    ];
    for (peer, whom) in table {
        for mode in ["required", "test-always-fail"] {
            let error = clause(&format!("{{{peer}, authentication: {{mode: {mode}}}}}")).unwrap_err();
            assert_eq!(error.path, "spec.ingress[0].authentication.mode", "{peer}");
            assert!(error.message.contains(whom), "{peer}: {error}");
            assert!(error.hint.contains("fromEndpoints"), "{peer}");
        }
        clause(&format!("{{{peer}, authentication: {{mode: disabled}}}}")).unwrap();
    }
    assert!(clause("{authentication: {mode: required}}").is_err());
    for peer in ["fromEndpoints: [{}]", "fromEndpoints: []", "fromEndpoints: [{matchLabels: {app: a}}]"] {
        let policy = clause(&format!("{{{peer}, authentication: {{mode: required}}}}")).unwrap();
        assert_eq!(policy.rules[0].clauses[0].auth, Some(AuthMode::Required));
    }
}

#[test]
fn kinds_and_versions() {
    let table = [
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}}", ""),
        (
            "{apiVersion: cilium.io/v1beta1, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {}}",
            "apiVersion",
        ),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}}", ""),
        ("{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, specs: []}", "specs"),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, spec: {endpointSelector: {}, ingress: []}}",
            "",
        ),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {endpointSelector: {}, ingress: []}, x: 1}",
            "x",
        ),
        (
            "{apiVersion: networking.k8s.io/v1beta1, kind: NetworkPolicy, metadata: {name: a}, spec: {}}",
            "apiVersion",
        ),
    ];
    for (text, path) in table {
        assert_eq!(read(text).unwrap_err().path, path, "{text}");
    }
}

#[test]
fn errors_read_well() {
    let text = WHOLE.replace("toEndpoints: [{}]", "toRequires: [{}]");
    let error = read(&text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 29: spec.egress[0].toRequires: is no longer part of the API (put its labels into `toEndpoints`)"
    );
    let value: Value = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"}, "spec": {"x": 1}});
    let error = parse(&Document::from_value(value), &Settings::default()).unwrap_err();
    assert_eq!((error.path.as_str(), error.line), ("spec.x", None));
}

#[test]
fn network_policies() {
    let knp = |spec: &str| {
        read(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
        ))
    };
    let deny = |spec: &str| {
        knp(spec).map(|p| (p.rules[0].default_deny_ingress, p.rules[0].default_deny_egress)).unwrap()
    };
    assert_eq!(deny("{podSelector: {}}"), (true, false));
    assert_eq!(deny("{podSelector: {}, egress: []}"), (true, false));
    assert_eq!(deny("{podSelector: {}, egress: [{}]}"), (true, true));
    assert_eq!(deny("{podSelector: {}, policyTypes: [Egress]}"), (false, true));
    let policy = knp("{podSelector: {}, policyTypes: [Egress], ingress: [{}]}").unwrap();
    assert!(policy.rules[0].clauses.is_empty() && policy.notes.len() == 1);
    let policy = knp("{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}]}]}").unwrap();
    let Peers::Of(selectors) = &policy.rules[0].clauses[0].peers else { panic!() };
    assert!(
        selectors[0].to_string().contains("k8s:io.kubernetes.pod.namespace"),
        "the world has no namespace"
    );
    let table = [
        ("{podSelector: {}, ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]"),
        (
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "spec.ingress[0].from[0].ipBlock",
        ),
        ("{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}", "spec.ingress[0].ports[0].protocol"),
        ("{podSelector: {}, ingress: [{ports: [{endPort: 80}]}]}", "spec.ingress[0].ports[0].endPort"),
        ("{podSelector: {}, ingress: [{to: []}]}", "spec.ingress[0].to"),
        ("{podSelector: {}, policyTypes: [ingress]}", "spec.policyTypes[0]"),
    ];
    for (text, path) in table {
        assert_eq!(knp(text).unwrap_err().path, path, "{text}");
    }
}

/// A valid document with parts of it replaced by anything.
fn mutated() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}])),
        Just(json!("0.0.0.0/0")),
        Just(json!("all")),
        Just(json!("k8s:")),
        Just(json!(":")),
        Just(json!("65535")),
    ];
    let whole = yaml(WHOLE).unwrap().remove(0).value;
    (prop::collection::vec((any::<prop::sample::Index>(), leaf), 1..6)).prop_map(move |changes| {
        let mut value = whole.clone();
        for (index, leaf) in changes {
            let paths = pointers(&value, String::new());
            let path = paths[index.index(paths.len())].clone();
            if let Some(place) = value.pointer_mut(&path) {
                *place = leaf;
            }
        }
        value
    })
}

fn pointers(value: &Value, path: String) -> Vec<String> {
    let mut found = vec![path.clone()];
    match value {
        Value::Object(map) => {
            found.extend(map.iter().flat_map(|(key, value)| pointers(value, format!("{path}/{key}"))))
        }
        Value::Array(list) => {
            found.extend(
                list.iter().enumerate().flat_map(|(index, value)| pointers(value, format!("{path}/{index}"))),
            );
        }
        _ => {}
    }
    found
}

proptest! {
    #[test]
    fn no_document_panics(value in mutated()) {
        let document = Document::from_value(value);
        if let Ok(policy) = parse(&document, &Settings::default()) {
            let mut repository = countersign_policy::Repository::new();
            repository.upsert_policy(policy);
        }
    }

    #[test]
    fn text_and_value_mean_the_same(value in mutated()) {
        let text = value.to_string();
        let Ok(mut documents) = yaml(&text) else { return Ok(()) };
        let from_value = parse(&Document::from_value(value), &Settings::default()).map_err(|error| error.path);
        let from_text = documents.pop().map(|document| parse(&document, &Settings::default()).map_err(|error| error.path));
        let rules = |policy: Policy| format!("{:?}", policy.rules).replace("Some(1)", "None");
        if let Some(from_text) = from_text {
            prop_assert_eq!(from_text.map(rules), from_value.map(rules));
        }
    }
}
