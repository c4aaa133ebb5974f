//! The lab itself, without agents: namespaces, pods, manifests, and what is left after the worst.
//!
//! Needs root. Without it the tests say so and pass, except where `CI=true`: there they fail.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use common::{Traces, lab_options, pod, root, until};
use countersign_lab::process::{MARK, Record};
use countersign_lab::ps::LabView;
use countersign_lab::run::{RunOptions, run_pod};
use countersign_lab::{Lab, Phase, PodKey, Target, scan};
use nix::sys::signal::Signal;

/// What a manifest must take at most.
const SOON: Duration = Duration::from_secs(1);

fn text(lab: &Lab, target: &str, words: &[&str]) -> String {
    let output = lab.exec(target, words).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn succeeds(lab: &Lab, target: &str, words: &[&str]) -> bool {
    lab.exec(target, words).unwrap().status.success()
}

#[test]
fn pods_reach_each_other_and_the_world() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labreach")).unwrap();
    let serve = "[countersign-lab, serve, --http, '80', --udp-echo, '9']";
    let manifests = pod("web", "node2", serve) + &pod("near", "node1", serve) + &pod("client", "node1", "");
    lab.apply("pods.yaml", &manifests).unwrap();
    assert_eq!(lab.wait_pods(Duration::from_secs(10)).unwrap(), 3);
    for name in ["web", "near"] {
        let key = PodKey::new("default", name);
        let net = lab.pod(&key).unwrap().net.unwrap();
        for url in [format!("http://{}/", net.v4), format!("http://[{}]/", net.v6)] {
            let said = until(
                SOON,
                || text(&lab, "client", &["curl", "-sS", "-m", "2", &url]),
                |t| t.contains("hello"),
            );
            assert_eq!(said, format!("hello from {name}\n"), "{url}");
        }
        // The largest packet that needs no fragments, and the addresses the other side sees are the pod's own.
        assert!(succeeds(&lab, "client", &["ping", "-c1", "-W1", "-Mdo", "-s1392", &net.v4.to_string()]));
        assert!(!succeeds(&lab, "client", &["ping", "-c1", "-W1", "-Mdo", "-s1393", &net.v4.to_string()]));
    }
    for world in ["198.51.100.1", "203.0.113.1", "2001:db8::1"] {
        assert!(succeeds(&lab, "client", &["ping", "-c1", "-W1", world]), "{world}");
    }
    let neighbours = text(&lab, "client", &["ip", "neigh"]);
    assert_eq!(neighbours.matches("PERMANENT").count(), 2, "{neighbours}");
    assert!(!neighbours.contains("REACHABLE"), "nobody had to ask for anything: {neighbours}");
    lab.down().unwrap();
}

