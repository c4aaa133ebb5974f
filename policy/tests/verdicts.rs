//! Manifests and flows in, verdicts out.

use countersign_policy::verdicts::{Auth, Flow, FlowError, Manifests, Outcome, Verdict, World};
use countersign_policy::{Settings, yaml};
use serde_json::{Value, json};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {env: prod}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.0.1.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: n2}
status: {podIP: 10.0.2.1}
---
apiVersion: v1
kind: Pod
metadata: {name: probe, namespace: shop, labels: {app: client}}
spec: {nodeName: n1, hostNetwork: true}
---
apiVersion: v1
kind: Pod
metadata: {name: gone, namespace: shop, labels: {app: client}}
status: {phase: Succeeded, podIP: 10.0.2.1}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    authentication: {mode: required}
    toPorts: [{ports: [{port: http, protocol: TCP}]}]
  - fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.128/25]}]
  egress:
  - toEntities: [world]
  egressDeny:
  - toCIDR: [198.51.100.7]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: not-of-interest}
"#;

fn world() -> World {
    let mut manifests = Manifests::new(Settings::default());
    for document in yaml::parse(MANIFESTS).unwrap() {
        manifests.add(&document).unwrap();
    }
    World::new(manifests)
}

fn ask(from: &str, to: &str, protocol: &str, port: u16) -> Result<Verdict, FlowError> {
    world().verdict(&Flow { from: from.into(), to: to.into(), protocol: protocol.into(), port })
}

#[test]
fn flows_between_all_kinds_of_places() {
    let table = [
        // from, to, port: egress, ingress, auth
        ("shop/client", "shop/web", 8080, "+", "+", true),
        ("shop/client", "shop/web", 80, "+", "-", false),
        ("shop/client", "10.0.1.1", 8080, "+", "+", true),
        ("10.0.2.1", "fd00::1", 8080, "+", "+", true),
        ("shop/web", "shop/client", 80, "-", "+", false),
        ("shop/web", "shop/web", 80, "+", "+", false),
        ("shop/web", "10.0.1.1", 80, "+", "+", false),
        ("shop/probe", "shop/web", 80, "+", "+", false),
        ("192.168.0.1", "shop/web", 80, "+", "+", false),
        ("192.168.0.2", "shop/web", 80, "+", "-", false),
        ("203.0.113.5", "shop/web", 80, "+", "+", false),
        ("203.0.113.200", "shop/web", 80, "+", "-", false),
        ("8.8.8.8", "shop/web", 80, "+", "-", false),
        ("shop/web", "8.8.8.8", 53, "+", "+", false),
        ("shop/web", "2001:db8::1", 53, "+", "+", false),
        ("shop/web", "198.51.100.7", 53, "-", "+", false),
        ("shop/web", "203.0.113.5", 53, "+", "+", false),
        ("shop/web", "192.168.0.2", 53, "-", "+", false),
        ("shop/probe", "8.8.8.8", 53, "+", "+", false),
    ];
    for (from, to, port, egress, ingress, auth) in table {
        let got = ask(from, to, "TCP", port).unwrap();
        let sign = |outcome| if outcome == Outcome::Allowed { "+" } else { "-" };
        assert_eq!((sign(got.egress), sign(got.ingress)), (egress, ingress), "{from} -> {to}:{port}");
        assert_eq!(got.verdict == Outcome::Allowed, egress == "+" && ingress == "+");
        assert_eq!(got.auth == Auth::Required, auth, "{from} -> {to}:{port}");
    }
}

#[test]
fn the_rule_is_named_with_its_line() {
    let got = ask("shop/client", "shop/web", "tcp", 8080).unwrap();
    let rule = &got.rules[0];
    assert_eq!((rule.namespace.as_str(), rule.name.as_str(), rule.index), ("shop", "web", 0));
    assert_eq!(
        rule.line,
        Some(
            u32::try_from(MANIFESTS.lines().position(|l| l.contains("- fromEndpoints")).unwrap()).unwrap()
                + 1
        )
    );
    assert!(ask("shop/client", "shop/web", "TCP", 80).unwrap().rules.is_empty());
}

#[test]
fn faults_are_told_apart() {
    assert_eq!(ask("shop/none", "shop/web", "TCP", 1), Err(FlowError::Unknown("shop/none".into())));
    assert_eq!(ask("shop/web", "nowhere", "TCP", 1), Err(FlowError::Unknown("nowhere".into())));
    assert_eq!(ask("shop/web", "8.8.8.8", "FOO", 1), Err(FlowError::Protocol("FOO".into())));
    for (protocol, good) in [("SCTP", true), ("icmp", true), ("ICMPv6", true), ("47", true), ("256", false)] {
        assert_eq!(ask("shop/web", "8.8.8.8", protocol, 1).is_ok(), good, "{protocol}");
    }
}

#[test]
fn a_line_comes_back_with_the_verdict() {
    let mut world = world();
    let line = r#"{"from":"shop/client","to":"shop/web","protocol":"TCP","port":8080,"note":"kept"}"#;
    let mut answer: Value = serde_json::from_str(&world.annotate(line)).unwrap();
    let rules = answer["rules"].take();
    assert_eq!(rules[0]["name"], "web");
    assert_eq!(rules[0]["direction"], "ingress");
    let expected = json!({
        "from": "shop/client", "to": "shop/web", "protocol": "TCP", "port": 8080, "note": "kept",
        "egress": "allowed", "ingress": "allowed", "verdict": "allowed", "auth": "required", "rules": null,
    });
    assert_eq!(answer, expected);
    let denied: Value =
        serde_json::from_str(&world.annotate(r#"{"from":"8.8.8.8","to":"shop/web","port":1}"#)).unwrap();
    assert_eq!((&denied["verdict"], &denied["auth"]), (&json!("denied"), &json!("none")));
    for bad in ["", "[]", "{}", "{\"from\":1}", r#"{"from":"a/b","to":"shop/web"}"#] {
        let answer: Value = serde_json::from_str(&world.annotate(bad)).unwrap();
        assert!(answer["error"].is_string(), "{bad}");
    }
}

#[test]
fn a_refused_document_is_not_added() {
    let mut manifests = Manifests::new(Settings::default());
    let text = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, spec: {x: 1}}";
    assert_eq!(manifests.add(&yaml::parse(text).unwrap()[0]).unwrap_err().path, "spec.x");
    assert_eq!(World::new(manifests).repository().policies().count(), 0);
}
