//! Two nodes made of network namespaces, joined by a cable.

// Each test file uses its part of this.
#![allow(dead_code)]

pub mod managed;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use countersign_wg_manager::Uapi;

/// The device of every node.
pub const DEVICE: &str = "cs_wg0";
/// The port of every node.
pub const PORT: u16 = 51871;

/// The program. In a virtual machine it is not where it was built.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("COUNTERSIGN_WG").map(PathBuf::from);
    given.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_countersign-wg")))
}

/// True if the test can run. It needs root, TUN and some tools; where those are missing it is skipped, but
/// fails when `CI=true`.
pub fn possible() -> bool {
    possible_with(&["ip", "nsenter", "unshare", "wg", "ping", "iperf3", "ncat", "ss"])
}

/// The same with other tools.
pub fn possible_with(tools: &[&str]) -> bool {
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| !installed(tool)).collect();
    let root = nix::unistd::geteuid().is_root();
    let tun = Path::new("/dev/net/tun").exists();
    if root && tun && missing.is_empty() {
        return true;
    }
    let why = format!("needs root ({root}), /dev/net/tun ({tun}), and lacks {missing:?}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test {why}");
    eprintln!("skipped: this test {why}");
    false
}

/// A file of wireguard-go in the cache of peers. Where there is none, the test is skipped, but fails when `CI=true`.
pub fn of_wireguard_go(file: &str) -> Option<PathBuf> {
    let given = std::env::var_os("COUNTERSIGN_CACHE_DIR").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("countersign"));
    let home = || std::env::var_os("HOME").map(|dir| Path::new(&dir).join(".cache/countersign"));
    let peers = given.or_else(xdg).or_else(home).map(|cache| cache.join("peers"));
    let entries = peers.and_then(|peers| std::fs::read_dir(peers).ok()).into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    places.retain(|place| {
        place.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wireguard-go-"))
    });
    places.sort();
    let found = places.into_iter().map(|place| place.join(file)).rfind(|path| path.is_file());
    if found.is_none() {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "no {file} of wireguard-go: run `cargo xtask peers`");
        eprintln!("skipped: no {file} of wireguard-go; `cargo xtask peers` fetches it");
    }
    found
}

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Runs a command on the host, which must succeed.
pub fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node: a network namespace, with a private directory of sockets.
pub struct Node {
    pub namespace: String,
    pub directory: tempfile::TempDir,
    /// 1 or 2: the last part of its addresses.
    pub number: u8,
    child: Option<Child>,
}

/// Two nodes with a cable between them. 192.0.2.N/24 and fd00:9::N/64 on the cable (`eth0`), 10.77.N.1 and
/// fd77:N::1 of their own (on `lo`).
pub struct Pair {
    pub a: Node,
    pub b: Node,
}

