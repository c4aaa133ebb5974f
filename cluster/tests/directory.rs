//! The directory as a source: what writers do to it, and what a listener hears.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_cluster::{Change, DirConfig, DirHandle, DirSource, Problem};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

/// What a change must take at most to be heard.
const SOON: Duration = Duration::from_secs(1);

struct Listener {
    dir: TempDir,
    changes: Receiver<Change>,
    _handle: DirHandle,
    pods: BTreeMap<String, (String, Vec<String>)>,
    policies: BTreeMap<String, usize>,
    problems: BTreeMap<PathBuf, Vec<Problem>>,
    others: BTreeMap<String, usize>,
    synced: bool,
    heard: usize,
}

impl Listener {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["m", "s/nodes", "s/pods", "s/identities"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        prepare(dir.path());
        Self::over(dir)
    }

    fn over(dir: TempDir) -> Self {
        let mut config = DirConfig::new(dir.path().join("m"), dir.path().join("s"));
        config.accepted = Some(dir.path().join("accepted"));
        let (changes, handle) = DirSource::spawn(config).unwrap();
        let mut listener = Self {
            dir,
            changes,
            _handle: handle,
            pods: BTreeMap::new(),
            policies: BTreeMap::new(),
            problems: BTreeMap::new(),
            others: BTreeMap::new(),
            synced: false,
            heard: 0,
        };
        listener.until("synced", |l| l.synced);
        listener
    }

    /// Another one over the same directories, who has heard nothing of before.
    fn again(self) -> Self {
        Self::over(self.dir)
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    fn status(&self, name: &str) -> PathBuf {
        self.dir.path().join("s").join(name)
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: {:?} {:?}", self.pods, self.problems);
            match self.changes.try_recv() {
                Ok(change) => self.take(change),
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(2)),
                Err(TryRecvError::Disconnected) => panic!("the source has ended"),
            }
        }
    }

    /// Listens for a while.
    fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            match self.changes.try_recv() {
                Ok(change) => self.take(change),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn take(&mut self, change: Change) {
        self.heard += 1;
        match change {
            Change::PodUpsert(pod) => {
                let ips = pod.ips.iter().map(ToString::to_string).collect();
                let version = pod.labels.get("v").cloned().unwrap_or_default();
                self.pods.insert(format!("{}/{}", pod.namespace, pod.name), (version, ips));
            }
            Change::PodDelete { namespace, name } => {
                assert!(self.pods.remove(&format!("{namespace}/{name}")).is_some(), "deleted twice");
            }
            Change::PolicyUpsert(policy) => {
                self.policies.insert(policy.id.name.clone(), policy.rules.len());
            }
            Change::PolicyDelete(id) => assert!(self.policies.remove(&id.name).is_some()),
            Change::Problem(problem) => self.problems.entry(problem.file.clone()).or_default().push(problem),
            Change::ProblemCleared { file } => assert!(self.problems.remove(&file).is_some()),
            Change::Synced => self.synced = true,
            other => {
                let text = format!("{other:?}");
                let name = text.split('(').next().unwrap_or_default().to_owned();
                *self.others.entry(name).or_default() += 1;
            }
        }
    }

    fn version(&self, pod: &str) -> Option<&str> {
        self.pods.get(pod).map(|(version, _)| version.as_str())
    }
}

fn pod(name: &str, version: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{v: \"{version}\"}}\nspec: {{nodeName: n1}}\n---\n"
    )
}

fn policy(name: &str, rules: usize) -> String {
    let rule = "- endpointSelector: {}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: {app: x}\n";
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspecs:\n{}",
        rule.repeat(rules)
    )
}

fn status(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: u-{name}}}\nstatus: {{phase: Running, podIPs: [{{ip: {ip}}}]}}\n"
    )
}

#[test]
fn everything_at_the_start_then_what_changes() {
    let mut l = Listener::new(|dir| {
        fs::write(dir.join("m/a.yaml"), pod("a", "1") + &pod("b", "1")).unwrap();
        fs::write(dir.join("m/ns.json"), r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}"#)
            .unwrap();
        fs::write(dir.join("m/notes.txt"), "not: [for us").unwrap();
        fs::write(dir.join("m/.hidden.yaml"), "not: [for us").unwrap();
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.0.0.0/24]}\n";
        fs::write(dir.join("s/nodes/n1.yaml"), node).unwrap();
    });
    assert_eq!(l.pods.len(), 2);
    assert_eq!(l.others, BTreeMap::from([("NamespaceUpsert".into(), 1), ("NodeUpsert".into(), 1)]));
    assert!(l.problems.is_empty(), "{:?}", l.problems);
    let heard = l.heard;
    fs::write(l.manifest("a.yaml"), pod("a", "1") + &pod("b", "2")).unwrap();
    l.until("b changes", |l| l.version("default/b") == Some("2"));
    assert_eq!(l.heard, heard + 1, "a is as it was, nothing to say");
    fs::write(l.manifest("p.yaml"), policy("p", 2)).unwrap();
    l.until("a policy comes", |l| l.policies.get("p") == Some(&2));
    fs::remove_file(l.manifest("p.yaml")).unwrap();
    fs::remove_file(l.manifest("a.yaml")).unwrap();
    l.until("all gone", |l| l.pods.is_empty() && l.policies.is_empty());
}

