//! What the lab does for agents: starts them as they are to be started, keeps them, tells them about endpoints,
//! and lets nothing pass before they have answered. The agent of these tests is the test itself.
//!
//! Needs root, as the other tests of the lab.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Traces, bin_dir, lab_options, pod, root, until};
use countersign_agent_api::{Done, EndpointAdded, EndpointSpec, Error, ErrorKind, Listener, Request, Status};
use countersign_lab::{AgentMode, Lab, LabOptions, Phase, PodKey};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(2);

/// Programs of the right names that do nothing but say how they were started.
fn puppets() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(bin_dir().join("countersign-lab"), dir.path().join("countersign-lab"))
        .unwrap();
    let script = |name: &str, body: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\nexec sleep 1000\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("countersign-wg", "touch /var/run/wireguard/cs_wg0.sock; echo \"wg $*\"");
    script("countersign-agent", "echo \"agent $*\"; ls /var/run/wireguard; ls -d /sys/fs/bpf");
    dir
}

fn options(name: &str, programs: &Path) -> LabOptions {
    let bin_dir = Some(programs.to_owned());
    LabOptions { agent: AgentMode::Countersign, bin_dir, wait: false, ..lab_options(name) }
}

/// An agent's control socket, answered by the test.
struct Puppeteer {
    asked: Receiver<Request>,
    /// Whether endpoints are taken.
    willing: Arc<Mutex<bool>>,
    _runtime: tokio::runtime::Runtime,
}

impl Puppeteer {
    fn listen(socket: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let willing = Arc::new(Mutex::new(false));
        let (sender, asked) = channel();
        let listener = runtime.block_on(async { Listener::bind(socket).unwrap() });
        runtime.spawn(answer(listener, sender, willing.clone()));
        Self { asked, willing, _runtime: runtime }
    }

    fn set_willing(&self, willing: bool) {
        *self.willing.lock().unwrap() = willing;
    }

    /// Waits for a request about an endpoint.
    fn next(&self) -> Request {
        self.asked.recv_timeout(SOON).unwrap()
    }

    fn next_added(&self) -> EndpointSpec {
        match self.next() {
            Request::EndpointAdd(spec) => spec,
            other => panic!("{other:?}"),
        }
    }
}

async fn answer(mut listener: Listener, asked: Sender<Request>, willing: Arc<Mutex<bool>>) {
    while let Some(connection) = listener.accept().await {
        let willing = *willing.lock().unwrap();
        let request = connection.request.clone();
        let answered = match &request {
            Request::Status => connection.responder.reply(&Status::default()).await,
            Request::EndpointAdd(_) if willing => {
                connection.responder.reply(&EndpointAdded { id: 1, identity: 300 }).await
            }
            Request::EndpointRemove(_) if willing => connection.responder.reply(&Done {}).await,
            _ => connection.responder.error(Error::new(ErrorKind::NotFound, "not yet")).await,
        };
        answered.unwrap();
        if matches!(request, Request::EndpointAdd(_) | Request::EndpointRemove(_)) {
            let _ = asked.send(request);
        }
    }
}

