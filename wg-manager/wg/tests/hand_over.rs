//! From one process to the next under load.

mod rig;

use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rig::{DEVICE, Pair, eventually, possible};

const BINARY: &str = env!("CARGO_BIN_EXE_countersign-wg");

/// Numbered datagrams a thousand times a second, and a TCP stream, while both processes are replaced again and again.
#[test]
fn a_successor_loses_nothing() {
    if !possible() {
        return;
    }
    let mut pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    let handshakes = pair.a.must(&format!("wg show {DEVICE} latest-handshakes"));
    let (from, to) = (pair.a.address(false), pair.b.address(false));
    let receiver = pair.b.run(async { UdpSocket::bind(format!("{to}:7777")).unwrap() });
    let sender = pair.a.run(async { UdpSocket::bind(format!("{from}:0")).unwrap() });
    receiver.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut server =
        pair.b.command("iperf3", &["-s", "-1", "-B", &to]).stdout(Stdio::null()).spawn().unwrap();
    assert!(eventually(Duration::from_secs(5), || pair.b.must("ss -Htln").contains(":5201")));
    let stream =
        pair.a.command("iperf3", &["-c", &to, "-t", "60", "-b", "300M"]).stdout(Stdio::null()).spawn();
    let mut stream = stream.unwrap();
    let done = AtomicBool::new(false);
    let rounds: u32 =
        std::env::var("COUNTERSIGN_HAND_OVERS").map_or(10, |count| count.parse().expect("a number"));
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let mut number = 0_u32;
            while !done.load(Ordering::Relaxed) {
                sender.send_to(&number.to_be_bytes(), format!("{to}:7777")).unwrap();
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            number
        });
        let received = scope.spawn(|| {
            let (mut next, mut longest, mut last) = (0_u32, Duration::ZERO, Instant::now());
            let mut buffer = [0; 4];
            while receiver.recv(&mut buffer).is_ok() {
                assert_eq!(u32::from_be_bytes(buffer), next, "lost, or out of order");
                longest = longest.max(last.elapsed());
                last = Instant::now();
                next += 1;
            }
            (next, longest)
        });
        let fine = (0..rounds).all(|round| {
            let node = if round % 2 == 0 { &mut pair.a } else { &mut pair.b };
            node.take_over() && stream.try_wait().unwrap().is_none()
        });
        done.store(true, Ordering::Relaxed);
        assert!(fine, "a predecessor was not fine, or the stream has ended");
        let (sent, (received, longest)) = (sent.join().unwrap(), received.join().unwrap());
        println!("{rounds} hand-overs: {received} of {sent} datagrams, longest pause {longest:?}");
        assert_eq!(received, sent);
    });
    assert_eq!(
        pair.a.must(&format!("wg show {DEVICE} latest-handshakes")),
        handshakes,
        "the session went on"
    );
    for child in [&mut stream, &mut server] {
        let _ = child.kill();
        let _ = child.wait();
    }
    assert!(pair.a.terminate() && !pair.a.has_device(), "the last one cleans up");
}

#[test]
fn a_successor_that_changes_its_mind_changes_nothing() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    for _ in 0..3 {
        drop(UnixStream::connect(pair.a.directory.path().join(format!(".{DEVICE}.successor"))).unwrap());
        assert_eq!(pair.a.ping(&pair.b, false, "-c 3 -i 0.01"), 3);
    }
    assert!(pair.a.must("wg show").contains(DEVICE));
}

#[test]
fn without_a_predecessor_there_is_nothing_to_take_over() {
    if !possible() {
        return;
    }
    let pair = Pair::new();
    let output = pair.a.exec(&format!("{BINARY} --take-over {DEVICE}"));
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("no process has the device cs_wg0"), "{error}");
    assert!(!pair.a.has_device());
}
