//! A node in miniature: two pods in namespaces of their own, the parking device, and an agent that is a loop.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use countersign_ebpf_loader::EndpointConfig;
use countersign_ebpf_loader::common::config::{self, Config};
use countersign_ebpf_loader::common::park::{Parked, PendingKey};
use nix::sched::{CloneFlags, setns};

use super::World;
use super::device::{index, ip as run, text};
use super::scene::{A, A_IPS, B, B_IPS, Scene};

/// How long the stand-in for a handshake takes.
const HANDSHAKE: Duration = Duration::from_millis(3);

/// The node. Namespaces of pods are removed with it.
pub struct Lab {
    pub scene: Scene,
    pub world: World,
    tap: File,
    pods: [String; 2],
    returned: BTreeMap<PendingKey, u64>,
}

/// What the agent saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub parked: Vec<Parked>,
    pub frames: Vec<Vec<u8>>,
}

impl Lab {
    /// Both pods up and running; nothing allowed, parking on.
    pub fn new() -> Option<Self> {
        let world = World::new()?;
        run("link set lo up");
        for (knob, value) in
            [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/conf/all/rp_filter", "0")]
        {
            fs::write(format!("/proc/sys/net/{knob}"), value).unwrap();
        }
        run("addr add 10.0.0.1/32 dev lo");
        run("addr add fd00::1/128 dev lo nodad");
        let mut scene = Scene::new(world.open());
        let pods = [pod(&scene.a, "csa", A_IPS), pod(&scene.b, "csb", B_IPS)];
        let tap = park();
        let ifindex = index("cs_park");
        scene.datapath.attach_park(ifindex).unwrap();
        scene.configure(&Config {
            flags: config::flag::PARKING | config::flag::VERDICT_EVENTS,
            park_ifindex: ifindex,
            handshake_port: 4250,
            wireguard_port: 51871,
            ..Config::default()
        });
        Some(Self { scene, world, tap, pods, returned: BTreeMap::new() })
    }

    /// Something done in a pod's namespace, by a thread that goes there.
    pub fn inside<T: Send + 'static>(&self, pod: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.pods[pod]);
        let handle = thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        handle.join().unwrap()
    }

    pub fn name(&self, pod: usize) -> &str {
        &self.pods[pod]
    }

    pub fn udp(&self, pod: usize, ip: IpAddr, port: u16) -> UdpSocket {
        let socket = self.inside(pod, move || UdpSocket::bind((ip, port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }

    pub fn listen(&self, pod: usize, ip: IpAddr, port: u16) -> TcpListener {
        self.inside(pod, move || TcpListener::bind((ip, port)).unwrap())
    }

    /// A connection attempt that runs while the agent works; how long it took.
    pub fn connect(&self, pod: usize, ip: IpAddr, port: u16) -> thread::JoinHandle<(TcpStream, Duration)> {
        let path = format!("/run/netns/{}", self.pods[pod]);
        thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            let start = Instant::now();
            let stream = TcpStream::connect_timeout(&(ip, port).into(), Duration::from_secs(5)).unwrap();
            (stream, start.elapsed())
        })
    }

    /// Both pods prove themselves to each other, as one handshake would.
    pub fn prove_both(&mut self, lifetime: u64) {
        self.scene.prove(A, B, 0, B_IPS, lifetime);
        self.scene.prove(B, A, 0, A_IPS, lifetime);
    }

    pub fn withdraw_both(&mut self) {
        for (key, _) in self.scene.datapath.auth_entries() {
            assert!(self.scene.datapath.auth_remove(&key).unwrap());
        }
        for slot in [1, 2] {
            self.scene.datapath.epoch_bump_auth(slot).unwrap();
        }
    }

    /// Reads what is parked until nothing more came for a while.
    pub fn parked(&mut self, quiet: Duration) -> Seen {
        let mut seen = Seen::default();
        let mut last = Instant::now();
        loop {
            let mut frame = vec![0; 70_000];
            match self.tap.read(&mut frame) {
                Ok(length) => {
                    frame.truncate(length);
                    if let Some(parked) = Parked::decode(frame[..12].try_into().unwrap()) {
                        seen.parked.push(parked);
                        seen.frames.push(frame);
                    }
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if last.elapsed() >= quiet {
                        return seen;
                    }
                    thread::sleep(Duration::from_micros(200));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives frames back, and says so when it has.
    pub fn release(&mut self, seen: &Seen) {
        for (frame, parked) in seen.frames.iter().zip(&seen.parked) {
            assert_eq!(self.tap.write(frame).unwrap(), frame.len());
            let &Parked { direction, slot, node, remote, .. } = parked;
            let local = if slot == 1 { A } else { B };
            let key = PendingKey::new(local, remote, node, slot, direction);
            *self.returned.entry(key).or_default() += 1;
        }
        for (key, frames) in &self.returned {
            self.scene.datapath.set_returned(*key, *frames).unwrap();
        }
    }

    /// As above, and what has queued up behind them meanwhile goes after them.
    pub fn settle(&mut self, seen: &Seen) {
        self.release(seen);
        loop {
            let behind = self.parked(Duration::ZERO);
            if behind.frames.is_empty() {
                return;
            }
            self.release(&behind);
        }
    }

    /// What an agent does: waits for a packet to be parked, takes its time, proves the pair, releases.
    pub fn handshake(&mut self, lifetime: u64) -> Seen {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen = Seen::default();
        while seen.frames.is_empty() && Instant::now() < deadline {
            seen = self.parked(HANDSHAKE);
        }
        self.prove_both(lifetime);
        self.settle(&seen);
        seen
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for pod in &self.pods {
            run(&format!("netns del {pod}"));
        }
    }
}

fn pod(config: &EndpointConfig, device: &str, ips: [&str; 2]) -> String {
    let name = format!("cs-ebpf-{}-{device}-{}", std::process::id(), thread_number());
    run(&format!("netns add {name}"));
    run(&format!("link set {device}p netns {name} name eth0"));
    let (mac, host_mac) = (text(config.mac), text(config.host_mac));
    for words in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("addr add {}/32 dev eth0", ips[0]),
        format!("addr add {}/128 dev eth0 nodad", ips[1]),
        "route add 169.254.1.1 dev eth0 scope link".to_owned(),
        "route add default via 169.254.1.1 dev eth0".to_owned(),
        format!("neigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent"),
        "-6 route add default via fe80::1 dev eth0".to_owned(),
        format!("-6 neigh add fe80::1 lladdr {host_mac} dev eth0 nud permanent"),
    ] {
        run(&format!("-n {name} {words}"));
    }
    for words in [
        format!("link set {device} up"),
        format!("addr add fe80::1/64 dev {device} nodad"),
        format!("neigh add {} lladdr {mac} dev {device} nud permanent", ips[0]),
        format!("route add {}/32 dev {device}", ips[0]),
        format!("-6 neigh add {} lladdr {mac} dev {device} nud permanent", ips[1]),
        format!("-6 route add {}/128 dev {device}", ips[1]),
    ] {
        run(&words);
    }
    name
}

fn thread_number() -> String {
    format!("{:?}", thread::current().id()).chars().filter(char::is_ascii_digit).collect()
}

/// The parking device: a TAP without offloads, up, with room.
fn park() -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let flags = libc::O_NONBLOCK;
    let tap = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun").unwrap();
    // SAFETY: `ifreq` is plain data, all zero is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"cs_park") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is a valid `ifreq` and lives through the call.
    assert_eq!(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, &request) }, 0);
    run("link set cs_park mtu 65521 txqueuelen 16384 up");
    tap
}
