//! Pods, namespaces and nodes from their manifests.

use countersign_policy::DocumentError;
use countersign_policy::objects::{NamedPort, Namespace, Node, Pod};
use countersign_policy::yaml::{Document, parse};

fn document(text: &str) -> Document {
    parse(text).unwrap().remove(0)
}

fn refused(text: &str) -> DocumentError {
    Pod::from_document(&document(text)).unwrap_err()
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  uid: 1-2
  labels: {app: web, "app.kubernetes.io/name": web}
  annotations: {note: "any text: at all"}
spec:
  nodeName: node-a
  serviceAccountName: web
  containers:
  - name: main
    image: x
    command: [python3, -m]
    args: [http.server, "80"]
    env:
    - {name: A, value: "1"}
    - {name: B, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    ports:
    - {name: http, containerPort: 80}
    - {containerPort: 81}
  - name: side
    command: [other]
    ports: [{name: dns, containerPort: 53, protocol: UDP}]
status:
  phase: Running
  hostIP: 192.168.1.1
  podIP: 10.0.0.5
  podIPs: [{ip: 10.0.0.5}, {ip: "fd00::5"}]
"#;

#[test]
fn a_pod_in_full() {
    let pod = Pod::from_document(&document(POD)).unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("shop", "web-1", "1-2"));
    assert_eq!((pod.node.as_str(), pod.service_account.as_str()), ("node-a", "web"));
    assert_eq!(pod.labels["app.kubernetes.io/name"], "web");
    assert_eq!(pod.annotations["note"], "any text: at all");
    assert_eq!(pod.command, ["python3", "-m", "http.server", "80"]);
    assert_eq!(pod.env.into_iter().collect::<Vec<_>>(), [("A".to_owned(), "1".to_owned())]);
    assert_eq!(pod.ips, ["10.0.0.5".parse::<std::net::IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    assert_eq!(pod.host_ip, Some("192.168.1.1".parse().unwrap()));
    assert_eq!(pod.phase, "Running");
    assert!(!pod.host_network);
    let port =
        |name: &str, protocol: &str, port| NamedPort { name: name.into(), protocol: protocol.into(), port };
    assert_eq!(pod.ports, [port("http", "TCP", 80), port("dns", "UDP", 53)]);
}

#[test]
fn the_least_of_a_pod() {
    let pod = Pod::from_document(&document("{apiVersion: v1, kind: Pod, metadata: {name: a}}")).unwrap();
    assert_eq!((pod.namespace.as_str(), pod.service_account.as_str()), ("default", "default"));
    assert!(pod.ips.is_empty() && pod.command.is_empty());
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostNetwork: true}, status: {podIP: 10.0.0.1}}";
    let pod = Pod::from_document(&document(text)).unwrap();
    assert!(pod.host_network);
    assert_eq!(pod.ips.len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let error = refused("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    v: 1.20\n");
    assert_eq!((error.path.as_str(), error.line), ("metadata.labels.v", Some(6)));
    assert_eq!(error.hint, "put it in quotes");
    let table = [
        ("{apiVersion: v1, kind: Pod}", ""),
        ("{apiVersion: v2, kind: Pod, metadata: {name: a}}", ""),
        ("{apiVersion: v1, kind: Pod, metadata: {}}", "metadata"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: ../../etc}}", "metadata.name"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a..b}}", "metadata.name"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: A}}", "metadata.namespace"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a, labels: [x]}}", "metadata.labels"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: 'a b'}}}", "metadata.labels.x"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {'a/b/c': x}}}",
            "metadata.labels[\"a/b/c\"]",
        ),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: 1.2.3}}", "status.podIP"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: a/b}}", "spec.nodeName"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{command: x}]}}",
            "spec.containers[0].command",
        ),
    ];
    for (text, path) in table {
        assert_eq!(refused(text).path, path, "{text}");
    }
}

#[test]
fn namespaces_carry_their_name_as_a_label() {
    let text = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a, kubernetes.io/metadata.name: x}}}";
    let namespace = Namespace::from_document(&document(text)).unwrap();
    assert_eq!(namespace.name, "shop");
    assert_eq!(namespace.labels["kubernetes.io/metadata.name"], "shop");
    assert_eq!(namespace.labels["team"], "a");
}

#[test]
fn nodes() {
    let text = r#"
apiVersion: v1
kind: Node
metadata: {name: n1, annotations: {"countersign.dev/x": "1"}}
spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, "fd00::/64"]}
status:
  addresses:
  - {type: Hostname, address: n1}
  - {type: InternalIP, address: 192.168.0.1}
"#;
    let node = Node::from_document(&document(text)).unwrap();
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.internal_ips, ["192.168.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(node.annotations["countersign.dev/x"], "1");
    let text = "{apiVersion: v1, kind: Node, metadata: {name: n}, spec: {podCIDR: 10.0.0.0/24}}";
    assert_eq!(Node::from_document(&document(text)).unwrap().pod_cidrs.len(), 1);
}
