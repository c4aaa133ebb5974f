//! The kernel as judge: two network namespaces, a TUN device in each, and between them nothing but this module.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt};

use super::*;
use crate::tun_sys;

/// Bytes of one transfer.
const BULK: usize = 16 << 20;
/// Packets that are joined at a time.
const BATCH: usize = 128;
/// How long a socket waits for what was lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// True if the test can run. Where what it needs is missing it is skipped, but fails when `CI=true`.
fn possible() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let tun = Path::new("/dev/net/tun").exists();
    let ip = Command::new("ip").arg("-V").output().is_ok();
    if root && tun && ip {
        return true;
    }
    let why = format!("needs root ({root}), /dev/net/tun ({tun}), and ip ({ip})");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test {why}");
    eprintln!("skipped: this test {why}");
    false
}

/// A namespace with a TUN device, and two VXLAN devices over it: one without checksums, one with.
struct Node {
    namespace: File,
    tun: File,
    features: Features,
}

impl Node {
    fn new(number: u8) -> Self {
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let tun = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .unwrap();
            let features = tun_sys::attach(&tun, "tun0").unwrap();
            let other = 3 - number;
            ip("link set lo up");
            ip("link set tun0 mtu 1420 up");
            ip(&format!("addr add 10.5.0.{number}/24 dev tun0"));
            ip(&format!("addr add fd05::{number}/64 dev tun0 nodad"));
            for (vni, port, checksum) in [(6, 8472, "noudpcsum"), (7, 4789, "udpcsum")] {
                let ends = format!("local 10.5.0.{number} remote 10.5.0.{other} dev tun0");
                ip(&format!("link add vx{vni} type vxlan id {vni} dstport {port} {ends} {checksum}"));
                ip(&format!("link set vx{vni} mtu 1370 up"));
                ip(&format!("addr add 10.{vni}.0.{number}/24 dev vx{vni}"));
                ip(&format!("addr add fd0{vni}::{number}/64 dev vx{vni} nodad"));
            }
            Self { namespace: File::open("/proc/thread-self/ns/net").unwrap(), tun, features }
        })
        .join()
        .unwrap()
    }

    fn enter(&self) {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// In the namespace of the thread.
fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How often what was handed over, and what was written, by its type.
#[derive(Debug, Default)]
struct Seen {
    handed_over: BTreeMap<u8, u64>,
    written: BTreeMap<u8, u64>,
    refused: Vec<String>,
}

/// Carries packets from one device to the other until it is stopped.
fn carry(from: &Node, to: &Node, joins: bool, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut joiner = Joiner::default();
    let mut buffer = vec![0; VnetHdr::MAX + 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(from.tun.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(50_u8)).unwrap();
        let mut batch: Vec<Vec<u8>> = Vec::new();
        while batch.len() < BATCH {
            let length = match (&from.tun).read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                length => length.unwrap(),
            };
            let (header, packet) = buffer[..length].split_at_mut(from.features.vnet_len());
            let header = VnetHdr::decode(header).unwrap();
            *seen.handed_over.entry(header.gso_type).or_default() += 1;
            split(header, packet, |header, payload| batch.push([header, payload].concat())).unwrap();
        }
        let mut write = |slices: &[io::IoSlice<'_>]| {
            *seen.written.entry(slices[0][1]).or_default() += 1;
            if let Err(error) = (&to.tun).write_vectored(slices) {
                seen.refused.push(format!("{error}: {:?}", &slices[0][..]));
            }
        };
        if joins {
            joiner.join(&mut batch, to.features, write);
        } else {
            let plain = [0; VnetHdr::MAX];
            for packet in &batch {
                write(&[io::IoSlice::new(&plain[..to.features.vnet_len()]), io::IoSlice::new(packet)]);
            }
        }
    }
    seen
}

