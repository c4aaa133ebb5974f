//! Real packets between two pods of one node: parked, proved, released; cut off; taken over.

mod support;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use countersign_ebpf_loader::common::event::kind;
use countersign_ebpf_loader::common::metrics::{EGRESS, INGRESS};
use countersign_ebpf_loader::common::policy::auth_type::{NONE, SPIRE};
use countersign_ebpf_loader::common::{limits, reason};
use support::lab::Lab;
use support::scene::{A, A_IPS, B, B_IPS, SECOND, Scene, ip};

const QUIET: Duration = Duration::from_millis(60);
const LONG: u64 = 600 * SECOND;

/// Proofs wanted on both ends.
fn required(scene: &mut Scene) {
    for (slot, peer) in [(1, B), (2, A)] {
        scene.allow(slot, EGRESS, peer, SPIRE);
        scene.allow(slot, INGRESS, peer, SPIRE);
    }
}

fn received(socket: &UdpSocket) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 9000];
    while let Ok(length) = socket.recv(&mut buffer) {
        assert!(length >= 4);
        numbers.push(u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
    }
    numbers
}

#[test]
fn a_ping_waits_for_the_proof_and_arrives() {
    let Some(mut lab) = Lab::new() else { return };
    required(&mut lab.scene);
    for to in B_IPS {
        let pod = lab.name(0).to_owned();
        let mut ping = Command::new("ip")
            .args(["netns", "exec", &pod, "ping", "-c", "3", "-i", "0.05", "-W", "2", to])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = lab.handshake(LONG);
        assert_eq!((seen.parked[0].direction, seen.parked[0].slot, seen.parked[0].remote), (EGRESS, 1, B));
        let status = ping.wait().unwrap();
        let mut text = String::new();
        ping.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(status.success() && text.contains(" 0% packet loss"), "{text}");
        lab.withdraw_both();
    }
}

#[test]
fn datagrams_sent_at_once_arrive_once_each_and_in_order() {
    let Some(mut lab) = Lab::new() else { return };
    required(&mut lab.scene);
    for family in [0, 1] {
        let (from, to) = (ip(A_IPS[family]), ip(B_IPS[family]));
        let (sender, receiver) = (lab.udp(0, from, 5000), lab.udp(1, to, 6000));
        let count = limits::PARK_PAIR_PACKETS;
        for number in 0..count {
            sender.send_to(&number.to_be_bytes(), (to, 6000)).unwrap();
        }
        let seen = lab.parked(QUIET);
        assert_eq!(seen.frames.len(), count as usize);
        lab.prove_both(LONG);
        lab.settle(&seen);
        assert_eq!(received(&receiver), (0..count).collect::<Vec<_>>());
        // And back, with nobody in between.
        receiver.send_to(&[0, 0, 0, 7], (from, 5000)).unwrap();
        assert_eq!(received(&sender), [7]);
        assert!(lab.parked(QUIET).frames.is_empty());
        lab.withdraw_both();
        thread::sleep(Duration::from_millis(1100));
    }
}

#[test]
fn without_a_proof_nothing_arrives_and_the_agent_is_told() {
    let Some(mut lab) = Lab::new() else { return };
    required(&mut lab.scene);
    let mut events = lab.scene.datapath.take_events().unwrap();
    let to = ip(B_IPS[0]);
    let (sender, receiver) = (lab.udp(0, ip(A_IPS[0]), 5000), lab.udp(1, to, 6000));
    for number in 0..400u32 {
        sender.send_to(&number.to_be_bytes(), (to, 6000)).unwrap();
    }
    let seen = lab.parked(QUIET);
    assert_eq!(seen.frames.len(), limits::PARK_PAIR_PACKETS as usize);
    assert_eq!(lab.scene.counted(EGRESS, reason::PARK_FULL), 400 - u64::from(limits::PARK_PAIR_PACKETS));
    // Released without a proof: parked again, so many times and no more.
    let mut rounds = seen;
    for round in 2..=limits::PARK_ROUNDS {
        thread::sleep(Duration::from_millis(1100));
        lab.release(&rounds);
        rounds = lab.parked(QUIET);
        assert!(!rounds.parked.is_empty() && rounds.parked.iter().all(|parked| parked.round == round));
    }
    thread::sleep(Duration::from_millis(1100));
    lab.release(&rounds);
    assert!(lab.parked(QUIET).frames.is_empty());
    assert_eq!(lab.scene.counted(EGRESS, reason::PARK_AGAIN), rounds.frames.len() as u64);
    assert!(received(&receiver).is_empty());
    let told: Vec<_> =
        std::iter::from_fn(|| events.next()).filter(|event| event.kind == kind::AUTH_REQUIRED).collect();
    assert!(!told.is_empty() && told.len() < 20, "{}", told.len());
    assert_eq!((told[0].local_identity, told[0].remote_identity, told[0].node), (A, B, 0));
}

