//! The registrar in a cluster: a real kube-apiserver with its etcd, a real SPIRE server.

mod support;

use std::time::{Duration, Instant};

use countersign_policy::yaml;
use countersign_spire_proto::RegistrarStatus;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::kubernetes::{ApiServer, has_kubernetes, signal};
use support::proxy::Proxy;
use support::{Cluster, DOMAIN, Process, Spire, has_spire};
use tokio::time::sleep;

const OURS: &str = "countersign.default.";
const TEMPLATE: &str = "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}";
/// Short, so that tests are; the proportions are client-go's.
const LEASE: Duration = Duration::from_secs(6);
const TIMES: [&str; 6] = [
    "--leader-elect-lease-duration",
    "6s",
    "--leader-elect-renew-deadline",
    "4s",
    "--leader-elect-retry-period",
    "1s",
];

fn is_possible() -> bool {
    has_spire() && has_kubernetes()
}

/// A cluster with the namespaces `shop` and `countersign`.
fn cluster() -> ApiServer {
    let api = ApiServer::start();
    api.namespace("shop");
    api.namespace("countersign");
    api
}

/// A registrar of the cluster by that kubeconfig; its log and status are in `at`.
fn registrar(at: &Cluster, kubeconfig: &str, spire: &Spire, more: &[&str]) -> Process {
    let socket = spire.socket().display().to_string();
    let all =
        ["--kubernetes", "--kubeconfig", kubeconfig, "--server-socket", &socket, "--trust-domain", DOMAIN];
    let rest = ["--spiffe-id-template", TEMPLATE, "--resync-seconds", "1"];
    at.spawn(&[&all[..], &rest, &TIMES, more].concat())
}

fn leads(status: &RegistrarStatus) -> bool {
    status.turn.as_ref().is_some_and(|turn| turn.leads)
}

fn line(account: &str, node: &str, uid: &str) -> String {
    format!("/ns/shop/sa/{account} < /spire-node/{node} k8s:pod-uid:{uid}")
}

