//! Every pod sends a marker to every other one while pods come, go and move, nodes change their keys, and agents and
//! data planes are killed: nothing of it is seen in the clear between the nodes. Needs root.
//!
//! `CS_LEAK_SECONDS=600` makes it as long as that; `CS_LEAK_SEED` repeats a run's choices.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::os::linux::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};
use countersign_agent_api::{Request, RotationBegun};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::probe::{LENGTH, Probe};
use countersign_e2e::udp;
use countersign_e2e::wire::Capture;
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODES: [&str; 2] = ["node1", "node2"];
const PORT: u16 = 9000;
/// Pods at a time.
const PODS: usize = 5;
/// Addresses that are sent to: those of the pods there are, and of some that are gone.
const TARGETS: usize = 24;
/// Between one round of markers and the next.
const ROUND: Duration = Duration::from_millis(25);
/// What a pod, or the way to one, may take to be there after a kill.
const SOON: Duration = Duration::from_secs(60);
/// How long everything is disturbed before it has to heal.
const BETWEEN_LOOKS: Duration = Duration::from_secs(20);

/// Numbers that a seed makes (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Who speaks, where to, and who has been heard.
#[derive(Default)]
struct Talk {
    speakers: BTreeMap<u32, UdpSocket>,
    targets: VecDeque<SocketAddr>,
    sent: u64,
    /// By receiver and sender.
    heard: BTreeMap<(u32, u32), u64>,
}

impl Talk {
    fn round(&mut self, number: u32) {
        for (flow, socket) in &self.speakers {
            for to in &self.targets {
                // A pod whose interface is gone cannot send: neither can it leak.
                let sent = socket.send_to(&Probe::now(*flow, number).encode(), udp::mapped(*to));
                self.sent += u64::from(sent.is_ok());
            }
        }
        let mut buffer = [0; LENGTH + 1];
        for (flow, socket) in &self.speakers {
            while let Ok(length) = socket.recv(&mut buffer) {
                if let Some(probe) = Probe::decode(&buffer[..length]) {
                    *self.heard.entry((*flow, probe.flow)).or_default() += 1;
                }
            }
        }
    }
}

/// The thread that speaks for all pods.
struct Crowd {
    talk: Arc<Mutex<Talk>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn start() -> Self {
        let talk = Arc::new(Mutex::new(Talk::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (talk.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).round(number);
                number += 1;
                std::thread::sleep(ROUND);
            }
        });
        Self { talk, stop, thread }
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the speaker panicked"))
    }
}

/// The pods there are: flow number to node.
struct Scene<'a> {
    world: &'a World,
    crowd: Crowd,
    pods: BTreeMap<u32, usize>,
    next: u32,
    done: BTreeMap<&'static str, u32>,
}

impl Scene<'_> {
    fn file(flow: u32) -> String {
        format!("p{flow}.yaml")
    }

    /// A pod appears on a node. It speaks as soon as it has an address, whatever its node knows by then.
    fn put(&mut self, flow: u32, node: usize) -> Result<()> {
        let name = format!("p{flow}");
        self.world.apply(&Self::file(flow), &[Pod::new(&name, NODES[node], "pod").yaml()])?;
        let mut there = None;
        eventually("a new pod has its address", SOON, || {
            // What is being made may be there in part.
            let place = self.world.place(&name).ok().filter(|place| place.ips.len() == 2);
            there = place.and_then(|place| Some((udp::socket(&place.space, PORT).ok()?, place)));
            Ok(there.is_some())
        })?;
        let (socket, place) = there.context("no place")?;
        let mut talk = self.crowd.talk();
        talk.speakers.insert(flow, socket);
        talk.targets.extend(place.ips.iter().map(|ip| SocketAddr::new(*ip, PORT)));
        let surplus = talk.targets.len().saturating_sub(TARGETS);
        talk.targets.drain(..surplus);
        self.pods.insert(flow, node);
        Ok(())
    }

    fn take(&mut self, flow: u32) -> Result<()> {
        // It speaks to its last moment.
        self.world.lab().delete(&Self::file(flow))?;
        self.world.lab().wait_gone(&format!("p{flow}"), SOON)?;
        self.crowd.talk().speakers.remove(&flow);
        self.pods.remove(&flow);
        Ok(())
    }

    fn act(&mut self, dice: &mut Dice) -> Result<()> {
        let flows: Vec<u32> = self.pods.keys().copied().collect();
        let flow = flows[dice.below(flows.len())];
        let node = dice.below(NODES.len());
        let what = match dice.below(12) {
            0..=2 => {
                self.take(flow)?;
                self.next += 1;
                self.put(self.next, node)?;
                "pods replaced"
            }
            3..=5 => {
                let to = 1 - self.pods[&flow];
                self.take(flow)?;
                self.put(flow, to)?;
                "pods moved"
            }
            6..=7 => {
                // Whoever is between two lives cannot be killed.
                if let Ok(pid) = self.world.agent_pid(NODES[node]) {
                    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
                }
                "agents killed"
            }
            8..=10 => {
                let planes = data_planes(self.world, NODES[node])?;
                if !planes.is_empty() {
                    let _ = kill(planes[dice.below(planes.len())], Signal::SIGKILL);
                }
                "data planes killed"
            }
            _ => match self.world.agent(NODES[node])?.call::<RotationBegun>(&Request::RotateKey) {
                Ok(_) => "keys changed",
                Err(_) => "keys not changed, no agent",
            },
        };
        *self.done.entry(what).or_default() += 1;
        Ok(())
    }

    /// All pods reach each other again.
    fn heals(&self) -> Result<Duration> {
        let before = self.crowd.talk().heard.clone();
        let healed = eventually("all pods reach each other", SOON, || Ok(self.deaf(&before).is_empty()));
        healed.with_context(|| {
            let state = |node: &&str| self.world.agent(node).and_then(|agent| agent.encrypt_status());
            let states: Vec<_> = NODES.iter().map(state).collect();
            format!("who does not hear whom: {:?}; pods {:?}; {states:?}", self.deaf(&before), self.pods)
        })
    }

    /// Who has not heard whom since `before`.
    fn deaf(&self, before: &BTreeMap<(u32, u32), u64>) -> Vec<(u32, u32)> {
        let talk = self.crowd.talk();
        let pairs = self.pods.keys().flat_map(|to| self.pods.keys().map(move |from| (*to, *from)));
        pairs
            .filter(|(to, from)| to != from)
            .filter(|pair| talk.heard.get(pair) <= before.get(pair))
            .collect()
    }
}

