//! The binary itself, talking to agents that this test plays.

mod fixtures;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use countersign_agent_api::{
    AuthFlushed, Connection, EncryptStatus, FlowEvent, Listener, Metrics, PolicyExplanation, Request,
    RotationBegun, Status,
};

/// An agent in a thread.
#[derive(Clone)]
struct Agent {
    status: Status,
    /// How often it says that it is degraded before it says what `status` says.
    sick: Arc<AtomicU32>,
    encrypt: EncryptStatus,
    /// How often it was asked about encryption since it was told to change its key; 0: it was not.
    rotating: Arc<AtomicU32>,
    flows: Vec<FlowEvent>,
}

impl Agent {
    fn new(node: usize) -> Self {
        let mut status = fixtures::status_ok();
        status.node = format!("n{}", node + 1);
        let encrypt = fixtures::encrypt_both().swap_remove(node);
        Self { status, sick: Arc::default(), encrypt, rotating: Arc::default(), flows: fixtures::flows() }
    }

    fn listen(self, socket: PathBuf) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut listener = Listener::bind(socket).expect("a listener");
                ready.send(()).expect("the test waits");
                while let Some(connection) = listener.accept().await {
                    tokio::spawn(self.clone().answer(connection));
                }
            });
        });
        is_ready.recv().expect("the agent listens");
    }

    /// Of one that changes its key: it waits for the other node, and is done.
    fn encrypt_status(&self) -> EncryptStatus {
        let asked = self.rotating.load(Ordering::Relaxed);
        if asked > 0 {
            self.rotating.store(asked + 1, Ordering::Relaxed);
        }
        let mut rotation = fixtures::encrypt_rotating().swap_remove(0).rotation;
        // It is not late, whenever this runs.
        rotation.iter_mut().for_each(|rotation| rotation.until = u64::MAX);
        match asked {
            0 | 1 => self.encrypt.clone(),
            2 | 3 => EncryptStatus { rotation, ..self.encrypt.clone() },
            _ => EncryptStatus { public_key: fixtures::KEY_3.into(), ..self.encrypt.clone() },
        }
    }

    async fn answer(self, Connection { request, mut responder }: Connection) {
        let _ = match request {
            Request::Status if self.sick.load(Ordering::Relaxed) > 0 => {
                self.sick.fetch_sub(1, Ordering::Relaxed);
                responder.reply(&fixtures::status_degraded()).await
            }
            Request::Status => responder.reply(&self.status).await,
            Request::EncryptStatus => responder.reply(&self.encrypt_status()).await,
            Request::RotateKey => {
                self.rotating.store(1, Ordering::Relaxed);
                let EncryptStatus { node, public_key, .. } = self.encrypt.clone();
                let next_public_key = fixtures::KEY_3.to_owned();
                responder.reply(&RotationBegun { node, public_key, next_public_key, is_new: true }).await
            }
            Request::SpireStatus => responder.reply(&fixtures::spire()).await,
            Request::AuthList => responder.list(&fixtures::auth()).await,
            Request::AuthFlush => responder.reply(&AuthFlushed { removed: 4 }).await,
            Request::IdentityList => responder.list(&fixtures::identities()).await,
            Request::EndpointList => responder.list(&fixtures::endpoints()).await,
            Request::IpcacheList => responder.list(&fixtures::ipcache()).await,
            Request::PolicyGet => responder.reply(&fixtures::policy()).await,
            Request::PolicyExplain(_) => responder.reply(&PolicyExplanation::default()).await,
            Request::Metrics => {
                responder.reply(&Metrics { text: "countersign_svids 3\n# EOF\n".into() }).await
            }
            Request::Observe(observe) => {
                for flow in &self.flows {
                    let _ = responder.item(flow).await;
                }
                if observe.follow {
                    // More than a pipe holds, for as long as somebody reads.
                    for _ in 0..10_000 {
                        if responder.item(&self.flows[0]).await.is_err() {
                            return;
                        }
                    }
                }
                responder.end().await
            }
            Request::EndpointAdd(_) | Request::EndpointRemove(_) => return,
        };
    }
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    /// A lab `t` with these agents on n1, n2, …
    fn lab(agents: Vec<Option<Agent>>) -> Self {
        let world = Self::new();
        for (n, agent) in agents.into_iter().enumerate() {
            let run = world.dir.path().join(format!("t/n{}/run", n + 1));
            fs::create_dir_all(&run).expect("a directory");
            if let Some(agent) = agent {
                agent.listen(run.join("agent.sock"));
            }
        }
        // What a lab's directory holds beside nodes.
        fs::create_dir_all(world.dir.path().join("t/status/nodes")).expect("a directory");
        world
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    fn one(agent: Agent) -> Self {
        let world = Self::new();
        agent.listen(world.socket());
        world
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.env_clear().env("COUNTERSIGN_SOCKET", self.socket()).arg("--lab-root").arg(self.dir.path());
        command.args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the command runs"))
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read_to_string(path).expect("a golden file")
}

#[test]
fn every_command_prints_what_the_agent_says() {
    let world = World::one(Agent::new(0));
    for (args, expected) in [
        (&["auth", "list"][..], golden("auth.txt")),
        (&["auth", "list", "-o", "json"], golden("auth.json")),
        (&["ipcache", "list"], golden("ipcache.txt")),
        (&["identity", "list", "-o", "json"], golden("identity.json")),
        (&["endpoint", "list", "-o", "json"], golden("endpoint.json")),
        (&["policy", "get"], golden("policy.txt")),
        (&["policy", "get", "-o", "wide"], golden("policy-wide.txt")),
        (&["policy", "get", "-o", "json"], golden("policy.json")),
        (&["status", "-o", "json"], golden("status-ok.json")),
        (&["auth", "flush"], "4 entries removed\n".into()),
        (&["metrics"], "countersign_svids 3\n# EOF\n".into()),
        (&["version"], format!("countersign {0}\nagent on n1: {0}\n", env!("CARGO_PKG_VERSION"))),
    ] {
        let ran = world.run(args);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
        assert_eq!(ran.out, expected, "{args:?}");
    }
    for args in [&["status"][..], &["endpoint", "list"], &["identity", "list", "-o", "wide"]] {
        let ran = world.run(args);
        assert!(
            ran.code == Some(0) && ran.err.is_empty() && ran.out.lines().count() > 3,
            "{args:?}: {ran:?}"
        );
    }
    let ran = world.run(&["encrypt", "status"]);
    assert!(ran.out.starts_with("Encryption: Wireguard (2/2 nodes)\n"), "{ran:?}");
}

#[test]
fn svids_are_listed_and_shown_and_what_is_missing_is_said() {
    let world = World::one(Agent::new(0));
    let ran = world.run(&["spire", "status"]);
    assert_eq!(ran.code, Some(3), "a pod has no SVID");
    assert!(ran.out.contains("shop/late") && ran.out.contains("no entry matches it"), "{ran:?}");
    let ran = world.run(&["svid", "list"]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 3), "{ran:?}");
    for what in ["shop/web", "300", "spiffe://countersign.lab/identity/300"] {
        let ran = world.run(&["svid", "show", what]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("identity/300") && ran.out.contains("BEGIN CERTIFICATE"), "{ran:?}");
    }
    let ran = world.run(&["svid", "show", "node", "-o", "json"]);
    assert!(ran.code == Some(0) && ran.out.contains("node/n1"), "{ran:?}");
    let ran = world.run(&["svid", "show", "shop/late"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("spire status"), "{ran:?}");
}

#[test]
fn no_agent() {
    let world = World::new();
    let ran = world.run(&["auth", "list"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let socket = world.socket().display().to_string();
    for words in ["not running", &socket, "start countersign-agent", "--lab"] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    for args in [&["status"][..], &["encrypt", "status", "-o", "json"], &["observe"], &["metrics"]] {
        let ran = world.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{args:?}");
    }
    assert_eq!(world.run(&["version"]).code, Some(0));
}

#[test]
fn status_says_how_it_is_by_its_exit_code() {
    let agent = Agent::new(0);
    agent.sick.store(3, Ordering::Relaxed);
    let sick = Arc::clone(&agent.sick);
    let world = World::one(agent);
    let ran = world.run(&["status"]);
    assert_eq!(ran.code, Some(3));
    let at = |words| ran.out.find(words).expect(words);
    assert!(at("Degraded") < at("identity source fails") && at("identity source fails") < at("Uptime"));
    assert_eq!(world.run(&["status", "--wait"]).code, Some(0));
    assert_eq!(sick.load(Ordering::Relaxed), 0);
    sick.store(u32::MAX, Ordering::Relaxed);
    assert_eq!(world.run(&["status", "--wait", "--timeout", "1"]).code, Some(3));
}

#[test]
fn status_waits_for_an_agent_to_come() {
    let world = World::new();
    let waiting = world.command(&["status", "--wait", "--timeout", "20"]).stdout(Stdio::piped()).spawn();
    std::thread::sleep(Duration::from_millis(300));
    Agent::new(0).listen(world.socket());
    let output = waiting.expect("it runs").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn wrong_usage() {
    let world = World::new();
    for args in [
        &["no-such"][..],
        &[],
        &["auth"],
        &["observe", "--port", "70000"],
        &["observe", "--ip", "10.0.0.0/33"],
        &["observe", "--last", "99999999"],
        &["observe", "--direction", "up"],
        &["status", "-o", "yaml"],
        &["status", "--timeout", "soon"],
        &["policy", "verdicts"],
    ] {
        let ran = world.run(args);
        assert!(ran.code == Some(2) && ran.out.is_empty() && !ran.err.is_empty(), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_lab_is_all_its_nodes() {
    let world = World::lab(vec![Some(Agent::new(0)), Some(Agent::new(1))]);
    let ran = world.run(&["--lab", "t", "encrypt", "status"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.starts_with("Encryption: Wireguard (2/2 nodes)\n"), "{}", ran.out);
    assert_eq!(ran.out.matches("  Node: ").count(), 2);
    let ran = world.run(&["encrypt", "status", "--lab", "t", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&json["encrypted_nodes"], &json["total_nodes"]), (&2.into(), &2.into()));
    assert_eq!(json["nodes"][1]["peers"][0]["node"], "n1");
    let ran = world.run(&["--lab", "t", "auth", "list"]);
    let nodes: Vec<_> = ran.out.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(nodes, ["NODE", "n1", "n1", "n1", "n1", "n2", "n2", "n2", "n2"]);
    let ran = world.run(&["--lab", "t", "--node", "n2", "auth", "list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert!(
        json.as_array().is_some_and(|rows| rows.len() == 4 && rows.iter().all(|row| row["node"] == "n2"))
    );
    let ran = world.run(&["--lab", "t", "status", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&json[0]["node"], &json[1]["node"]), (&"n1".into(), &"n2".into()));
    let ran = world.run(&["--lab", "t", "metrics"]);
    assert!(ran.out.contains("# node n1\ncountersign_svids 3\n"), "{}", ran.out);
}

#[test]
fn a_node_that_does_not_answer_does_not_hide_the_others() {
    let world = World::lab(vec![Some(Agent::new(0)), None]);
    let ran = world.run(&["--lab", "t", "encrypt", "status"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.starts_with("Encryption: Wireguard (1/2 nodes)\n"), "{}", ran.out);
    assert!(ran.err.contains("node n2: the agent is not running at"), "{}", ran.err);
    let ran = world.run(&["--lab", "t", "auth", "list"]);
    assert!(ran.code == Some(1) && ran.out.lines().count() == 5, "{ran:?}");
}

#[test]
fn a_node_that_is_not_encrypted_says_why() {
    let mut agent = Agent::new(0);
    agent.encrypt = fixtures::encrypt_with_error().swap_remove(0);
    let ran = World::one(agent).run(&["encrypt", "status"]);
    assert!(ran.code == Some(0) && ran.out.starts_with("Encryption: Wireguard (0/2 nodes)\n"), "{ran:?}");
    assert!(ran.out.contains("countersign-wg does not answer"), "{ran:?}");
}

#[test]
fn the_change_of_a_key_is_followed_to_its_end() {
    let world = World::one(Agent::new(0));
    let ran = world.run(&["encrypt", "rotate-key"]);
    assert!(ran.code == Some(1) && ran.err.contains("--node NAME, or --all"), "{ran:?}");
    let ran = world.run(&["encrypt", "rotate-key", "--all"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert_eq!(lines[0], format!("n1: next key {}", fixtures::KEY_3));
    assert!(lines[1].starts_with("n1: both keys are in use, waiting for n2 ("), "{ran:?}");
    assert!(lines[2].starts_with("n1: the old key has ended ("), "{ran:?}");
}

#[test]
fn the_change_of_a_key_is_told_to_programs_line_by_line() {
    let world = World::one(Agent::new(0));
    let ran = world.run(&["encrypt", "rotate-key", "--all", "-o", "json"]);
    let steps: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let phases: Vec<_> = steps.iter().map(|step| step["phase"].as_str().expect("a phase")).collect();
    assert_eq!((ran.code, phases), (Some(0), vec!["begun", "waiting", "done"]), "{steps:?}");
    assert_eq!(steps[1]["waiting_for"], serde_json::json!(["n2"]));
    assert!(steps.iter().all(|step| step["node"] == "n1" && step["public_key"] == fixtures::KEY_3));
    let ran = world.run(&["encrypt", "rotate-key", "--all", "--no-wait"]);
    assert!(ran.code == Some(0) && ran.out.lines().count() == 1, "{ran:?}");
}

#[test]
fn labs_and_nodes_that_do_not_exist() {
    let world = World::lab(vec![None]);
    for (args, words) in [
        (&["--lab", "nope", "status"][..], "no lab nope: `countersign lab up --name nope`"),
        (&["--lab", "t", "--node", "n9", "status"], "no node n9: its nodes are n1"),
        (&["--lab", "../t", "status"], "is not the name of a lab"),
        (&["--lab", "", "status"], "is not the name of a lab"),
        (&["--node", "n1", "status"], "name the lab with --lab"),
    ] {
        let ran = world.run(args);
        assert!(ran.code == Some(1) && ran.err.contains(words), "{args:?}: {ran:?}");
    }
}

#[test]
fn observe_merges_nodes_by_time() {
    let mut agents = [Agent::new(0), Agent::new(1)];
    for (n, agent) in agents.iter_mut().enumerate() {
        agent.flows = (0..30)
            .map(|i| {
                let FlowEvent::Flow(mut flow) = fixtures::flows().swap_remove(0) else { panic!("a flow") };
                flow.time = format!("2026-11-21T10:16:{:02}.000000000Z", 2 * i % 60 + n);
                flow.node = format!("n{}", n + 1);
                FlowEvent::Flow(flow)
            })
            .collect();
    }
    let world = World::lab(agents.into_iter().map(Some).collect());
    let ran = world.run(&["--lab", "t", "observe", "--last", "10", "-o", "json"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let nodes: Vec<_> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["flow"]["node"].clone())
        .collect();
    assert_eq!(nodes, ["n1", "n2", "n1", "n2", "n1", "n2", "n1", "n2", "n1", "n2"]);
    let ran = world.run(&["--lab", "t", "observe", "--last", "1"]);
    assert!(ran.out.starts_with("Nov 21 10:16:59.000 [n2]: default/client-1:40000"), "{}", ran.out);
}

#[test]
fn observe_one_node() {
    let world = World::one(Agent::new(0));
    let ran = world.run(&["observe"]);
    let mut expected: Vec<_> = golden("observe.txt").lines().map(str::to_owned).collect();
    let mut lines: Vec<_> = ran.out.lines().map(str::to_owned).collect();
    expected.sort();
    lines.sort();
    assert_eq!((ran.code, lines), (Some(0), expected));
    let ran = world.run(&["observe", "--namespace", &"x,".repeat(10), "--pod", "a"]);
    assert_eq!(ran.code, Some(0));
}

#[test]
fn who_has_read_enough_may_go() {
    let world = World::one(Agent::new(0));
    for args in [&["observe", "-f"][..], &["observe", "-f", "-o", "json"]] {
        let mut command =
            world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        let mut first = String::new();
        let mut reader = BufReader::new(command.stdout.take().expect("its output"));
        reader.read_line(&mut first).expect("a line");
        assert!(first.contains("default"), "{first}");
        drop(reader);
        let ran = Ran::of(command.wait_with_output().expect("it ends"));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    }
}

#[test]
fn colours_are_for_terminals_and_those_who_ask() {
    let world = World::one(Agent::new(0));
    assert!(!world.run(&["auth", "list"]).out.contains('\u{1b}'));
    assert!(world.run(&["--color", "always", "auth", "list"]).out.contains("\u{1b}["));
    assert!(!world.run(&["--color", "always", "auth", "list", "-o", "json"]).out.contains('\u{1b}'));
    let in_vain =
        world.command(&["--color", "never", "status"]).env("CLICOLOR_FORCE", "1").output().expect("runs");
    assert!(!in_vain.stdout.contains(&0x1b));
}

#[test]
fn help_teaches_and_completions_complete() {
    let world = World::new();
    for args in
        [&["--help"][..], &["observe", "--help"], &["encrypt", "status", "--help"], &["lab", "--help"]]
    {
        let ran = world.run(args);
        assert!(ran.code == Some(0) && ran.out.contains("Examples:"), "{args:?}: {}", ran.out);
    }
    assert!(world.run(&["--help"]).out.contains("Exit codes:"));
    for shell in ["bash", "zsh", "fish"] {
        let ran = world.run(&["completion", shell]);
        assert!(ran.code == Some(0) && ran.out.contains("countersign") && ran.out.len() > 1000, "{shell}");
    }
}

const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: default, labels: { org: empire } }
---
apiVersion: v1
kind: Pod
metadata: { name: xwing, namespace: default, labels: { org: alliance } }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: default, labels: { class: deathstar } }
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: secure-access, namespace: default }
spec:
  endpointSelector: { matchLabels: { class: deathstar } }
  ingress:
  - fromEndpoints: [{ matchLabels: { org: empire } }]
    toPorts: [{ ports: [{ port: \"80\", protocol: TCP }] }]
    authentication: { mode: required }
";

#[test]
fn verdicts_without_a_cluster() {
    let world = World::new();
    let manifests = world.dir.path().join("manifests");
    fs::create_dir(&manifests).expect("a directory");
    fs::write(manifests.join("a.yaml"), MANIFESTS).expect("written");
    fs::write(manifests.join("README.md"), "not: [a manifest").expect("written");
    let flows = world.dir.path().join("flows.jsonl");
    let lines = [
        r#"{"from":"default/client","to":"default/web","protocol":"TCP","port":80}"#,
        r#"{"from":"default/xwing","to":"default/web","protocol":"TCP","port":80,"note":"kept"}"#,
        r#"{"from":"default/web","to":"8.8.8.8","protocol":"UDP","port":53}"#,
    ];
    fs::write(&flows, lines.join("\n")).expect("written");
    let (dir, file) = (manifests.to_str().expect("UTF-8"), flows.to_str().expect("UTF-8"));
    let args = ["policy", "verdicts", "--manifests", dir, "--flows", file];
    let ran = world.run(&args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let verdicts: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let brief: Vec<_> = verdicts
        .iter()
        .map(|v| ["egress", "ingress", "verdict", "auth"].map(|key| v[key].as_str().unwrap_or("?")).join(" "))
        .collect();
    assert_eq!(
        brief,
        ["allowed allowed allowed required", "allowed denied denied none", "allowed allowed allowed none"]
    );
    assert_eq!(verdicts[0]["rules"][0]["name"], "secure-access");
    assert_eq!((&verdicts[1]["note"], &verdicts[1]["from"]), (&"kept".into(), &"default/xwing".into()));
    let ran = world.run(&[&args[..], &["-o", "table"]].concat());
    assert!(ran.code == Some(0) && ran.out.contains("default/secure-access:20"), "{ran:?}");
}

#[test]
fn verdicts_name_what_is_wrong() {
    let world = World::new();
    let manifests = world.dir.path().join("manifests");
    fs::create_dir(&manifests).expect("a directory");
    fs::write(manifests.join("a.yaml"), MANIFESTS.replace("mode: required", "mode: requiered"))
        .expect("written");
    fs::write(manifests.join("b.yaml"), "{").expect("written");
    let flows = world.dir.path().join("flows.jsonl");
    fs::write(
        &flows,
        "{\"from\":\"default/nobody\\u001b\",\"to\":\"default/web\",\"port\":80}\n\nnot JSON\n",
    )
    .expect("written");
    let (dir, file) = (manifests.to_str().expect("UTF-8"), flows.to_str().expect("UTF-8"));
    let ran = world.run(&["policy", "verdicts", "--manifests", dir, "--flows", file]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(ran.out.lines().filter(|line| line.contains("\"error\"")).count(), 2);
    assert!(!ran.out.contains('\u{1b}'));
    for words in
        ["a.yaml: CiliumNetworkPolicy secure-access refused: line", "authentication", "b.yaml: refused: line"]
    {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    let missing = world.run(&["policy", "verdicts", "--manifests", "/nonexistent", "--flows", file]);
    assert!(missing.code == Some(1) && missing.err.contains("cannot read /nonexistent"), "{missing:?}");
    fs::write(&flows, "x".repeat(70_000)).expect("written");
    let long = world.run(&["policy", "verdicts", "--manifests", dir, "--flows", file]);
    assert!(long.code == Some(1) && long.err.contains("longer than"), "{long:?}");
}

#[test]
fn explaining_a_flow_of_manifests() {
    let world = World::new();
    let file = world.dir.path().join("a.yaml");
    fs::write(&file, MANIFESTS).expect("written");
    let manifests = file.to_str().expect("UTF-8");
    let explain = |from, more: &[&str]| {
        world.run(&[&["policy", "explain", from, "default/web", "--manifests", manifests], more].concat())
    };
    let ran = explain("default/client", &[]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(
        ran.out.starts_with("default/client -> default/web TCP/80: ALLOWED once authenticated"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("secure-access spec.ingress[0] (line 20)"), "{}", ran.out);
    let ran = explain("default/xwing", &["TCP/80"]);
    assert!(ran.out.contains("DENIED") && ran.out.contains("wants org = empire"), "{}", ran.out);
    let ran = explain("default/client", &["udp/53", "-o", "json"]);
    let explained: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(explained["verdict"], "denied");
    assert_eq!(explained["ingress"]["rules"][0]["why"], "is about another protocol: TCP/80");
    assert_eq!(explain("default/nobody", &[]).code, Some(1));
    assert_eq!(explain("default/client", &["TCP/http"]).code, Some(2));
}

#[test]
fn mistakes_have_an_exit_code() {
    let world = World::new();
    let manifests = world.dir.path().join("manifests");
    fs::create_dir(&manifests).expect("a directory");
    let dir = manifests.to_str().expect("UTF-8");
    fs::write(manifests.join("a.yaml"), MANIFESTS).expect("written");
    let ran = world.run(&["policy", "lint", dir]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "0 errors, 0 warnings, 0 notes\n"));
    fs::write(manifests.join("b.yaml"), MANIFESTS.replace("mode: required", "mode: requiered"))
        .expect("written");
    fs::write(
        manifests.join("c.yaml"),
        MANIFESTS.replace("org: empire }", "org: rebels }").replace("secure", "second"),
    )
    .expect("written");
    let ran = world.run(&["policy", "lint", dir, "-o", "json"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let found: Vec<serde_json::Value> = serde_json::from_str(&ran.out).expect("JSON");
    let schema = found.iter().find(|one| one["check"] == "schema").expect("the slip");
    assert_eq!((&schema["line"], &schema["severity"]), (&22.into(), &"error".into()));
    assert!(schema["file"].as_str().is_some_and(|file| file.ends_with("b.yaml")), "{schema}");
    let text = world.run(&["policy", "lint", dir]).out;
    assert!(
        text.contains("b.yaml:22: error [schema]") && text.contains("fix: required, disabled or"),
        "{text}"
    );
}
