//! A real kube-apiserver with its etcd, and what is asked of it as its administrator.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Process;

/// What `xtask peers` builds.
const VERSION: &str = "1.36.3";

/// It starts in 3 s on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// The administrator's token.
const ADMIN: &str = "admin-of-the-test";

fn apiserver() -> PathBuf {
    if let Some(path) = std::env::var_os("KUBE_APISERVER") {
        return path.into();
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(format!(".cache/countersign/peers/kubernetes-{VERSION}/kube-apiserver"))
}

fn has_etcd() -> bool {
    let ask = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ask.is_ok_and(|status| status.success())
}

/// Whether there is a kube-apiserver with etcd. In CI there must be.
pub fn has_kubernetes() -> bool {
    let there = apiserver().exists() && has_etcd();
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(there || !must, "there is no kube-apiserver or no etcd: run cargo xtask peers");
    if !there {
        println!("skipped: there is no kube-apiserver or no etcd (cargo xtask peers gets both)");
    }
    there
}

/// An API server and its etcd, in a directory of their own.
pub struct ApiServer {
    pub dir: TempDir,
    pub port: u16,
    etcd_port: u16,
    _etcd: Process,
    running: Option<Process>,
}

impl ApiServer {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, etcd_port) = (free_port(), free_port());
        let etcd = Process(etcd(dir.path(), etcd_port));
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(dir.path().join("sa.key"), key.serialize_pem()).unwrap();
        fs::write(dir.path().join("sa.pub"), key.public_key_pem()).unwrap();
        fs::write(dir.path().join("tokens.csv"), format!("{ADMIN},admin,1,\"system:masters\"\n")).unwrap();
        let mut server = Self { dir, port, etcd_port, _etcd: etcd, running: None };
        server.resume();
        server
    }

    /// Starts it (again), and waits until it is ready.
    pub fn resume(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let log = fs::File::options().create(true).append(true).open(at("apiserver.log")).unwrap();
        let child = Command::new(apiserver())
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", at("certs")))
            .arg(format!("--token-auth-file={}", at("tokens.csv")))
            .arg(format!("--service-account-signing-key-file={}", at("sa.key")))
            .arg(format!("--service-account-key-file={}", at("sa.pub")))
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=RBAC",
                // Nobody here makes the service account of each namespace.
                "--disable-admission-plugins=ServiceAccount",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(Process(child));
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask("GET", "/readyz", "", "").is_none_or(|(code, _)| code != 200) {
            let log = fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap_or_default();
            let tail = &log[log.len().saturating_sub(3_000)..];
            assert!(Instant::now() < deadline, "the API server does not start: {tail}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills it, as a power cut would; etcd stays.
    pub fn kill(&mut self) {
        drop(self.running.take().unwrap());
    }

    /// A kubeconfig by which `token` asks, by way of `port`.
    pub fn kubeconfig(&self, name: &str, token: &str, port: u16) -> String {
        let path = self.dir.path().join(name);
        let authority = self.dir.path().join("certs/apiserver.crt");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "certificate-authority": authority,
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {
                "cluster": "test", "user": "test", "namespace": "countersign",
            }}],
        });
        fs::write(&path, config.to_string()).unwrap();
        path.display().to_string()
    }

    /// The administrator's.
    pub fn admin(&self) -> String {
        self.kubeconfig("admin.json", ADMIN, self.port)
    }

    /// Asks as the administrator; it must go well.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (code, answer) = self.try_ask(method, path, "application/json", &body).expect("an answer");
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
        answer
    }

    /// Asks as somebody, and returns the code alone.
    pub fn code_for(&self, token: &str, method: &str, path: &str) -> u16 {
        self.curl(token, method, path, "application/json", "").expect("an answer").0
    }

    /// Applies a manifest, as `kubectl apply --server-side` does.
    pub fn apply(&self, path: &str, manifest: &Value) -> Value {
        let path = format!("{path}?fieldManager=test");
        let text = manifest.to_string();
        let (code, answer) =
            self.try_ask("PATCH", &path, "application/apply-patch+yaml", &text).expect("an answer");
        assert!((200..300).contains(&code), "PATCH {path}: {code} {answer}");
        answer
    }

    fn try_ask(&self, method: &str, path: &str, kind: &str, body: &str) -> Option<(u16, Value)> {
        self.curl(ADMIN, method, path, kind, body)
    }

    fn curl(&self, token: &str, method: &str, path: &str, kind: &str, body: &str) -> Option<(u16, Value)> {
        let mut child = Command::new("curl")
            .args(["-sS", "--max-time", "30", "-X", method, "-w", "\n%{http_code}", "--data-binary", "@-"])
            .arg("--cacert")
            .arg(self.dir.path().join("certs/apiserver.crt"))
            .args(["-H", &format!("Authorization: Bearer {token}"), "-H", &format!("Content-Type: {kind}")])
            .arg(format!("https://127.0.0.1:{}{path}", self.port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        let (answer, code) = text.rsplit_once('\n')?;
        Some((code.parse().ok()?, serde_json::from_str(answer).unwrap_or_default()))
    }

    pub fn namespace(&self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.ask("POST", "/api/v1/namespaces", &object);
    }

    pub fn node(&self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.ask("POST", "/api/v1/nodes", &object);
    }

    /// Makes a pod that is on a node, and returns the UID that it was given.
    pub fn pod(&self, name: &str, node: &str, app: &str) -> String {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [
                {"name": "c", "image": "none", "ports": [{"name": "http", "containerPort": 80}]},
            ]},
        });
        let made = self.ask("POST", "/api/v1/namespaces/shop/pods", &object);
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Deletes a pod at once, as its kubelet does in the end.
    pub fn delete_pod(&self, name: &str) {
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.ask("DELETE", &format!("/api/v1/namespaces/shop/pods/{name}"), &now);
    }

    /// Pods of `server` ask those of `client` to authenticate.
    pub fn policy(&self, name: &str, server: &str, client: &str) {
        let object = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": name},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": server}},
                "ingress": [{
                    "fromEndpoints": [{"matchLabels": {"app": client}}],
                    "authentication": {"mode": "required"},
                }],
            },
        });
        self.ask("POST", "/apis/cilium.io/v2/namespaces/shop/ciliumnetworkpolicies", &object);
    }

    /// Cilium's definitions of its policies, as far as the API server has to know them, and waits until they are
    /// served.
    pub fn define_policies(&self) {
        for (kind, plural, scope) in [
            ("CiliumNetworkPolicy", "ciliumnetworkpolicies", "Namespaced"),
            ("CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", "Cluster"),
        ] {
            let object = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{plural}.cilium.io")},
                "spec": {
                    "group": "cilium.io", "scope": scope,
                    "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                    "versions": [{"name": "v2", "served": true, "storage": true, "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }}],
                },
            });
            self.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &object);
            let deadline = Instant::now() + PATIENCE;
            while self.code_for(ADMIN, "GET", &format!("/apis/cilium.io/v2/{plural}")) != 200 {
                assert!(Instant::now() < deadline, "{kind} is not served");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Who the Lease says leads.
    pub fn holder(&self) -> String {
        let path = "/apis/coordination.k8s.io/v1/namespaces/countersign/leases/countersign-registrar";
        let lease = self.ask("GET", path, &Value::Null);
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

fn etcd(dir: &Path, port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
    let log = fs::File::create(dir.join("etcd.log")).unwrap();
    Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Stops a process where it stands, or lets it go on.
pub fn signal(process: &Process, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(process.0.id()).unwrap()), signal).unwrap();
}