/// The data planes' processes in a node's network namespace.
fn data_planes(world: &World, node: &str) -> Result<Vec<Pid>> {
    let own = world.node(node)?.run(|| Ok(std::fs::metadata("/proc/thread-self/ns/net")?.st_ino()))?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let is_there = std::fs::metadata(path.join("ns/net")).is_ok_and(|of| of.st_ino() == own);
        if let (Some(number), true, "countersign-wg") = (number, is_there, name.trim()) {
            found.push(Pid::from_raw(number));
        }
    }
    Ok(found)
}

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| name.to_owned()))
}

#[test]
fn no_marker_is_seen_in_the_clear_whatever_dies() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let (length, seed) = (number("CS_LEAK_SECONDS", 40)?, number("CS_LEAK_SEED", now | 1)?);
    println!("CS_LEAK_SEED={seed}");
    let rules = [policy("all", "pod", &[Rule { peer: "pod", ports: &[], required: true }], &[])];
    let agent_args = ["--wireguard-key-overlap", "20s"].map(str::to_owned).to_vec();
    in_world(WorldOptions { agent_args, ..WorldOptions::new("leaks")? }, &rules, |world| {
        let capture = Capture::start(&world.name())?;
        let mut scene =
            Scene { world, crowd: Crowd::start(), pods: BTreeMap::new(), next: 0, done: BTreeMap::new() };
        let mut dice = Dice(seed);
        for _ in 0..PODS {
            scene.next += 1;
            scene.put(scene.next, dice.below(NODES.len()))?;
        }
        let end = Instant::now() + Duration::from_secs(length);
        let mut healed = Ok(Duration::ZERO);
        while Instant::now() < end && healed.is_ok() {
            let pause = end.min(Instant::now() + BETWEEN_LOOKS);
            while Instant::now() < pause {
                scene.act(&mut dice)?;
                std::thread::sleep(Duration::from_millis(dice.below(600) as u64));
            }
            // Nothing is broken for good.
            healed = scene.heals();
        }
        let (sent, heard) = {
            let talk = scene.crowd.talk();
            (talk.sent, talk.heard.values().sum::<u64>())
        };
        let done = scene.done.clone();
        scene.crowd.stop()?;
        let seen = capture.stop()?;
        println!(
            "{length} s: {done:?}; {sent} markers sent, {heard} arrived; healed in {healed:?}; {seen:?}"
        );
        ensure!(seen.with_marker == 0, "{} markers in the clear: {seen:?}", seen.with_marker);
        ensure!(seen.is_clean_but_for_unreachable(), "{seen:?}");
        healed?;
        ensure!(heard > 0 && seen.kinds.contains_key("wireguard"), "nothing was sent: {seen:?}");
        for what in ["pods replaced", "pods moved", "agents killed", "data planes killed"] {
            ensure!(done.contains_key(what), "no {what} in this run: {done:?}");
        }
        Ok(())
    })
}
