//! The registrar against a real SPIRE server.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use countersign_registrar::Outcome;
use support::{Cluster, DOMAIN, Process, Spire, describe, entry, has_spire, pod, pods, program};

const OURS: &str = "countersign.default.";

#[tokio::test]
async fn entries_follow_pods_labels_and_policies() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let foreign = [
        ("countersign.defaults.pod.1".to_owned(), entry("/a", "/b", "unix:uid:1")),
        ("countersign.default".to_owned(), entry("/a", "/b", "unix:uid:2")),
        ("manual".to_owned(), entry("/identity/300", "/spire-node/node1", "unix:uid:3")),
    ];
    let created = spire.client().create(&foreign).await.unwrap();
    assert_eq!(created, [Outcome::Done, Outcome::Done, Outcome::Done]);
    let before = spire.entries("").await;
    cluster.pod("web", "node1", "web");
    cluster.pod("db", "node2", "db");
    cluster.pod("idle", "node1", "idle");
    cluster.put("pod-nobody.yaml", &pod("shop", "nobody", "node1", "web", "countersign.dev/svid: none"));
    let _registrar = cluster.registrar(&spire, &["--agent-selector", "unix:uid:0", "--resync-seconds", "1"]);
    cluster.until_status("nobody asks for anything", |s| s.in_step.is_some() && s.desired == 0).await;
    cluster.policy("db", "web");
    let status =
        cluster.until_status("two pods, two agents", |s| s.managed == 4 && s.in_step.is_some()).await;
    assert_eq!((status.desired, status.failed, status.waiting), (4, 0, 0), "{status:?}");
    let found = spire.entries(OURS).await;
    let numbers: Vec<&str> =
        found.iter().filter_map(|e| e.strip_prefix("/identity/")?.split(' ').next()).collect();
    let [first, second] = numbers[..] else { panic!("{found:?}") };
    for (name, number) in [("web", first), ("db", second)].into_iter().chain([("web", second), ("db", first)])
    {
        let file = cluster.dir.path().join(format!("s/identities/{number}.yaml"));
        let is_its = fs::read_to_string(file).unwrap().contains(&format!("k8s:app\": {name}"));
        let node = if name == "web" { "node1" } else { "node2" };
        let line = format!("/identity/{number} < /spire-node/{node} k8s:pod-uid:u-{name}");
        assert_eq!(found.contains(&line), is_its, "{line} in {found:?}");
    }
    assert!(found.contains(&"/node/node1 < /spire-node/node1 unix:uid:0".to_owned()), "{found:?}");

    // New labels, another identity: the same entry.
    let id_of = |all: &[countersign_spire_proto::Existing]| {
        let of_web = all.iter().find(|e| e.id.starts_with(OURS) && describe(e).ends_with("u-web"));
        of_web.map(|e| (e.id.clone(), e.entry.clone().unwrap().spiffe_id))
    };
    let (id, identity) = id_of(&spire.all().await).unwrap();
    let relabelled = pod("shop", "web", "node1", "web", "").replace("app: web", "app: web, tier: gold");
    cluster.put("pod-web.yaml", &relabelled);
    let changed = Instant::now();
    loop {
        let (same, now) = id_of(&spire.all().await).unwrap();
        assert_eq!(same, id, "it is there all the time");
        if now != identity {
            break;
        }
        assert!(changed.elapsed() < Duration::from_secs(10), "{}", cluster.log());
    }
    cluster.remove("pod-web.yaml");
    cluster.until_status("one pod less", |s| s.managed == 2).await;
    cluster.remove("policy.yaml");
    cluster.remove("pod-db.yaml");
    cluster.until_entries(&spire, OURS, &[]).await;
    assert_eq!(spire.entries("").await, before, "what is others' is as it was");
}

