//! What the lab's tests share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use countersign_lab::{AgentMode, Lab, LabOptions, ns, scan};

/// Whether the tests can run. Without root they cannot; that is a failure where `CI=true`.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "these tests need root");
    if !root {
        eprintln!("needs root: not run");
    }
    root
}

/// Where cargo put the program under test.
pub fn bin_dir() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_countersign-lab")).parent().unwrap().to_owned()
}

/// Two nodes without agents.
pub fn lab_options(name: &str) -> LabOptions {
    let name = name.parse().unwrap();
    LabOptions { agent: AgentMode::None, bin_dir: Some(bin_dir()), ..LabOptions::new(name) }
}

/// A manifest of a pod; `command` as a YAML list, or empty.
pub fn pod(name: &str, node: &str, command: &str) -> String {
    let command = if command.is_empty() { String::new() } else { format!(", command: {command}") };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: main, image: none{command}}}]}}\n---\n"
    )
}

/// Asks again and again until the answer is right; returns the last one.
pub fn until<T>(at_most: Duration, ask: impl Fn() -> T, right: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + at_most;
    loop {
        let answer = ask();
        if right(&answer) || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything by which a lab could be noticed after it is down.
pub struct Traces {
    lab: String,
    links: BTreeSet<String>,
    inodes: Mutex<BTreeSet<u64>>,
}

impl Traces {
    pub fn before(lab: &str) -> Self {
        Self { lab: lab.to_owned(), links: links(), inodes: Mutex::default() }
    }

    /// Remembers the lab's namespaces; returns how many processes are in them.
    pub fn note(&self, lab: &Lab) -> usize {
        let names = ns::list_net(&lab.config().name.netns_prefix()).unwrap();
        let inode = |name: &String| fs::metadata(format!("/run/netns/{name}")).unwrap().ino();
        let inodes: BTreeSet<u64> = names.iter().map(inode).collect();
        let inside = scan::inside(&inodes).len();
        *self.inodes.lock().unwrap() = inodes;
        inside
    }

    pub fn assert_none(&self) {
        let lab = &self.lab;
        let inodes = self.inodes.lock().unwrap();
        assert!(!inodes.is_empty());
        assert_eq!(ns::list_net(&format!("cs-{lab}-")).unwrap(), [""; 0]);
        let inside: Vec<i32> = scan::inside(&inodes).into_iter().filter(|pid| !is_zombie(*pid)).collect();
        assert_eq!(inside, [0; 0], "processes inside");
        assert!(!Path::new("/run/countersign/lab").join(lab).exists());
        assert_eq!(links(), self.links, "links of the host");
        let supervisors: Vec<String> =
            commands().into_iter().filter(|c| c.contains(&format!("--name\0{lab}\0"))).collect();
        assert!(supervisors.is_empty(), "{supervisors:?}");
        // Not even a hidden copy in some other mount namespace.
        for (pid, mounts) in mount_tables() {
            let of_lab =
                |line: &&str| line.contains(&format!("/lab/{lab} ")) || line.contains(&format!("/cs-{lab}-"));
            assert_eq!(mounts.lines().find(of_lab), None, "process {pid} still has it");
        }
    }
}

fn links() -> BTreeSet<String> {
    let names = fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    // Other tests may be making interfaces of their own at the same time.
    names.filter(|name| ["lxc", "cs_", "wire", "node"].iter().any(|ours| name.starts_with(ours))).collect()
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn commands() -> Vec<String> {
    pids().iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()).collect()
}

fn mount_tables() -> Vec<(i32, String)> {
    pids()
        .into_iter()
        .filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?)))
        .collect()
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}
