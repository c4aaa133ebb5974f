//! The process: when it is ready, what it leaves behind, whom it lets in.

mod rig;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rig::{DEVICE, Pair, eventually, possible};

const BINARY: &str = env!("CARGO_BIN_EXE_countersign-wg");

/// Talks to the socket without any library.
fn ask(pair: &Pair, message: &[u8]) -> String {
    let path = pair.a.directory.path().join(format!("{DEVICE}.sock"));
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let _ = stream.write_all(message);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply);
    reply
}

#[test]
fn in_the_background_it_is_ready_when_the_parent_returns() {
    if !possible() {
        return;
    }
    let pair = Pair::new();
    for _ in 0..5 {
        pair.a.must(&format!("{BINARY} {DEVICE}"));
        assert!(pair.a.has_device());
        assert!(pair.a.must("wg show").contains("interface: cs_wg0"));
        let ours = processes_in(&pair.a.namespace);
        assert_eq!(ours.len(), 1, "{ours:?}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(ours[0]), nix::sys::signal::SIGTERM).unwrap();
        assert!(eventually(Duration::from_secs(2), || processes_in(&pair.a.namespace).is_empty()));
        // A process that is ending has no program any more, but perhaps still its device.
        assert!(eventually(Duration::from_secs(2), || !pair.a.has_device()));
    }
}

/// The processes of this program in a network namespace.
fn processes_in(namespace: &str) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: String| std::fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let namespace = inode(format!("/run/netns/{namespace}"));
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    all.filter(|pid: &i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|path| path == std::path::Path::new(BINARY))
            && inode(format!("/proc/{pid}/ns/net")) == namespace
    })
    .collect()
}

#[test]
fn the_socket_is_roots_and_memory_is_not_dumped() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let socket = pair.a.directory.path().join(format!("{DEVICE}.sock"));
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pair.a.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // Nothing but the sockets: no temporary name stays.
    let files = std::fs::read_dir(pair.a.directory.path()).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [format!(".{DEVICE}.successor"), format!("{DEVICE}.sock")]);
    let successors = pair.a.directory.path().join(&names[0]);
    assert_eq!(std::fs::metadata(&successors).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_stays_after_a_signal_and_a_kill_can_be_recovered_from() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    let socket = pair.a.directory.path().join(format!("{DEVICE}.sock"));
    pair.a.start();
    assert!(pair.a.terminate());
    assert!(!pair.a.has_device() && !socket.exists());
    pair.a.start();
    pair.a.kill();
    assert!(eventually(Duration::from_secs(2), || !pair.a.has_device()));
    assert!(socket.exists(), "a killed process cannot remove it");
    pair.a.start();
    assert!(pair.a.must("wg show").contains(DEVICE));
}

#[test]
fn a_second_one_for_the_same_device_says_why_not() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    for mode in ["", "--foreground "] {
        let output = pair.a.exec(&format!("{BINARY} {mode}{DEVICE}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(error.contains("creating the TUN device cs_wg0"), "{error}");
    }
    assert!(pair.a.must("wg show").contains(DEVICE), "the first one is not disturbed");
    for name in ["", "a/b", "sixteencharacter", ".."] {
        let output = pair.a.command(BINARY, &["--foreground", name]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
}

#[test]
fn a_deleted_device_ends_the_process() {
    if !possible() {
        return;
    }
    let mut pair = Pair::configured(false);
    let pid = pair.a.pid();
    pair.a.ip(&format!("link del {DEVICE}"));
    let gone =
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    assert!(eventually(Duration::from_secs(15), gone), "the process should end");
    pair.a.kill();
}

#[test]
fn mtu_and_name_are_as_wished() {
    if !possible() {
        return;
    }
    let pair = Pair::new();
    let mut child = pair.a.command(BINARY, &["-f", "--mtu", "1337", "odd.name-0"]).spawn().unwrap();
    let link = || String::from_utf8(pair.a.exec("ip link show odd.name-0").stdout).unwrap();
    assert!(eventually(Duration::from_secs(5), || link().contains("mtu 1337")), "{}", link());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn whatever_is_sent_to_the_socket_gets_an_error_or_nothing() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let key = "ab".repeat(32);
    let refused = [
        "x\n\n".to_owned(),
        "get=2\n\n".to_owned(),
        "set=1\nlisten_port=99999\n\n".to_owned(),
        "set=1\nprivate_key=zz\n\n".to_owned(),
        format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.0/33\n\n"),
        format!("set=1\npublic_key={key}\nendpoint=nowhere\n\n"),
        format!("set=1\npublic_key={key}\nprotocol_version=2\n\n"),
        "set=1\nunknown=1\n\n".to_owned(),
        format!("set=1\nx={}\n\n", "y".repeat(10_000)),
    ];
    for message in refused {
        assert_eq!(ask(&pair, message.as_bytes()), "errno=22\n\n", "{message}");
    }
    for garbage in [&b"\xff\xfe\n\n"[..], b"", b"\n", b"get=1", &[b'x'; 100_000]] {
        let reply = ask(&pair, garbage);
        assert!(reply.is_empty() || reply == "errno=22\n\n", "{reply}");
    }
    // Several requests on one connection.
    let replies = ask(&pair, b"get=1\n\nset=1\n\nget=1\n\n");
    assert_eq!(replies.matches("errno=0\n\n").count(), 3, "{replies}");
    assert!(pair.a.must("wg show").contains(DEVICE));
}