#[tokio::test]
async fn drift_is_repaired_and_left_overs_go() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let mut client = spire.client();
    let left = [
        (
            "countersign.default.pod.old".to_owned(),
            entry("/identity/400", "/spire-node/node9", "k8s:pod-uid:old"),
        ),
        (
            "countersign.other.pod.old".to_owned(),
            entry("/identity/401", "/spire-node/node9", "k8s:pod-uid:old"),
        ),
    ];
    client.create(&left).await.unwrap();
    cluster.pod("web", "node1", "web");
    let flags = ["--all-pods", "--resync-seconds", "1", "--x509-svid-ttl", "60s"];
    let registrar = cluster.registrar(&spire, &flags);
    cluster.until_status("the pod alone", |s| s.managed == 1 && s.in_step.is_some()).await;
    let good = spire.entries(OURS).await;
    let id = spire.all().await.into_iter().find(|e| e.id.starts_with(OURS)).unwrap().id;
    // Somebody makes it another, an administrator's even; and deletes it.
    spire.command(&[
        "entry",
        "update",
        "-entryID",
        &id,
        "-parentID",
        &format!("spiffe://{DOMAIN}/x"),
        "-spiffeID",
        &format!("spiffe://{DOMAIN}/y"),
        "-selector",
        "unix:uid:0",
        "-admin",
        "-x509SVIDTTL",
        "7",
    ]);
    cluster.until_entries(&spire, OURS, &[&good[0]]).await;
    let repaired = spire.all().await.into_iter().find(|e| e.id == id).unwrap();
    assert_eq!(repaired.extras, countersign_spire_proto::Extras::None);
    assert_eq!(repaired.entry.unwrap().x509_svid_ttl_seconds, 60);
    spire.command(&["entry", "delete", "-entryID", &id]);
    cluster.until_entries(&spire, OURS, &[&good[0]]).await;
    // Gone while there was no registrar.
    registrar.stop();
    cluster.remove("pod-web.yaml");
    let _registrar = cluster.registrar(&spire, &flags);
    cluster.until_entries(&spire, OURS, &[]).await;
    assert_eq!(spire.entries("countersign.other.").await.len(), 1);
}

#[tokio::test]
async fn what_could_not_be_read_is_not_taken_for_gone() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let left = entry("/identity/400", "/spire-node/node1", "k8s:pod-uid:u-web");
    spire.client().create(&[("countersign.default.pod.left".to_owned(), left)]).await.unwrap();
    let (there, away) = (cluster.dir.path().join("m"), cluster.dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    let _registrar = cluster.registrar(&spire, &["--all-pods", "--resync-seconds", "1"]);
    let status = cluster.until_status("it says so", |s| s.listed.is_some() && !s.errors.is_empty()).await;
    assert!(status.errors[0].message.contains("cannot be read"), "{status:?}");
    let listed = status.listed;
    cluster.until_status("it has looked again", |s| s.listed > listed).await;
    assert_eq!(spire.entries(OURS).await.len(), 1);
    fs::rename(&away, &there).unwrap();
    cluster.until_entries(&spire, OURS, &[]).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    if !has_spire() {
        return;
    }
    let (mut spire, cluster) = (Spire::start().await, Cluster::new());
    cluster.pod("one", "node1", "x");
    let registrar = cluster.registrar(&spire, &["--all-pods", "--resync-seconds", "1"]);
    cluster.until_status("registered", |s| s.managed == 1).await;
    spire.stop();
    let down = cluster.until_status("it is away", |s| s.server_down_since.is_some()).await;
    assert!(down.last_error.is_some() && down.managed == 1, "{down:?}");
    cluster.pod("two", "node2", "x");
    cluster.remove("pod-one.yaml");
    let (ticks, began) = (registrar.ticks(), Instant::now());
    cluster
        .until_status("still away", |s| s.server_down_since.is_some() && began.elapsed().as_secs() >= 4)
        .await;
    let used = (registrar.ticks() - ticks) * 10;
    println!("outage: {used} ms of processor time in {} ms", began.elapsed().as_millis());
    assert!(used < 400, "a busy loop: {used} ms in {:?}", began.elapsed());
    assert_eq!(cluster.status().server_down_since, down.server_down_since, "since the beginning");
    spire.resume().await;
    let back = cluster.until_status("it is back", |s| s.server_down_since.is_none()).await;
    assert_eq!(back.last_error, None);
    let again = cluster.until_status("in step again", |s| s.in_step > down.in_step && s.desired == 1).await;
    assert_eq!(again.managed, 1);
    assert!(spire.entries(OURS).await[0].ends_with("< /spire-node/node2 k8s:pod-uid:u-two"));
}