#[test]
fn commands_run_where_they_are_sent() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labexec")).unwrap();
    lab.apply("a.yaml", &pod("a", "node1", "")).unwrap();
    lab.wait_pods(Duration::from_secs(10)).unwrap();
    assert_eq!(lab.exec("a", &["sh", "-c", "exit 7"]).unwrap().status.code(), Some(7));
    assert!(lab.exec("a", &["/no/such/program"]).is_err());
    assert!(lab.exec("nobody", &["true"]).is_err());
    for (target, netns) in
        [("a", "cs-labexec-default_a"), ("node1", "cs-labexec-node1"), ("wire", "cs-labexec-wire")]
    {
        let inside = text(&lab, target, &["readlink", "/proc/self/ns/net"]);
        let named = fs::metadata(format!("/run/netns/{netns}")).unwrap();
        assert_eq!(
            inside.trim(),
            format!("net:[{}]", std::os::unix::fs::MetadataExt::ino(&named)),
            "{target}"
        );
    }
    let mounts = text(&lab, "node1", &["cat", "/proc/self/mountinfo"]);
    for needed in [" /sys/fs/bpf ", " /run/countersign ", " /run/wireguard "] {
        assert!(mounts.contains(needed), "{needed}");
    }
    assert!(!mounts.contains("/run/netns"), "a node keeps no other namespace alive");
    let run = lab.paths().node_run("node1");
    assert!(succeeds(
        &lab,
        "node1",
        &["sh", "-c", "echo x > /run/countersign/seen && ls /sys/class/net/eth0"]
    ));
    assert_eq!(fs::read_to_string(run.join("seen")).unwrap(), "x\n", "the host sees a node's sockets");
    let port = lab.inside("a", || Ok(std::net::UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    port.connect("169.254.1.1:1").unwrap();
    assert_eq!(
        port.local_addr().unwrap().ip().to_string(),
        "10.".to_owned() + &port.local_addr().unwrap().ip().to_string()[3..]
    );
}

#[test]
fn manifests_take_effect_at_once() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labfast")).unwrap();
    let state = |name: &str| lab.pod(&PodKey::new("default", name)).ok();
    let runs = |name: &str| state(name).is_some_and(|s| s.phase == Phase::Running);
    let timed = |what: &str, done: &dyn Fn() -> bool| {
        let begun = Instant::now();
        assert!(until(SOON, done, |done| *done), "{what} took longer than {SOON:?}");
        println!("{what}: {} ms", begun.elapsed().as_millis());
    };
    lab.apply("a.yaml", &pod("a", "node1", "")).unwrap();
    timed("a pod comes", &|| runs("a"));
    let first = state("a").unwrap();
    lab.apply("a.yaml", &pod("a", "node1", "").replace("app: a", "app: other")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(state("a").unwrap(), first, "labels are the agents' business");
    lab.apply("a.yaml", &pod("a", "node1", "[sleep, '1000']")).unwrap();
    timed("another command, another pod", &|| state("a").is_some_and(|s| s.uid != first.uid && runs("a")));
    assert_ne!(state("a").unwrap().ips(), first.ips(), "an address is not reused at once");
    lab.apply("a.yaml", &pod("a", "node2", "[sleep, '1000']")).unwrap();
    timed("a pod moves", &|| state("a").is_some_and(|s| s.node == "node2" && runs("a")));
    let second = state("a").unwrap();
    lab.apply("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [}\n").unwrap();
    timed("nonsense is named", &|| lab.view().problems.iter().any(|p| p.contains("a.yaml:3")));
    assert_eq!(state("a").unwrap(), second);
    lab.apply("b.yaml", &pod("b", "nowhere", "")).unwrap();
    timed("a node that is not there", &|| lab.view().problems.iter().any(|p| p.contains("no node nowhere")));
    lab.delete("b.yaml").unwrap();
    lab.delete("a.yaml").unwrap();
    timed("gone", &|| lab.pods().is_empty() && lab.view().problems.is_empty());
    assert!(!lab.paths().pod_status(&PodKey::new("default", "a")).exists());
    assert!(countersign_lab::ns::list_net("cs-labfast-default").unwrap().is_empty());
}

#[test]
fn commands_that_end_run_again_as_kubernetes_says() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labrestart")).unwrap();
    let never = |name: &str, command: &str| {
        pod(name, "node1", command).replace("spec: {", "spec: {restartPolicy: Never, ")
    };
    let manifests = pod("again", "node1", "[sh, -c, 'echo here; sleep 0.05']")
        + &never("fine", "['true']")
        + &never("bad", "['false']")
        + &never("missing", "[/no/such/program]");
    lab.apply("p.yaml", &manifests).unwrap();
    let state = |name: &str| lab.pod(&PodKey::new("default", name)).unwrap();
    assert!(until(
        Duration::from_secs(5),
        || lab.pods().len() == 4 && state("again").restarts >= 3,
        |done| *done
    ));
    assert_eq!((state("fine").phase, state("bad").phase), (Phase::Succeeded, Phase::Failed));
    assert_eq!(state("missing").phase, Phase::Failed);
    assert!(fs::read_to_string(lab.paths().log("default_again")).unwrap().matches("here").count() >= 3);
    let process = lab.paths().processes().join("pod-default_again.json");
    let running = || Record::load_alive(&process);
    let killed = until(SOON, running, Option::is_some).unwrap();
    assert!(killed.signal(Signal::SIGKILL));
    assert!(
        until(Duration::from_secs(5), running, |now| now.is_some_and(|now| now.pid != killed.pid)).is_some()
    );
}