/// Runs `work` while packets are carried both ways; returns what was seen on the way from `a` to `b`.
fn connected(a: &Node, b: &Node, joins: bool, work: impl FnOnce()) -> Seen {
    /// However the work ends.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let there = scope.spawn(|| carry(a, b, joins, &stop));
        let back = scope.spawn(|| carry(b, a, joins, &stop));
        let guard = Stop(&stop);
        work();
        drop(guard);
        let back = back.join().unwrap();
        assert!(back.refused.is_empty(), "{:?}", back.refused);
        there.join().unwrap()
    })
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A stream from `a` to `b` arrives as it was sent.
fn stream(a: &Node, b: &Node, to: SocketAddr) {
    let sent = noise(to.port().into(), BULK);
    thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let receiver = scope.spawn(move || {
            b.enter();
            let listener = TcpListener::bind(to).unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        is_ready.recv().unwrap();
        let sent = &sent;
        scope.spawn(move || {
            a.enter();
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(sent).unwrap();
        });
        assert!(receiver.join().unwrap() == *sent, "what arrived is not what was sent to {to}");
    });
}

/// Datagrams that the sender's kernel does not cut arrive as they were sent, each by itself.
fn datagrams(a: &Node, b: &Node, to: SocketAddr, size: u16, count: usize) {
    let bind = |node: &Node, at: SocketAddr| {
        node.enter();
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    thread::scope(|scope| {
        let receiver = scope.spawn(|| bind(b, to)).join().unwrap();
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let sender = scope.spawn(move || bind(a, any)).join().unwrap();
        setsockopt(&sender, sockopt::UdpGsoSegment, &i32::from(size)).unwrap();
        sender.connect(to).unwrap();
        let mut buffer = [0; 2048];
        for round in 0..50 {
            let mut sent = noise(round, usize::from(size) * count);
            sent.truncate(sent.len() - 7);
            sender.send(&sent).unwrap();
            for part in sent.chunks(size.into()) {
                let length = receiver.recv(&mut buffer).unwrap();
                assert!(buffer[..length] == *part, "a datagram to {to} is not what was sent");
            }
        }
    });
}

/// Everything that is read uncut is cut so that the kernel accepts every part, and everything that is joined is
/// taken, and arrives.
#[test]
fn the_kernel_takes_what_was_cut_and_what_was_joined() {
    if !possible() {
        return;
    }
    let (a, b) = (Node::new(1), Node::new(2));
    println!("{:?}", a.features);
    let (tso, uso, tunnel) = (a.features.tso, a.features.uso, a.features.tunnel);
    for joins in [false, true] {
        for (net, v6, kind, offered) in [
            (5, false, GSO_TCPV4, tso),
            (5, true, GSO_TCPV6, tso),
            (6, false, GSO_TCPV4 | GSO_TUNNEL_V4, tunnel),
            (6, true, GSO_TCPV6 | GSO_TUNNEL_V4, tunnel),
            (7, false, GSO_TCPV4 | GSO_TUNNEL_V4, tunnel),
            (7, true, GSO_TCPV6 | GSO_TUNNEL_V4, tunnel),
        ] {
            let ip = if v6 { format!("[fd0{net}::2]") } else { format!("10.{net}.0.2") };
            let to: SocketAddr = format!("{ip}:7000").parse().unwrap();
            let seen = connected(&a, &b, joins, || stream(&a, &b, to));
            println!("TCP to {to}, joined {joins}: {seen:?}");
            assert!(seen.refused.is_empty(), "{seen:?}");
            assert!(!offered || seen.handed_over[&kind] > 10, "{seen:?}");
            assert!(!offered || !joins || seen.written[&kind] > 10, "{seen:?}");

            let kind = kind & !(GSO_TCPV4 | GSO_TCPV6) | GSO_UDP_L4;
            let seen = connected(&a, &b, joins, || datagrams(&a, &b, to, 1000, 40));
            println!("UDP to {to}, joined {joins}: {seen:?}");
            assert!(seen.refused.is_empty(), "{seen:?}");
            let plain = kind == GSO_UDP_L4;
            let offered = if plain { uso } else { tunnel };
            assert!(!offered || seen.handed_over[&kind] > 10, "{seen:?}");
            assert!(!offered || !joins || !plain || seen.written[&kind] > 10, "{seen:?}");
        }
    }
}