#[test]
fn a_pod_is_its_manifest_and_its_status() {
    let mut l =
        Listener::new(|dir| fs::write(dir.join("s/pods/default_a.yaml"), status("a", "10.0.0.7")).unwrap());
    assert!(l.pods.is_empty(), "a status alone is no pod");
    let forged = pod("a", "1").replace("---\n", "status: {podIP: 10.9.9.9}\n");
    fs::write(l.manifest("a.yaml"), forged).unwrap();
    l.until("a comes", |l| l.pods.contains_key("default/a"));
    assert_eq!(l.pods["default/a"].1, ["10.0.0.7"], "a manifest does not say its own address");
    fs::remove_file(l.status("pods/default_a.yaml")).unwrap();
    l.until("the address goes", |l| l.pods["default/a"].1.is_empty());
    fs::write(l.status("pods/default_a.yaml"), status("a", "10.0.0.8")).unwrap();
    l.until("another comes", |l| l.pods["default/a"].1 == ["10.0.0.8"]);
    fs::remove_file(l.manifest("a.yaml")).unwrap();
    l.until("a goes although its status stays", |l| l.pods.is_empty());
}

#[test]
fn nonsense_changes_nothing_and_is_named() {
    let mut l = Listener::new(|dir| {
        fs::write(dir.join("m/a.yaml"), pod("a", "1")).unwrap();
        fs::write(dir.join("m/p.yaml"), policy("p", 2)).unwrap();
    });
    let (a, p) = (l.manifest("a.yaml"), l.manifest("p.yaml"));
    fs::write(&a, pod("a", "2") + "apiVersion: v1\nkind: Pod\nmetadata:\n  name: B_\n").unwrap();
    l.until("a problem", |l| l.problems.contains_key(&a));
    let problem = l.problems[&a][0].clone();
    assert_eq!((problem.field.as_str(), problem.line), ("metadata.name", Some(11)), "{problem}");
    assert_eq!(l.version("default/a"), Some("1"), "the file counts whole or not at all");
    fs::write(&p, policy("p", 1) + "  inventedField: 1\n").unwrap();
    l.until("a policy's problem", |l| l.problems.contains_key(&p));
    assert!(l.problems[&p][0].field.contains("inventedField"), "{}", l.problems[&p][0]);
    assert_eq!(l.policies["p"], 2, "the policy that was in force stays");
    for nonsense in
        ["", "\n# only words\n", "a: [", "\u{feff}\t\t:", "kind: Pdo\napiVersion: v1\n", "- - -\n"]
    {
        fs::write(&a, nonsense).unwrap();
        l.listen(Duration::from_millis(120));
        assert!(l.problems.contains_key(&a), "{nonsense:?}");
        assert_eq!(l.version("default/a"), Some("1"), "{nonsense:?}");
    }
    fs::write(&a, pod("a", "3")).unwrap();
    l.until("sense again", |l| l.version("default/a") == Some("3") && !l.problems.contains_key(&a));
    fs::remove_file(&p).unwrap();
    l.until("gone with its file", |l| l.problems.is_empty() && l.policies.is_empty());
}

#[test]
fn what_was_in_force_outlives_its_listener() {
    let mut l = Listener::new(|dir| {
        fs::write(dir.join("m/p.yaml"), policy("p", 2)).unwrap();
        fs::write(dir.join("m/q.yaml"), policy("q", 1)).unwrap();
    });
    let p = l.manifest("p.yaml");
    fs::write(&p, "apiVersion: [").unwrap();
    l.until("a problem", |l| l.problems.contains_key(&p));
    let mut l = l.again();
    assert_eq!(
        (l.policies.get("p"), l.problems.contains_key(&p)),
        (Some(&2), true),
        "a missing policy would allow"
    );
    fs::remove_file(&p).unwrap();
    l.until("gone", |l| !l.policies.contains_key("p"));
    fs::write(&p, "apiVersion: [").unwrap();
    fs::remove_file(l.manifest("q.yaml")).unwrap();
    // What was deleted, before or between, does not come back.
    l.until("a problem again", |l| l.problems.contains_key(&p));
    assert!(l.again().policies.is_empty());
}

#[test]
fn the_first_file_has_the_object() {
    let mut l = Listener::new(|dir| fs::write(dir.join("m/b.yaml"), pod("x", "b")).unwrap());
    fs::write(l.manifest("a.yaml"), pod("x", "a")).unwrap();
    let b = l.manifest("b.yaml");
    l.until("a outranks b", |l| l.version("default/x") == Some("a") && l.problems.contains_key(&b));
    assert!(l.problems[&b][0].message.contains("already in"), "{:?}", l.problems);
    fs::remove_file(l.manifest("a.yaml")).unwrap();
    l.until("b again", |l| l.version("default/x") == Some("b") && l.problems.is_empty());
}