impl Pair {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (a, b) = (Node::new(&tag, 1), Node::new(&tag, 2));
        let (one, two) = (a.namespace.as_str(), b.namespace.as_str());
        run(&[
            "ip", "link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two,
        ]);
        a.address_the_cable();
        b.address_the_cable();
        Self { a, b }
    }

    /// With a device on each, that do not know each other yet.
    pub fn with_devices() -> Self {
        let mut pair = Self::new();
        pair.a.start();
        pair.b.start();
        pair
    }

    /// Configures both with wg(8), over IPv4.
    pub fn configure(&self) {
        self.a.configure_with_wg(&self.b, false);
        self.b.configure_with_wg(&self.a, false);
        self.a.route_by_hand();
        self.b.route_by_hand();
    }

    /// With devices configured by wg(8), linked over the cable's IPv4 (or IPv6) addresses.
    pub fn configured(v6: bool) -> Self {
        let pair = Self::with_devices();
        pair.a.configure_with_wg(&pair.b, v6);
        pair.b.configure_with_wg(&pair.a, v6);
        for node in [&pair.a, &pair.b] {
            node.route_by_hand();
        }
        pair
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

impl Node {
    fn new(tag: &str, number: u8) -> Self {
        let namespace = format!("cs-wg{tag}-{number}");
        run(&["ip", "netns", "add", &namespace]);
        std::fs::create_dir_all("/var/run/wireguard").unwrap();
        Self { namespace, directory: tempfile::tempdir().unwrap(), number, child: None }
    }

    fn address_the_cable(&self) {
        let number = self.number;
        self.ip("link set lo up");
        self.ip("link set eth0 up");
        self.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
        self.ip(&format!("addr add fd00:9::{number}/64 dev eth0 nodad"));
        self.ip(&format!("addr add {}/32 dev lo", self.address(false)));
        self.ip(&format!("addr add {}/128 dev lo", self.address(true)));
    }

    /// Its address inside the tunnel.
    pub fn address(&self, v6: bool) -> String {
        let number = self.number;
        if v6 { format!("fd77:{number}::1") } else { format!("10.77.{number}.1") }
    }

    /// The prefixes of its pods.
    pub fn prefixes(&self) -> [String; 2] {
        let number = self.number;
        [format!("10.77.{number}.0/24"), format!("fd77:{number}::/64")]
    }

    /// Where its device listens.
    pub fn endpoint(&self, v6: bool) -> String {
        let number = self.number;
        if v6 { format!("[fd00:9::{number}]:{PORT}") } else { format!("192.0.2.{number}:{PORT}") }
    }

    pub fn ip(&self, arguments: &str) {
        let mut command = vec!["ip", "-n", &self.namespace];
        command.extend(arguments.split(' '));
        run(&command);
    }

    /// A command in the node, ready to be run.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let script = format!(
            "mount --bind {} /var/run/wireguard && exec \"$0\" \"$@\"",
            self.directory.path().display()
        );
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.args(["unshare", "-m", "sh", "-c", &script, program]).args(arguments);
        command
    }

    /// A command in the node, given as one line.
    pub fn exec(&self, line: &str) -> Output {
        let words: Vec<&str> = line.split(' ').collect();
        self.command(words[0], &words[1..]).output().unwrap()
    }

    /// The same; it must succeed. Returns what it printed.
    pub fn must(&self, line: &str) -> String {
        let output = self.exec(line);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {out}{err}");
        out.into_owned()
    }

    /// Start the device in the foreground, and wait until it is ready.
    pub fn start(&mut self) {
        self.start_other(&binary(), &["--foreground", DEVICE]);
    }

    /// The same with any program that stays in the foreground.
    pub fn start_other(&mut self, program: &Path, arguments: &[&str]) {
        let program = program.to_str().unwrap();
        let mut child = self.command(program, arguments).spawn().unwrap();
        let socket = self.directory.path().join(format!("{DEVICE}.sock"));
        let ready = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        if !eventually(Duration::from_secs(10), ready) {
            let _ = child.kill();
            panic!("the device was not ready");
        }
        self.child = Some(child);
    }

    /// Starts another process that takes the device over, and waits for the first one's end; returns whether it said
    /// that it was fine.
    pub fn take_over(&mut self) -> bool {
        let successor = self
            .command(binary().to_str().unwrap(), &["--foreground", "--take-over", DEVICE])
            .spawn()
            .unwrap();
        let mut predecessor = self.child.replace(successor).unwrap();
        let mut ended = None;
        eventually(Duration::from_secs(30), || {
            ended = predecessor.try_wait().unwrap();
            ended.is_some() || self.child.as_mut().is_some_and(|new| new.try_wait().unwrap().is_some())
        });
        if ended.is_none() {
            let _ = predecessor.kill();
            let _ = predecessor.wait();
        }
        ended.is_some_and(|status| status.success())
    }

    /// The process of the device.
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.as_ref().unwrap().id() as i32)
    }

    /// End the device without giving it a chance to clean up.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// End the device as the system would; returns whether it said that it was fine.
    pub fn terminate(&mut self) -> bool {
        let _ = nix::sys::signal::kill(self.pid(), nix::sys::signal::SIGTERM);
        self.child.take().unwrap().wait().unwrap().success()
    }

    /// Whether the process ends by itself, as it does when its device is deleted.
    pub fn ends(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        let ended = eventually(Duration::from_secs(30), || child.try_wait().unwrap().is_some());
        if !ended {
            self.child = Some(child);
        }
        ended
    }

    pub fn has_device(&self) -> bool {
        Command::new("ip")
            .args(["-n", &self.namespace, "link", "show", DEVICE])
            .output()
            .unwrap()
            .status
            .success()
    }

    /// A client of the device's socket.
    pub fn uapi(&self) -> Uapi {
        Uapi::new(self.directory.path(), DEVICE)
    }

    /// The private key that wg(8) configures it with.
    pub fn key_file(&self) -> PathBuf {
        let path = self.directory.path().join("key");
        if !path.exists() {
            std::fs::write(&path, Command::new("wg").arg("genkey").output().unwrap().stdout).unwrap();
        }
        path
    }

    /// Its public key, as wg(8) computes it.
    pub fn public_key(&self) -> String {
        let key = File::open(self.key_file()).unwrap();
        let output = Command::new("wg").arg("pubkey").stdin(key).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn configure_with_wg(&self, other: &Node, v6: bool) {
        let key = self.key_file();
        self.must(&format!(
            "wg set {DEVICE} private-key {} listen-port {PORT} peer {} endpoint {} allowed-ips {}",
            key.display(),
            other.public_key(),
            other.endpoint(v6),
            other.prefixes().join(","),
        ));
    }

    /// Bring the device up, and lead the other node's prefixes into it.
    pub fn route_by_hand(&self) {
        let other = 3 - self.number;
        self.ip(&format!("link set {DEVICE} up"));
        self.ip(&format!("route add 10.77.{other}.0/24 dev {DEVICE} src {}", self.address(false)));
        self.ip(&format!("route add fd77:{other}::/64 dev {DEVICE} src {}", self.address(true)));
    }

    /// `count` pings to the other node's inner address; returns how many were answered.
    pub fn ping(&self, other: &Node, v6: bool, arguments: &str) -> u32 {
        let line = format!("ping -q -W 1 -I {} {arguments} {}", self.address(v6), other.address(v6));
        let output = String::from_utf8(self.exec(&line).stdout).unwrap();
        let received = output.split(", ").find_map(|part| part.strip_suffix(" received"));
        received.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{line}: {output}"))
    }

    /// Run a future in the node's network namespace, on a thread of its own.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(future)
            });
            thread.join().unwrap()
        })
    }
}

/// Whether `condition` holds before `limit` is over.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