#[tokio::test]
async fn entries_follow_the_api_server() {
    if !is_possible() {
        return;
    }
    let (spire, api, at) = (Spire::start().await, cluster(), Cluster::new());
    let left = support::entry("/ns/shop/sa/default", "/spire-node/node1", "k8s:pod-uid:gone");
    spire.client().create(&[("countersign.default.pod.left".to_owned(), left)]).await.unwrap();
    let (web, db) = (api.pod("web", "node1", "web"), api.pod("db", "node2", "db"));
    api.pod("idle", "node1", "idle");
    api.node("node3");
    let _registrar = registrar(&at, &api.admin(), &spire, &["--agent-selector", "unix:uid:0"]);
    // Cilium's definitions are not there: that is said, and keeps nothing else waiting.
    let said = |s: &RegistrarStatus| s.errors.iter().any(|e| e.about == "cilium.io/v2/ciliumnetworkpolicies");
    at.until_status("no such kind", |s| said(s) && s.in_step.is_some()).await;
    at.until_entries(&spire, OURS, &["/node/node3 < /spire-node/node3 unix:uid:0"]).await;
    api.define_policies();
    api.policy("p", "db", "web");
    let agent = |n: u8| format!("/node/node{n} < /spire-node/node{n} unix:uid:0");
    let mut expected =
        [agent(1), agent(2), agent(3), line("default", "node1", &web), line("default", "node2", &db)];
    expected.sort();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    at.until_entries(&spire, OURS, &expected).await;
    at.until_status("the kind is there", |s| !said(s) && s.errors.is_empty()).await;
    // The same name, another pod.
    api.delete_pod("web");
    let again = api.pod("web", "node3", "web");
    assert_ne!(web, again);
    let mut expected = [agent(2), agent(3), line("default", "node3", &again), line("default", "node2", &db)];
    expected.sort();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    at.until_entries(&spire, OURS, &expected).await;
    api.ask("DELETE", "/apis/cilium.io/v2/namespaces/shop/ciliumnetworkpolicies/p", &Value::Null);
    at.until_entries(&spire, OURS, &[&agent(3)]).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_takes_nothing_away() {
    if !is_possible() {
        return;
    }
    let (spire, mut api, at) = (Spire::start().await, cluster(), Cluster::new());
    api.define_policies();
    let (one, two) = (api.pod("one", "node1", "x"), api.pod("two", "node2", "x"));
    let process = registrar(&at, &api.admin(), &spire, &["--all-pods"]);
    let (first, second) = (line("default", "node1", &one), line("default", "node2", &two));
    at.until_entries(&spire, OURS, &[&first, &second]).await;
    api.kill();
    let away = at.until_status("it is away", |s| !s.errors.is_empty() || !leads(s)).await;
    println!("said so: {:?} {:?}", away.errors.first(), away.last_error);
    // Long enough for the watches to break again and again, and for the leader to give up.
    let (ticks, began) = (process.ticks(), Instant::now());
    at.until_status("it leads no more", |s| !leads(s) && began.elapsed() > LEASE).await;
    let used = (process.ticks() - ticks) * 10;
    println!("outage: {used} ms of processor time in {} ms", began.elapsed().as_millis());
    assert!(used < 1_000, "a busy loop: {used} ms in {:?}", began.elapsed());
    assert_eq!(spire.entries(OURS).await.len(), 2, "{}", at.log());
    api.resume();
    api.delete_pod("one");
    let three = api.pod("three", "node1", "x");
    let mut expected = [second, line("default", "node1", &three)];
    expected.sort();
    at.until_entries(&spire, OURS, &[&expected[0], &expected[1]]).await;
    // A short one, which the leader outlives: the watches go on where they were.
    api.kill();
    api.resume();
    let four = api.pod("four", "node4", "x");
    let fourth = line("default", "node4", &four);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !spire.entries(OURS).await.contains(&fourth) {
        assert!(Instant::now() < deadline, "{}", at.log());
    }
    assert_eq!(spire.entries(OURS).await.len(), 3);
}

/// What is written to the server, and by whom: each registrar has a hint of its own, and what is written is deleted,
/// so that whoever leads writes it again.
async fn next_writer(spire: &Spire) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut client = spire.client();
    while Instant::now() < deadline {
        let ours = client.list().await.unwrap().into_iter().filter(|e| e.id.starts_with(OURS));
        let ours: Vec<_> = ours.collect();
        if let Some(one) = ours.first() {
            let hint = one.entry.as_ref().unwrap().hint.clone();
            client.delete(&ours.iter().map(|e| e.id.clone()).collect::<Vec<_>>()).await.unwrap();
            return hint;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_writes_and_the_other_takes_its_place() {
    if !is_possible() {
        return;
    }
    let (spire, api) = (Spire::start().await, cluster());
    api.define_policies();
    api.pod("web", "node1", "x");
    let (one, two) = (Cluster::new(), Cluster::new());
    let start = |at: &Cluster, hint| registrar(at, &api.admin(), &spire, &["--all-pods", "--hint", hint]);
    let first = start(&one, "one");
    one.until_status("one leads", leads).await;
    let second = start(&two, "two");
    let waits = two.until_status("two waits", |s| s.turn.as_ref().is_some_and(|t| t.leader.is_some())).await;
    let turn = waits.turn.unwrap();
    assert!(!turn.leads && turn.leader.as_deref() == Some(&*api.holder()), "{turn:?}");
    assert_eq!(turn.lease, "countersign/countersign-registrar");
    for _ in 0..8 {
        assert_eq!(next_writer(&spire).await, "one");
    }
    assert!(!leads(&two.status()) && two.status().listed.is_none(), "it has not asked SPIRE anything");
    // Killed: the other waits for the end of the lease, and no longer than two more attempts.
    signal(&first, Signal::SIGKILL);
    drop(first);
    let killed = Instant::now();
    while next_writer(&spire).await != "two" {
        assert!(killed.elapsed() < 2 * LEASE, "{}", two.log());
    }
    println!(
        "taken over {} ms after the kill; the lease is {} ms",
        killed.elapsed().as_millis(),
        LEASE.as_millis()
    );
    assert!(killed.elapsed() < LEASE + Duration::from_secs(4), "{:?}", killed.elapsed());
    // Asked to end: the other need not wait.
    let _first = start(&one, "one");
    one.until_status("one waits", |s| s.turn.as_ref().is_some_and(|t| !t.leads && t.leader.is_some())).await;
    second.stop();
    let stopped = Instant::now();
    while next_writer(&spire).await != "one" {}
    println!("taken over {} ms after SIGTERM", stopped.elapsed().as_millis());
    assert!(stopped.elapsed() < LEASE - Duration::from_secs(2), "{:?}", stopped.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_before_the_other_starts() {
    if !is_possible() {
        return;
    }
    let (spire, api) = (Spire::start().await, cluster());
    api.define_policies();
    api.pod("web", "node1", "x");
    let proxy = Proxy::start(api.port).await;
    let (one, two) = (Cluster::new(), Cluster::new());
    let kubeconfig = api.kubeconfig("proxied.json", "admin-of-the-test", proxy.port);
    let _first = registrar(&one, &kubeconfig, &spire, &["--all-pods", "--hint", "one"]);
    one.until_status("one leads", leads).await;
    let second = registrar(&two, &api.admin(), &spire, &["--all-pods", "--hint", "two"]);
    two.until_status("two waits", |s| s.turn.as_ref().is_some_and(|t| t.leader.is_some())).await;
    assert_eq!(next_writer(&spire).await, "one");
    proxy.stop();
    let cut = Instant::now();
    let (mut last, mut writers) = (cut, Vec::new());
    while writers.iter().filter(|hint| *hint == "two").count() < 5 {
        let hint = next_writer(&spire).await;
        if hint == "one" {
            last = Instant::now();
        } else if !writers.contains(&hint) {
            let (stopped, silent) = (last - cut, last.elapsed());
            println!("wrote {} ms on, nobody for {} ms", stopped.as_millis(), silent.as_millis());
        }
        writers.push(hint);
    }
    let first_of_two = writers.iter().position(|hint| hint == "two").unwrap();
    assert!(writers[first_of_two..].iter().all(|hint| hint == "two"), "{writers:?}\n{}", one.log());
    assert!(!leads(&one.status()));
    // One that stands still meanwhile has missed its end: when it goes on, it writes nothing.
    drop(second);
    let (three, four) = (Cluster::new(), Cluster::new());
    let third = registrar(&three, &api.admin(), &spire, &["--all-pods", "--hint", "three"]);
    three.until_status("three leads", leads).await;
    let _fourth = registrar(&four, &api.admin(), &spire, &["--all-pods", "--hint", "four"]);
    four.until_status("four waits", |s| s.turn.as_ref().is_some_and(|t| t.leader.is_some())).await;
    signal(&third, Signal::SIGSTOP);
    four.until_status("four leads", leads).await;
    while next_writer(&spire).await != "four" {}
    signal(&third, Signal::SIGCONT);
    three.until_status("three waits", |s| s.turn.as_ref().is_some_and(|t| !t.leads)).await;
    for _ in 0..5 {
        assert_eq!(next_writer(&spire).await, "four");
    }
}

/// Every document of a file below `deploy/registrar`.
fn manifests(file: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/registrar").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    yaml::parse(&text).unwrap().into_iter().map(|document| document.value).collect()
}

/// Where the API server has an object.
fn path_of(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (word(&object["apiVersion"]), word(&object["kind"]));
    let (name, namespace) = (word(&object["metadata"]["name"]), word(&object["metadata"]["namespace"]));
    let root = if version.contains('/') { "apis" } else { "api" };
    let inside = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    format!("/{root}/{version}/{inside}{}s/{name}", kind.to_lowercase())
}

/// The manifests are taken as they are, the arguments in them are the program's, and the rights are enough: and not
/// more than that.
#[tokio::test]
async fn the_manifests_give_the_registrar_what_it_needs() {
    if !is_possible() {
        return;
    }
    let (spire, api, at) = (Spire::start().await, ApiServer::start(), Cluster::new());
    api.namespace("shop");
    api.define_policies();
    let web = api.pod("web", "node1", "web");
    api.policy("p", "web", "db");
    let objects = [manifests("rights.yaml"), manifests("deployment.yaml")].concat();
    objects.iter().for_each(|object| drop(api.apply(&path_of(object), object)));
    let deployment = objects.last().unwrap();
    assert_eq!(deployment["spec"]["replicas"], 2);
    let account = deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap();
    let path = format!("/api/v1/namespaces/countersign/serviceaccounts/{account}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = api.ask("POST", &path, &request)["status"]["token"].as_str().unwrap().to_owned();
    // Its own arguments, but for where SPIRE and the API server are.
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap().iter().filter_map(Value::as_str);
    let elsewhere = ["--server-address=", "--workload-socket=", "--status-file=", "--trust-domain="];
    let mut arguments: Vec<String> = arguments
        .filter(|argument| !elsewhere.iter().any(|flag| argument.starts_with(flag)))
        .map(str::to_owned)
        .collect();
    arguments.push(format!("--trust-domain={DOMAIN}"));
    arguments.push(format!("--server-socket={}", spire.socket().display()));
    arguments.push(format!("--kubeconfig={}", api.kubeconfig("account.json", &token, api.port)));
    let _registrar = at.spawn(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    at.until_status("it leads", leads).await;
    at.until_status("in step", |s| s.managed == 3 && s.in_step.is_some() && s.errors.is_empty()).await;
    let found = spire.entries("countersign.east.").await;
    assert!(found.contains(&line("default", "node1", &web)), "{found:?}");
    let refused = [
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/shop/configmaps"),
        ("GET", "/api/v1/namespaces/shop/pods/web"),
        ("DELETE", "/api/v1/namespaces/shop/pods/web"),
        ("POST", "/api/v1/namespaces/shop/pods"),
        ("DELETE", "/apis/coordination.k8s.io/v1/namespaces/countersign/leases/countersign-registrar"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/countersign/leases/another"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/shop/leases/countersign-registrar"),
    ];
    for (method, path) in refused {
        assert_eq!(api.code_for(&token, method, path), 403, "{method} {path}");
    }
}

/// Without the right to a kind, the registrar does not know whether it knows all: it says so, and does nothing.
#[tokio::test]
async fn a_right_that_is_missing_is_said() {
    if !is_possible() {
        return;
    }
    let (spire, api, at) = (Spire::start().await, cluster(), Cluster::new());
    let left = support::entry("/ns/shop/sa/default", "/spire-node/node1", "k8s:pod-uid:gone");
    spire.client().create(&[("countersign.default.pod.left".to_owned(), left)]).await.unwrap();
    api.define_policies();
    for mut object in manifests("rights.yaml") {
        if object["kind"] == "ClusterRole" {
            object["rules"].as_array_mut().unwrap().pop();
        }
        api.apply(&path_of(&object), &object);
    }
    let path = "/api/v1/namespaces/countersign/serviceaccounts/countersign-registrar/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = api.ask("POST", path, &request)["status"]["token"].as_str().unwrap().to_owned();
    let kubeconfig = api.kubeconfig("account.json", &token, api.port);
    let _registrar = registrar(&at, &kubeconfig, &spire, &["--all-pods"]);
    let status = at.until_status("it is said", |s| leads(s) && s.errors.len() >= 2).await;
    assert!(status.errors[0].message.contains("cannot list resource"), "{status:?}");
    assert_eq!((status.listed, spire.entries(OURS).await.len()), (None, 1), "nothing is done");
    for object in manifests("rights.yaml").iter().filter(|object| object["kind"] == "ClusterRole") {
        api.apply(&path_of(object), object);
    }
    at.until_entries(&spire, OURS, &[]).await;
}