#[test]
fn half_a_policy_is_no_policy() {
    let mut l = Listener::new(|dir| fs::write(dir.join("m/p.yaml"), policy("p", 5)).unwrap());
    let full = policy("p", 4);
    // Cut behind a rule it is valid, and would allow less or more than was meant.
    let cut = policy("p", 1).len();
    let mut file = fs::File::create(l.manifest("p.yaml")).unwrap();
    file.write_all(&full.as_bytes()[..cut]).unwrap();
    l.listen(Duration::from_millis(200));
    assert_eq!(l.policies["p"], 5, "the file is still open");
    file.write_all(&full.as_bytes()[cut..]).unwrap();
    drop(file);
    l.until("whole", |l| l.policies["p"] == 4);
}

#[test]
fn links_pipes_and_giants_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.yaml"), pod("secret", "1")).unwrap();
    let mut l = Listener::new(|_| {});
    std::os::unix::fs::symlink(outside.path().join("secret.yaml"), l.manifest("link.yaml")).unwrap();
    fs::create_dir(l.manifest("..data")).unwrap();
    fs::write(l.manifest("..data").join("in.yaml"), pod("inside", "1")).unwrap();
    std::os::unix::fs::symlink("..data/in.yaml", l.manifest("in.yaml")).unwrap();
    nix::unistd::mkfifo(&l.manifest("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(l.manifest("giant.yaml")).unwrap().set_len(5 << 20).unwrap();
    fs::create_dir(l.manifest("dir.yaml")).unwrap();
    l.until("problems", |l| l.problems.len() == 3 && l.pods.contains_key("default/inside"));
    assert!(l.problems[&l.manifest("link.yaml")][0].message.contains("link out of"));
    assert!(l.problems[&l.manifest("pipe.yaml")][0].message.contains("regular"));
    assert!(l.problems[&l.manifest("giant.yaml")][0].message.contains("larger"));
    // Where components write, not even a link within is followed, and a file speaks of itself alone.
    fs::write(l.manifest("a.yaml"), pod("a", "1")).unwrap();
    fs::write(l.status("pods/default_b.yaml"), status("a", "10.0.0.1")).unwrap();
    std::os::unix::fs::symlink("default_b.yaml", l.status("pods/default_a.yaml")).unwrap();
    l.until("status problems", |l| l.problems.len() == 5);
    assert!(l.pods["default/a"].1.is_empty());
}

#[test]
fn a_directory_that_goes_takes_nothing_with_it() {
    let mut l = Listener::new(|dir| fs::write(dir.join("m/a.yaml"), pod("a", "1")).unwrap());
    let (m, aside) = (l.dir.path().join("m"), l.dir.path().join("aside"));
    fs::rename(&m, &aside).unwrap();
    l.listen(Duration::from_millis(1300));
    assert!(l.pods.contains_key("default/a") && l.problems.contains_key(&m), "{:?}", l.problems);
    fs::rename(&aside, &m).unwrap();
    l.listen(Duration::from_millis(1300));
    assert!(l.problems.is_empty());
    fs::write(m.join("b.yaml"), pod("b", "1")).unwrap();
    l.until("watched again", |l| l.pods.contains_key("default/b"));
}

/// Writers of every bad habit at once; whatever is heard meanwhile, a file that never changed is never touched,
/// and a second after the last of them the listener knows what the files say.
#[test]
fn hammered_and_right_in_the_end() {
    let mut l = Listener::new(|dir| fs::write(dir.join("m/still.yaml"), pod("still", "1")).unwrap());
    let dir = l.dir.path().join("m");
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let dir = dir.clone();
            scope.spawn(move || hammer(&dir, writer, end));
        }
        while Instant::now() < end {
            l.listen(Duration::from_millis(20));
            assert_eq!(l.version("default/still"), Some("1"));
        }
    });
    for writer in 0..4 {
        fs::write(dir.join(format!("w{writer}.yaml")), pod(&format!("w{writer}"), "end")).unwrap();
        let _ = fs::remove_file(dir.join(format!("w{writer}-moved.yaml")));
    }
    l.until("converged", |l| {
        l.problems.is_empty()
            && l.pods.len() == 5
            && (0..4).all(|w| l.version(&format!("default/w{w}")) == Some("end"))
    });
}

fn hammer(dir: &Path, writer: usize, end: Instant) {
    let (path, moved) = (dir.join(format!("w{writer}.yaml")), dir.join(format!("w{writer}-moved.yaml")));
    let mut round = 0_usize;
    while Instant::now() < end {
        let text = pod(&format!("w{writer}"), &round.to_string());
        match (round + writer) % 5 {
            0 => fs::write(&path, &text).unwrap(),
            1 => {
                let mut file = fs::File::create(&path).unwrap();
                file.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
                std::thread::sleep(Duration::from_millis(7));
                file.write_all(&text.as_bytes()[text.len() / 2..]).unwrap();
            }
            2 => drop(fs::rename(&path, &moved)),
            3 => drop(fs::remove_file(&path)),
            _ => fs::write(&path, &text.as_bytes()[..round % text.len()]).unwrap(),
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(u64::try_from(round % 13).unwrap()));
    }
}