#[test]
fn what_was_killed_is_taken_over_and_repaired() {
    if !root() {
        return;
    }
    let options = lab_options("labrepair");
    let lab = Lab::up(&options).unwrap();
    lab.apply("p.yaml", &(pod("a", "node1", "") + &pod("b", "node2", "") + &pod("c", "node2", ""))).unwrap();
    lab.wait_pods(Duration::from_secs(10)).unwrap();
    let before = lab.view();
    let supervisor = Record::load_alive(&lab.paths().supervisor_lock()).unwrap();
    assert!(supervisor.signal(Signal::SIGKILL));
    assert!(until(SOON, || lab.view().supervisor.is_none(), |gone| *gone));
    // While nobody looks: one pod's command dies, one pod's manifest goes, a node's cable is pulled.
    let b = before.pods.iter().find(|p| p.name == "b").unwrap().process.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(b.pid), Signal::SIGKILL).unwrap();
    lab.apply("p.yaml", &(pod("a", "node1", "") + &pod("b", "node2", ""))).unwrap();
    assert!(succeeds(&lab, "node2", &["ip", "link", "del", "eth0"]));
    let mut again = Lab::up(&options).unwrap();
    again.keep();
    assert!(until(SOON, || lab.pods().len() == 2, |done| *done), "c is gone");
    let b_runs = || {
        lab.view().pods.iter().find(|p| p.name == "b").and_then(|p| p.process).is_some_and(|p| p.pid != b.pid)
    };
    assert!(until(SOON, b_runs, |done| *done), "b runs again");
    let after = lab.view();
    assert_eq!(after.pods[0], before.pods[0], "a never noticed");
    assert_eq!(after.pods[1].ips, before.pods[1].ips);
    let peer = after.pods[1].ips[0].clone();
    assert!(succeeds(&lab, "a", &["ping", "-c1", "-W2", &peer]), "node2 has its cable again");
    let mut options = options;
    options.nodes = 3;
    assert!(countersign_lab::up::up(&options).is_err(), "another number of nodes is another lab");
}

#[test]
fn nothing_is_left_whoever_was_killed() {
    if !root() {
        return;
    }
    for victim in ["nobody", "supervisor", "a pod", "everything", "a pod's child", "the configuration"] {
        let traces = Traces::before("labgone");
        let lab = Lab::up(&lab_options("labgone")).unwrap();
        // A pod that ignores the polite signal, and whose child has left its process group and its output.
        let stubborn = "[sh, -c, \"trap '' TERM; setsid sleep 1000 > /dev/null & sleep 1000 & wait\"]";
        lab.apply("p.yaml", &(pod("a", "node1", stubborn) + &pod("b", "node2", ""))).unwrap();
        lab.wait_pods(Duration::from_secs(10)).unwrap();
        let mut shell = lab.spawn("node1", std::process::Command::new("sleep").arg("1000")).unwrap();
        let inside = until(SOON, || traces.note(&lab), |inside| *inside >= 4);
        assert!(inside >= 4, "{inside}");
        harm(&lab, victim);
        let begun = Instant::now();
        lab.down().unwrap();
        println!("killed {victim}: down in {} ms", begun.elapsed().as_millis());
        shell.wait().unwrap();
        traces.assert_none();
    }
}

fn harm(lab: &Lab, victim: &str) {
    let kill = |pid: i32| {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    };
    let view = lab.view();
    let pods: Vec<i32> = view.pods.iter().filter_map(|pod| Some(pod.process?.pid)).collect();
    match victim {
        "supervisor" => kill(view.supervisor.unwrap()),
        "a pod" => kill(pods[0]),
        "a pod's child" => {
            scan::marked("labgone:pod-default_a").into_iter().filter(|p| *p != pods[0]).for_each(kill)
        }
        "everything" => {
            kill(view.supervisor.unwrap());
            pods.into_iter().for_each(kill);
        }
        "the configuration" => {
            kill(view.supervisor.unwrap());
            fs::remove_file(lab.paths().config()).unwrap();
            fs::remove_dir_all(lab.paths().processes()).unwrap();
        }
        _ => {}
    }
}

