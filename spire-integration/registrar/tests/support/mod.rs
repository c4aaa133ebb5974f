//! A real SPIRE server (and agent), a cluster in a directory, and the registrar as a process.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod kubernetes;
pub mod proxy;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_certs::TrustDomain;
use countersign_registrar::{Server, Target};
use countersign_spire_proto::{Entry, Existing, RegistrarStatus};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

pub const DOMAIN: &str = "test.example";

/// Ends with its owner.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Asks it to end, and waits.
    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }

    /// Processor time used so far, in ticks of 10 ms.
    pub fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

/// Where the program is: `xtask peers` builds it.
pub fn program(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".cache/countersign/peers/spire-1.15.3").join(name)
}

/// Whether SPIRE is there. In CI it must be.
pub fn has_spire() -> bool {
    let there = program("spire-server", "SPIRE_SERVER").exists();
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(there || !must, "there is no spire-server: run cargo xtask peers");
    if !there {
        println!("skipped: there is no spire-server (cargo xtask peers builds it)");
    }
    there
}

/// A SPIRE server with SQLite in a directory of its own.
pub struct Spire {
    pub dir: TempDir,
    pub port: u16,
    running: Option<Process>,
}

impl Spire {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let config = format!(
            "server {{\n bind_address = \"127.0.0.1\"\n bind_port = \"{port}\"\n socket_path = \"{at}/api.sock\"\n \
             trust_domain = \"{DOMAIN}\"\n data_dir = \"{at}/data\"\n log_level = \"WARN\"\n \
             ca_key_type = \"ec-p256\"\n admin_ids = [\"spiffe://{DOMAIN}/registrar\"]\n}}\n\
             plugins {{\n DataStore \"sql\" {{\n plugin_data {{\n database_type = \"sqlite3\"\n \
             connection_string = \"{at}/data/entries.sqlite3\"\n }}\n }}\n \
             NodeAttestor \"join_token\" {{\n plugin_data {{}}\n }}\n \
             KeyManager \"disk\" {{\n plugin_data {{\n keys_path = \"{at}/data/keys.json\"\n }}\n }}\n}}\n"
        );
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("server.conf"), config).unwrap();
        let mut spire = Self { dir, port, running: None };
        spire.resume().await;
        spire
    }

    /// Starts it (again), and waits until it answers.
    pub async fn resume(&mut self) {
        let config = self.dir.path().join("server.conf");
        let log = fs::File::create(self.dir.path().join("server.log")).unwrap();
        let child = Command::new(program("spire-server", "SPIRE_SERVER"))
            .args(["run", "-config"])
            .arg(config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(Process(child));
        let mut client = self.client();
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.list().await {
            let log = fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the server does not start: {error}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn stop(&mut self) {
        self.running.take().unwrap().stop();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// A client of its own socket.
    pub fn client(&self) -> Server {
        Server::new(&Target::Socket(self.socket()), &TrustDomain::parse(DOMAIN).unwrap()).unwrap()
    }

    /// The server's own command line.
    pub fn command(&self, args: &[&str]) -> String {
        let output = Command::new(program("spire-server", "SPIRE_SERVER"))
            .args(args)
            .arg("-socketPath")
            .arg(self.socket())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Entries whose ID begins so, by SPIFFE ID, parent and first selector.
    pub async fn entries(&self, prefix: &str) -> Vec<String> {
        let mut found: Vec<String> =
            self.all().await.iter().filter(|e| e.id.starts_with(prefix)).map(describe).collect();
        found.sort();
        found
    }

    pub async fn all(&self) -> Vec<Existing> {
        self.client().list().await.unwrap()
    }
}

pub fn describe(existing: &Existing) -> String {
    let entry = existing.entry.as_ref().unwrap();
    let selectors: Vec<String> = entry.selectors.iter().map(ToString::to_string).collect();
    format!("{} < {} {}", entry.spiffe_id.path(), entry.parent_id.path(), selectors.join(" "))
}

pub fn entry(path: &str, parent: &str, selector: &str) -> Entry {
    Entry {
        spiffe_id: format!("spiffe://{DOMAIN}{path}").parse().unwrap(),
        parent_id: format!("spiffe://{DOMAIN}{parent}").parse().unwrap(),
        selectors: [selector.parse().unwrap()].into(),
        x509_svid_ttl_seconds: 0,
        federates_with: [].into(),
        hint: String::new(),
    }
}

/// A cluster as directories have it.
pub struct Cluster {
    pub dir: TempDir,
}

impl Cluster {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for below in ["m", "s/nodes", "s/pods", "s/identities"] {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        Self { dir }
    }

    pub fn put(&self, name: &str, text: &str) {
        replace(&self.dir.path().join("m").join(name), text);
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join("m").join(name)).unwrap();
    }

    /// A pod with one label, and its UID.
    pub fn pod(&self, name: &str, node: &str, app: &str) {
        self.put(&format!("pod-{name}.yaml"), &pod("shop", name, node, app, ""));
    }

    /// A policy by which pods of `server` ask those of `client` to authenticate.
    pub fn policy(&self, server: &str, client: &str) {
        self.put("policy.yaml", &policy(server, client));
    }

    /// The registrar of this cluster, with the server's socket.
    pub fn registrar(&self, spire: &Spire, more: &[&str]) -> Process {
        let socket = spire.socket().display().to_string();
        self.registrar_to(&[&["--server-socket", &socket], more].concat())
    }

    pub fn registrar_to(&self, more: &[&str]) -> Process {
        let at = |below: &str| self.dir.path().join(below).display().to_string();
        let (manifests, status) = (at("m"), at("s"));
        let all = ["--trust-domain", DOMAIN, "--manifests", &manifests, "--status-dir", &status];
        self.spawn(&[&all, more].concat())
    }

    /// A registrar whose log and status file are here.
    pub fn spawn(&self, arguments: &[&str]) -> Process {
        let at = |below: &str| self.dir.path().join(below);
        let log = fs::File::options().create(true).append(true).open(at("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_countersign-registrar"))
            .args(["--log", "debug,h2=info,tower=info,hyper_util=info"])
            .arg("--status-file")
            .arg(at("status.json"))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    pub fn status(&self) -> RegistrarStatus {
        let text = fs::read_to_string(self.dir.path().join("status.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until what the registrar says of itself is as expected.
    pub async fn until_status(&self, what: &str, good: impl Fn(&RegistrarStatus) -> bool) -> RegistrarStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if good(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the entries that begin so are these.
    pub async fn until_entries(&self, spire: &Spire, prefix: &str, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = spire.entries(prefix).await;
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found:#?}, not {expected:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn pod(namespace: &str, name: &str, node: &str, app: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: u-{name}\n  \
         labels: {{app: {app}}}\n  annotations: {{{annotations}}}\nspec: {{nodeName: {node}}}\n"
    )
}

pub fn policy(server: &str, client: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: {server}}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: \
         {{app: {client}}}\n    authentication: {{mode: required}}\n"
    )
}

/// Many pods in one file.
pub fn pods(count: usize, nodes: usize) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        let _ =
            writeln!(text, "---\n{}", pod("shop", &format!("p{n}"), &format!("node{}", n % nodes), "x", ""));
        text
    })
}

fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}