#[tokio::test]
async fn a_thousand_pods_at_once() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let _registrar = cluster.registrar(&spire, &["--all-pods"]);
    cluster.until_status("ready", |s| s.in_step.is_some()).await;
    let began = Instant::now();
    cluster.put("pods.yaml", &pods(1000, 10));
    cluster.until_status("all", |s| s.managed == 1000 && s.desired == 1000).await;
    println!("1,000 pods registered in {} ms", began.elapsed().as_millis());
    let found = spire.entries(OURS).await;
    assert_eq!(found.len(), 1000);
    let below = |node: &str| found.iter().filter(|e| e.contains(&format!("< /spire-node/{node} "))).count();
    assert_eq!((below("node0"), below("node9")), (100, 100));
    let began = Instant::now();
    cluster.remove("pods.yaml");
    cluster.until_status("none", |s| s.managed == 0 && s.desired == 0).await;
    println!("1,000 entries deleted in {} ms", began.elapsed().as_millis());
    assert!(spire.entries(OURS).await.is_empty());
}

#[tokio::test]
async fn a_pod_has_its_entry_soon() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let _registrar = cluster.registrar(&spire, &["--all-pods"]);
    cluster.until_status("ready", |s| s.in_step.is_some()).await;
    let mut client = spire.client();
    let mut took: Vec<u128> = Vec::new();
    for n in 0..20 {
        let began = Instant::now();
        cluster.pod(&format!("p{n}"), "node1", "x");
        let selector = format!("k8s:pod-uid:u-p{n}");
        while !client.list().await.unwrap().iter().any(|e| describe(e).ends_with(&selector)) {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", cluster.log());
        }
        took.push(began.elapsed().as_millis());
    }
    took.sort_unstable();
    println!("pod to entry: p50 {} ms, max {} ms of 20", took[10], took[19]);
    assert!(took[10] < 250, "{took:?}");
}

#[tokio::test]
async fn one_entry_that_is_refused_is_its_own_trouble() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    // SPIRE keeps /spire/ for itself: the pods of a namespace of that name cannot be registered.
    let template = "spiffe://{trust_domain}/{namespace}/sa/{service_account}/{number}";
    cluster.put("a.yaml", &pod("spire", "bad", "node1", "x", ""));
    cluster.pod("good", "node1", "x");
    cluster.put("b.yaml", &pod("shop", "early", "node1", "x", "").replace("uid: u-early", "uid: \"\""));
    let flags = ["--all-pods", "--resync-seconds", "1", "--spiffe-id-template", template];
    let _registrar = cluster.registrar(&spire, &flags);
    let status = cluster.until_status("good alone", |s| s.managed == 1 && s.failed == 1).await;
    assert_eq!((status.desired, status.waiting, status.server_down_since), (2, 1, None), "{status:?}");
    let of = |about: &str| status.errors.iter().find(|e| e.about == about).unwrap().message.clone();
    assert!(of("spire/bad").contains("reserved namespace"), "{status:?}");
    assert!(of("shop/early").contains("{pod_uid}"), "{status:?}");
    assert!(spire.entries(OURS).await[0].starts_with("/shop/sa/default/"));
    cluster.remove("a.yaml");
    cluster.put("b.yaml", &pod("shop", "early", "node1", "x", ""));
    cluster.until_status("all is well", |s| s.failed == 0 && s.waiting == 0 && s.managed == 2).await;
}