#[test]
fn a_supervisor_that_dies_between_start_and_record_leaves_no_stray() {
    if !root() {
        return;
    }
    let options = lab_options("labstray");
    let lab = Lab::up(&options).unwrap();
    lab.apply("p.yaml", &pod("a", "node1", "")).unwrap();
    lab.wait_pods(Duration::from_secs(10)).unwrap();
    let process = lab.paths().processes().join("pod-default_a.json");
    let stray = Record::load_alive(&process).unwrap();
    let supervisor = Record::load_alive(&lab.paths().supervisor_lock()).unwrap();
    assert!(supervisor.signal(Signal::SIGKILL));
    assert!(until(SOON, || !supervisor.is_alive(), |gone| *gone));
    fs::remove_file(&process).unwrap();
    let mut again = Lab::up(&options).unwrap();
    again.keep();
    let replaced = || !stray.is_alive() && Record::load_alive(&process).is_some();
    assert!(until(SOON, replaced, |done| *done));
    assert_eq!(scan::marked("labstray:pod-default_a").len(), 1, "{MARK}");
}

#[test]
fn labs_side_by_side_do_not_meet() {
    if !root() {
        return;
    }
    let (one, two) = (Lab::up(&lab_options("labone")).unwrap(), Lab::up(&lab_options("labtwo")).unwrap());
    for lab in [&one, &two] {
        lab.apply("p.yaml", &pod("a", "node1", "")).unwrap();
        lab.wait_pods(Duration::from_secs(10)).unwrap();
    }
    let addresses = |lab: &Lab| {
        let view = lab.view();
        let of_pods = view.pods.iter().flat_map(|p| p.ips.clone());
        view.nodes.iter().flat_map(|n| n.ips.clone()).chain(of_pods).collect::<BTreeSet<String>>()
    };
    assert!(addresses(&one).is_disjoint(&addresses(&two)));
    let theirs = two.view().pods[0].ips[0].clone();
    assert!(!succeeds(&one, "a", &["ping", "-c1", "-W1", &theirs]));
    let traces = Traces::before("labone");
    traces.note(&one);
    one.down().unwrap();
    traces.assert_none();
    assert!(succeeds(&two, "a", &["ping", "-c1", "-W1", "198.51.100.1"]), "the other one stays");
    two.down().unwrap();
}

#[test]
fn sixty_pods_take_seconds() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labmany")).unwrap();
    let all: String = (0..60).map(|n| pod(&format!("p{n}"), &format!("node{}", 1 + n % 2), "")).collect();
    let begun = Instant::now();
    lab.apply("all.yaml", &all).unwrap();
    assert_eq!(lab.wait_pods(Duration::from_secs(30)).unwrap(), 60);
    let up = begun.elapsed();
    let far = lab.pod(&PodKey::new("default", "p59")).unwrap().ips()[0].to_string();
    assert!(succeeds(&lab, "p0", &["ping", "-c1", "-W1", &far]));
    let begun = Instant::now();
    lab.delete("all.yaml").unwrap();
    assert!(until(Duration::from_secs(30), || lab.pods().is_empty(), |done| *done));
    let gone = begun.elapsed();
    let begun = Instant::now();
    lab.down().unwrap();
    println!(
        "60 pods: up {:.2} s, deleted {:.2} s, lab down {:.2} s",
        up.as_secs_f64(),
        gone.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    assert!(up < Duration::from_secs(15) && gone < Duration::from_secs(15), "{up:?} {gone:?}");
}

#[test]
fn a_pod_for_one_command() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labrun")).unwrap();
    let labels = [("app".to_owned(), "once".to_owned())].into();
    let options =
        RunOptions { pod: "x/once".into(), labels, node: Some("node2".into()), without_svid: false };
    let file = lab.paths().root().join("seen");
    let script = format!("ip -4 -o addr show eth0 > {}; exit 3", file.display());
    assert_eq!(run_pod(&lab, &options, &["sh", "-c", &script]).unwrap().code(), Some(3));
    assert!(fs::read_to_string(file).unwrap().contains(".2.2/32"), "an address of node2");
    assert!(lab.pods().is_empty() && fs::read_dir(lab.paths().manifests()).unwrap().next().is_none());
    assert!(run_pod(&lab, &RunOptions { pod: "B_".into(), ..options }, &["true"]).is_err());
}