#[test]
fn nothing_passes_before_the_agent_has_taken_the_endpoint() {
    if !root() {
        return;
    }
    let programs = puppets();
    let lab = Lab::up(&options("labtaken", programs.path())).unwrap();
    let key = PodKey::new("default", "a");
    let state = || lab.pod(&key).unwrap();
    let agent = Puppeteer::listen(&lab.node("node1").unwrap().agent_socket());
    lab.apply("a.yaml", &pod("a", "node1", "")).unwrap();
    let spec = agent.next_added();
    let net = state().net.unwrap();
    assert_eq!(
        (spec.interface.as_str(), spec.mac.as_str(), &spec.ips),
        (net.interface.as_str(), net.mac.as_str(), &state().ips())
    );
    assert!(lab.paths().pod_status(&key).exists(), "the agent can read whose endpoint it is");
    assert_eq!(agent.next_added(), spec, "asked again and again");
    let link = || {
        String::from_utf8(lab.exec("node1", &["ip", "-o", "link", "show", &net.interface]).unwrap().stdout)
            .unwrap()
    };
    assert!(link().contains("state DOWN"), "{}", link());
    assert_eq!((state().phase, state().registered), (Phase::Pending, false));
    agent.set_willing(true);
    assert!(until(SOON, || state().phase == Phase::Running, |running| *running));
    assert!(link().contains("state UP"), "{}", link());
    // A successor of the same name waits until the agent has let go of the predecessor.
    while agent.asked.try_recv().is_ok() {}
    agent.set_willing(false);
    lab.apply("a.yaml", &pod("a", "node1", "[sleep, '1000']")).unwrap();
    assert!(matches!(agent.next(), Request::EndpointRemove(of) if of.name == "a"));
    assert!(matches!(agent.next(), Request::EndpointRemove(_)), "asked again");
    agent.set_willing(true);
    let added =
        std::iter::repeat_with(|| agent.next()).find(|request| matches!(request, Request::EndpointAdd(_)));
    assert!(matches!(added, Some(Request::EndpointAdd(new)) if new.uid != spec.uid && new.ips != spec.ips));
}

#[test]
fn agents_are_kept_running_and_held_down_on_request() {
    if !root() {
        return;
    }
    let programs = puppets();
    let traces = Traces::before("labkeep");
    let lab = Lab::up(&options("labkeep", programs.path())).unwrap();
    let node = lab.node("node1").unwrap();
    let _agent = Puppeteer::listen(&node.agent_socket());
    let first = until(SOON, || node.agent(), Option::is_some).unwrap();
    let log = lab.paths().log("agent-node1");
    let said = until(SOON, || fs::read_to_string(&log).unwrap_or_default(), |said| said.lines().count() >= 3);
    let dir = lab.paths().root().display().to_string();
    let expected = format!(
        "agent --node-name node1 --run-dir /run/countersign --pin-dir /sys/fs/bpf/countersign --manifests {dir}/manifests \
         --status-dir {dir}/status --uplink eth0 --trust-domain countersign.lab --parking on --embedded-ca {dir}/ca \
         --svid-ttl 3600s\ncs_wg0.sock\n/sys/fs/bpf\n"
    );
    assert_eq!(said, expected, "WireGuard is there first");
    assert_eq!(fs::read_to_string(lab.paths().log("wg-node1")).unwrap(), "wg -f cs_wg0\n");
    let wireguard = node.wireguard().unwrap();
    assert!(first.signal(Signal::SIGKILL));
    let second = until(SOON, || node.agent().filter(|now| now.pid != first.pid), Option::is_some).unwrap();
    node.stop_agent(Signal::SIGTERM).unwrap();
    assert!(!second.is_alive());
    std::thread::sleep(Duration::from_millis(1500));
    assert!(node.agent().is_none() && lab.view().nodes[0].held, "held down");
    node.start_agent().unwrap();
    assert!(until(SOON, || node.agent(), Option::is_some).is_some());
    assert_eq!(node.wireguard(), Some(wireguard), "WireGuard lives on");
    traces.note(&lab);
    lab.down().unwrap();
    traces.assert_none();
}

#[test]
fn what_is_missing_is_said() {
    if !root() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Lab::up(&options("labmissing", empty.path())).unwrap_err().to_string();
    assert!(error.contains("countersign-lab is not in"), "{error}");
    assert!(!Path::new("/run/countersign/lab/labmissing").exists());
    let programs = puppets();
    let silent = LabOptions { wait: true, ..options("labsilent", programs.path()) };
    let traces = Path::new("/run/countersign/lab/labsilent");
    // Nobody answers for the agents: `up` says which, and a guarded lab is gone again.
    let error =
        Lab::up(&LabOptions { ready_timeout: Duration::from_secs(1), ..silent }).unwrap_err().to_string();
    assert!(error.contains("the agent of node1 does not answer"), "{error}");
    assert!(!traces.exists());
}