#[test]
fn what_waits_at_the_receiver_is_released_there() {
    let Some(mut lab) = Lab::new() else { return };
    lab.scene.allow(1, EGRESS, 0, NONE);
    lab.scene.allow(2, INGRESS, A, SPIRE);
    for family in [0, 1] {
        let to = ip(B_IPS[family]);
        let (sender, receiver) = (lab.udp(0, ip(A_IPS[family]), 5000), lab.udp(1, to, 6000));
        for number in 0..50u32 {
            sender.send_to(&number.to_be_bytes(), (to, 6000)).unwrap();
        }
        let seen = lab.parked(QUIET);
        assert_eq!(seen.frames.len(), 50);
        assert!(
            seen.parked
                .iter()
                .all(|parked| (parked.direction, parked.slot, parked.remote) == (INGRESS, 2, A))
        );
        lab.prove_both(LONG);
        lab.settle(&seen);
        assert_eq!(received(&receiver), (0..50).collect::<Vec<_>>());
        lab.withdraw_both();
    }
}

#[test]
fn fragments_wait_and_pass_together() {
    let Some(mut lab) = Lab::new() else { return };
    required(&mut lab.scene);
    for family in [0, 1] {
        let to = ip(B_IPS[family]);
        let (sender, receiver) = (lab.udp(0, ip(A_IPS[family]), 5000), lab.udp(1, to, 6000));
        let mut big = [0; 5000];
        for number in 0..10u32 {
            big[..4].copy_from_slice(&number.to_be_bytes());
            sender.send_to(&big, (to, 6000)).unwrap();
        }
        let seen = lab.parked(QUIET);
        assert_eq!(seen.frames.len(), 40);
        lab.prove_both(LONG);
        lab.settle(&seen);
        assert_eq!(received(&receiver), (0..10).collect::<Vec<_>>());
        sender.send_to(&big, (to, 6000)).unwrap();
        assert_eq!(received(&receiver), [9]);
        lab.withdraw_both();
    }
}

#[test]
fn a_first_connection_costs_a_handshake_and_a_revoked_one_stops() {
    let Some(mut lab) = Lab::new() else { return };
    required(&mut lab.scene);
    for family in [0, 1] {
        let to = ip(B_IPS[family]);
        let listener = lab.listen(1, to, 8080);
        let connecting = lab.connect(0, to, 8080);
        lab.handshake(LONG);
        let (mut client, took) = connecting.join().unwrap();
        println!("first connection: {took:?}, of which at least 3 ms stand in for the handshake");
        // A SYN that is dropped is sent again after a second.
        assert!(took < Duration::from_millis(900), "{took:?}");
        let (mut server, _) = listener.accept().unwrap();
        // Enough for offloads to make big segments.
        let data: Vec<u8> = (0..4_000_000u32).map(|number| (number % 251) as u8).collect();
        let writer = thread::spawn({
            let data = data.clone();
            move || {
                client.write_all(&data).unwrap();
                client
            }
        });
        let mut got = vec![0; data.len()];
        server.read_exact(&mut got).unwrap();
        assert!(got == data);
        let mut client = writer.join().unwrap();
        // Revoked: nothing passes any more, in neither direction, and what was sent is parked.
        lab.withdraw_both();
        client.write_all(b"secret").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(server.read(&mut got).is_err());
        let seen = lab.parked(QUIET);
        assert!(!seen.frames.is_empty());
        // Proved again: the same connection goes on.
        lab.prove_both(LONG);
        lab.settle(&seen);
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = server.read(&mut got).unwrap();
        assert_eq!(&got[..length], b"secret");
        lab.withdraw_both();
        drop((client, server));
        // The farewells of this connection are not the beginning of the next.
        lab.parked(QUIET);
    }
}

#[test]
fn the_path_mtu_reaches_the_pod() {
    let Some(mut lab) = Lab::new() else { return };
    lab.scene.open();
    support::device::ip("link set csb mtu 1300");
    let to = ip(B_IPS[0]);
    let sender = lab.udp(0, ip(A_IPS[0]), 5000);
    let discover = libc::IP_PMTUDISC_DO;
    // SAFETY: the option's value is an int that lives through the call.
    let set = unsafe {
        let value: *const libc::c_void = std::ptr::from_ref(&discover).cast();
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&sender),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            value,
            4,
        )
    };
    assert_eq!(set, 0);
    let big = [0; 1400];
    sender.send_to(&big, (to, 6000)).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        if sender.send_to(&big, (to, 6000)).is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE)) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no ICMP error reached the pod");
}

#[test]
fn a_restart_loses_nothing() {
    let Some(mut lab) = Lab::new() else { return };
    required(&mut lab.scene);
    lab.prove_both(LONG);
    let to = ip(B_IPS[0]);
    let (sender, receiver) = (lab.udp(0, ip(A_IPS[0]), 5000), lab.udp(1, to, 6000));
    let sending = thread::spawn(move || {
        for number in 0..2000u32 {
            sender.send_to(&number.to_be_bytes(), (to, 6000)).unwrap();
            thread::sleep(Duration::from_micros(500));
        }
    });
    // Loading the programs can take the processor for long.
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let receiving = thread::spawn(move || {
        let mut buffer = [0; 4];
        (0..2000)
            .map_while(|_| receiver.recv(&mut buffer).ok().map(|_| u32::from_be_bytes(buffer)))
            .collect::<Vec<_>>()
    });
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(100));
        lab.scene.datapath = lab.world.open();
    }
    sending.join().unwrap();
    let numbers = receiving.join().unwrap();
    let lost: Vec<_> = (0..2000).filter(|number| !numbers.contains(number)).collect();
    assert!(lost.is_empty() && numbers.len() == 2000 && numbers.is_sorted(), "lost {lost:?}");
}