#[test]
fn the_command_line_does_the_same() {
    if !root() {
        return;
    }
    let program = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_countersign-lab"));
        command.args(words).env("COUNTERSIGN_LAB", "labcli").env("COUNTERSIGN_BIN_DIR", common::bin_dir());
        command.output().unwrap()
    };
    let manifests = tempfile::tempdir().unwrap();
    fs::write(manifests.path().join("a.yaml"), pod("a", "node1", "[sh, -c, 'echo spoken; sleep 1000']"))
        .unwrap();
    let dir = manifests.path().to_str().unwrap();
    let up = program(&["up", "--agent", "none", "--manifests", dir]);
    assert!(up.status.success() && String::from_utf8_lossy(&up.stderr).contains("1 pods run"), "{up:?}");
    assert!(program(&["up", "--agent", "none", "--manifests", dir]).status.success(), "twice is once");
    // A second supervisor leaves at once.
    assert!(program(&["supervise", "--foreground"]).status.success());
    let view: LabView = serde_json::from_slice(&program(&["ps", "-o", "json"]).stdout).unwrap();
    assert_eq!((view.pods.len(), view.nodes.len(), view.pods[0].phase.as_str()), (1, 2, "Running"));
    assert!(String::from_utf8(program(&["ps"]).stdout).unwrap().contains("10."));
    assert_eq!(program(&["exec", "a", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(program(&["exec", "a", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(String::from_utf8(program(&["logs", "a"]).stdout).unwrap(), "spoken\n");
    fs::remove_file(manifests.path().join("a.yaml")).unwrap();
    assert!(until(SOON, || program(&["exec", "a", "--", "true"]).status.code() == Some(1), |gone| *gone));
    assert!(program(&["down"]).status.success());
    assert_eq!(program(&["ps"]).status.code(), Some(1));
}

/// A process of the lab that hides: in another network namespace, or with another mark.
#[test]
fn who_hides_is_found() {
    if !root() {
        return;
    }
    let traces = Traces::before("labhide");
    let lab = Lab::up(&lab_options("labhide")).unwrap();
    // A pod may move into a namespace of its own; what it leaves behind keeps nothing of the lab alive.
    lab.apply("p.yaml", &pod("a", "node1", "[unshare, --net, sleep, '1000']")).unwrap();
    lab.apply("q.yaml", &pod("b", "node1", "[env, -i, sleep, '1000']")).unwrap();
    lab.wait_pods(Duration::from_secs(10)).unwrap();
    traces.note(&lab);
    let view = lab.view();
    let pids: Vec<i32> = view.pods.iter().map(|pod| pod.process.unwrap().pid).collect();
    let records: Vec<Record> = pids.iter().map(|pid| Record::of(*pid).unwrap()).collect();
    lab.delete("p.yaml").unwrap();
    assert!(until(SOON, || !records[0].is_alive(), |gone| *gone), "gone with its manifest");
    lab.down().unwrap();
    assert!(records.iter().all(|record| !record.is_alive()));
    traces.assert_none();
}

#[test]
fn a_name_that_is_taken_or_long_is_refused_or_served() {
    if !root() {
        return;
    }
    let lab = Lab::up(&lab_options("labnames")).unwrap();
    let long = "x".repeat(220);
    let long = pod(&long, "node1", "").replace(&format!("app: {long}"), "app: long");
    let manifests = long + &pod("node1", "node1", "") + &pod("wire", "node1", "");
    lab.apply("p.yaml", &manifests).unwrap();
    assert!(
        until(SOON, || lab.pods().len() == 2 && lab.view().problems.len() == 1, |done| *done),
        "{:?}",
        lab.view()
    );
    assert!(until(SOON, || lab.pods().iter().all(|p| p.phase == Phase::Running), |done| *done));
    // A pod may have a node's name: with its namespace it is told from it.
    assert_eq!(lab.target("node1").unwrap(), Target::Node("node1".into()));
    assert_eq!(lab.target("default/node1").unwrap(), Target::Pod(PodKey::new("default", "node1")));
    assert_eq!(lab.target("wire").unwrap(), Target::Wire);
    let wanted = pod("fixed", "node1", "")
        .replace("labels:", "annotations: {countersign.dev/lab-ip: WANTED}, labels:");
    let own = lab.pods()[0].ips()[0].to_string();
    lab.apply("q.yaml", &wanted.replace("WANTED", &own)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(lab.pod(&PodKey::new("default", "fixed")).is_err(), "the address is another's");
    lab.delete("p.yaml").unwrap();
    let reused =
        || lab.pod(&PodKey::new("default", "fixed")).is_ok_and(|pod| pod.ips()[0].to_string() == own);
    assert!(until(2 * SOON, reused, |done| *done), "and now it is free");
}