#[tokio::test]
async fn clusters_share_a_server() {
    if !has_spire() {
        return;
    }
    let spire = Spire::start().await;
    let (east, west) = (Cluster::new(), Cluster::new());
    let flags = |name| {
        let parent = format!("spiffe://{{trust_domain}}/{name}-nodes/{{node}}");
        ["--all-pods", "--resync-seconds", "1", "--cluster", name, "--node-parent-template"]
            .map(str::to_owned)
            .into_iter()
            .chain([parent])
            .collect::<Vec<_>>()
    };
    let start = |cluster: &Cluster, name| {
        let flags = flags(name);
        cluster.registrar(&spire, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for cluster in [&east, &west] {
        cluster.pod("web", "node1", "web");
    }
    let (_east, to_stop) = (start(&east, "east"), start(&west, "west"));
    for cluster in [&east, &west] {
        cluster.until_status("its own", |s| s.managed == 1 && s.in_step.is_some()).await;
    }
    assert_eq!(spire.entries("countersign.").await.len(), 2);
    east.remove("pod-web.yaml");
    east.until_entries(&spire, "countersign.east.", &[]).await;
    assert_eq!(spire.entries("countersign.west.").await.len(), 1);
    to_stop.stop();
}

#[tokio::test]
async fn entries_of_spire_controller_manager_are_left_to_do_their_work() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let template = "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}";
    let theirs = entry("/ns/shop/sa/default", "/spire-node/node1", "k8s:pod-uid:u-web");
    let id = "default.31dd6f0e-5c1b-4d7c-a6ac-8a1f0b3ec5e4".to_owned();
    spire.client().create(&[(id.clone(), theirs)]).await.unwrap();
    cluster.pod("web", "node1", "web");
    let flags = ["--all-pods", "--resync-seconds", "1", "--spiffe-id-template", template];
    let _registrar = cluster.registrar(&spire, &flags);
    let status = cluster.until_status("theirs does", |s| s.elsewhere == 1 && s.in_step.is_some()).await;
    assert_eq!((status.managed, status.desired), (0, 1), "{status:?}");
    spire.client().delete(&[id]).await.unwrap();
    cluster.until_status("ours does", |s| s.elsewhere == 0 && s.managed == 1).await;
}

/// Agent and registrar over the network: who is no administrator is told so, and works once it is one.
#[tokio::test]
async fn over_the_network_with_an_svid_of_its_own() {
    if !has_spire() {
        return;
    }
    let (spire, cluster) = (Spire::start().await, Cluster::new());
    let _agent = agent(&spire);
    let socket = spire.dir.path().join("agent/public/api.sock").display().to_string();
    let address = format!("127.0.0.1:{}", spire.port);
    cluster.pod("web", "node1", "web");
    cluster.policy("web", "db");
    let to = ["--server-address", &address, "--workload-socket", &socket, "--resync-seconds", "1"];
    let _registrar = cluster.registrar_to(&to);
    let status = cluster.until_status("no SVID", |s| s.server_down_since.is_some()).await;
    assert!(status.last_error.is_some(), "{status:?}");
    let mut client = spire.client();
    let user = format!("unix:uid:{}", nix::unistd::getuid());
    let own = |path| [("registrar".to_owned(), entry(path, "/this-node", &user))];
    client.create(&own("/somebody")).await.unwrap();
    cluster
        .until_status("no administrator", |s| {
            s.last_error.as_ref().is_some_and(|error| error.contains("permission"))
        })
        .await;
    client.update(&own("/registrar")).await.unwrap();
    let status = cluster.until_status("an administrator", |s| s.managed == 1).await;
    assert_eq!((status.server_down_since, status.server.as_str()), (None, &*address), "{status:?}");
    assert_eq!(spire.entries(OURS).await.len(), 1);
}

fn agent(spire: &Spire) -> Process {
    let token = spire.command(&["token", "generate", "-spiffeID", &format!("spiffe://{DOMAIN}/this-node")]);
    let token = token.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap().trim().to_owned();
    let at = spire.dir.path().join("agent");
    fs::create_dir_all(at.join("public")).unwrap();
    let dir = at.display();
    let config = format!(
        "agent {{\n data_dir = \"{dir}\"\n server_address = \"127.0.0.1\"\n server_port = \"{}\"\n \
         trust_domain = \"{DOMAIN}\"\n insecure_bootstrap = true\n log_level = \"WARN\"\n \
         socket_path = \"{dir}/public/api.sock\"\n}}\nplugins {{\n NodeAttestor \"join_token\" {{\n \
         plugin_data {{}}\n }}\n KeyManager \"memory\" {{\n plugin_data {{}}\n }}\n \
         WorkloadAttestor \"unix\" {{\n plugin_data {{}}\n }}\n}}\n",
        spire.port
    );
    fs::write(at.join("agent.conf"), config).unwrap();
    let child = Command::new(program("spire-agent", "SPIRE_AGENT"))
        .args(["run", "-config"])
        .arg(at.join("agent.conf"))
        .args(["-joinToken", &token])
        .stdout(Stdio::null())
        .stderr(fs::File::create(at.join("log")).unwrap())
        .spawn()
        .unwrap();
    Process(child)
}

#[test]
fn settings_that_cannot_be_are_refused_at_the_start() {
    let refused = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_countersign-registrar"))
            .args([
                "--manifests",
                "m",
                "--status-dir",
                "s",
                "--trust-domain",
                DOMAIN,
                "--server-socket",
                "/none",
            ])
            .args(flags)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{flags:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(&["--workload-selector", "k8s:pod-uid:{uid}"]);
    assert!(text.contains("there are {pod_uid}"), "{text}");
    let text = refused(&["--spiffe-id-template", "spiffe://{trust_domain}/{namespace}/{service_account}"]);
    assert!(text.contains("could be those of nodes"), "{text}");
}
