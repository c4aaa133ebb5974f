//! The one place where all rooms meet, and the one task that owns all state.
//!
//! Everything else reads, writes or shakes hands, and reports here through bounded channels. A turn takes what
//! has come in, works out its effects, and does what the state machine asks for, in its order.

mod answers;
mod apply;
mod auth;
mod encryption;
mod endpoint;
mod explain;
mod observe;
mod order;
mod park;
mod places;
mod policy;
mod preshared;
mod registrar;
mod rotation;
mod spire;
mod svids;
mod told;
mod unknown;
mod withdraw;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use countersign_agent_api as api;
use countersign_auth_proto::{self as proto, Machine, ParkLimits, Parking};
use countersign_cluster::{Change, DirConfig, DirHandle, DirSource, IdentityRegistry};
use countersign_ebpf_common::config as datapath_config;
use countersign_ebpf_loader::{Datapath, Events, MapSizes, OpenConfig};
use countersign_flows::{LatencyWindow, Metrics, Store};
use countersign_policy::Repository;
use countersign_policy::repository::Enforcement;
use countersign_wg_proto::Slot;
use nix::net::if_::if_nametoindex;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::clock;
use crate::config::{Config, EnablePolicy, Switch};
use crate::endpoints::Endpoints;
use crate::handshake::{self, Client, Inbound};
use crate::identities::Identities;
use crate::limits;
use crate::node_ids::NodeIds;
use crate::state::StateFile;
use crate::tap::Tap;
use crate::world::{Touched, World};

use self::auth::Dialled;
use self::encryption::Encryption;
use self::endpoint::Waiting;
use self::observe::Names;
use self::order::Order;
use self::places::Addresses;
use self::preshared::LastWord;
use self::svids::Svids;
use self::told::Told;
use self::unknown::Unknown;

/// Name of the parking device.
pub const PARK_DEVICE: &str = "cs_park";

/// A request on the control socket.
pub type Request = api::Connection;

/// All state of a node.
pub struct Node {
    config: Arc<Config>,
    started: Instant,
    datapath: Datapath,
    settings: datapath_config::Config,
    tap: Arc<AsyncFd<Tap>>,
    machine: Machine,
    parking: Parking<Vec<u8>>,
    order: Order,
    unknown: Unknown,
    told: Told,
    told_file: StateFile,
    world: World,
    identities: Identities,
    node_ids: NodeIds,
    policies: Repository,
    policy_revision: u64,
    endpoints: Endpoints,
    waiting: VecDeque<Waiting>,
    svids: Svids,
    client: Client,
    servers: Vec<handshake::Server>,
    dialled: mpsc::Sender<Dialled>,
    inbound: mpsc::Sender<Inbound>,
    last_words: mpsc::Sender<LastWord>,
    encryption: Encryption,
    addresses: Addresses,
    watched_uplink: u32,
    flows: Store,
    names: Names,
    metrics: Metrics,
    latency: LatencyWindow,
    handshake_failures: BTreeMap<&'static str, u64>,
    handshakes_ok: u64,
    discarded: BTreeMap<&'static str, u64>,
    ticks: u64,
    _source: DirHandle,
}

/// What the node task listens to.
pub struct Inputs {
    changes: mpsc::Receiver<Change>,
    events: AsyncFd<Events>,
    tap: Arc<AsyncFd<Tap>>,
    dialled: mpsc::Receiver<Dialled>,
    inbound: mpsc::Receiver<Inbound>,
    last_words: mpsc::Receiver<LastWord>,
    svids: mpsc::Receiver<countersign_spire::Update>,
    requests: mpsc::Receiver<Request>,
}

fn parking_device() -> anyhow::Result<Arc<AsyncFd<Tap>>> {
    let tap = Tap::open(PARK_DEVICE)?;
    // SAFETY: a `Tap` owns one file for as long as it lives and always names that one.
    Ok(Arc::new(unsafe { AsyncFd::register(tap) }?))
}

impl Node {
    /// Opens everything in the order that keeps what is closed closed: first the datapath takes over what is
    /// pinned, then parking, then the sources.
    ///
    /// # Errors
    /// What cannot be opened, and what to do about it.
    pub async fn open(config: Config, requests: mpsc::Receiver<Request>) -> anyhow::Result<(Self, Inputs)> {
        let mut datapath = Datapath::open(&datapath_options(&config)).context("opening the datapath")?;
        let tap = parking_device()?;
        let settings = settings(&config, &datapath, tap.get_ref().ifindex())?;
        datapath.set_config(&settings).context("writing the datapath's settings")?;
        datapath.attach_park(settings.park_ifindex).context("attaching to the parking device")?;
        let events = datapath.take_events().context("the event ring is taken")?;

        let (changes, handle) = DirSource::spawn(directories(&config)).context("watching the manifests")?;
        let (svids, updates) = Svids::open(&config).await?;
        let (dialled, dialled_in) = mpsc::channel(limits::HANDSHAKE_RESULTS);
        let (inbound, inbound_in) = mpsc::channel(limits::INBOUND);
        let (last_words, last_words_in) = mpsc::channel(limits::INBOUND);
        let encryption = Encryption::open(&config).await?;
        let run_file = |name: &str| StateFile::new(&config.run_dir, name);
        let mut node = Self {
            started: Instant::now(),
            settings,
            tap: Arc::clone(&tap),
            machine: machine(&config),
            parking: Parking::new(ParkLimits::default()),
            order: Order::default(),
            unknown: Unknown::default(),
            told: Told::default(),
            told_file: run_file("told.json"),
            world: World::default(),
            identities: Identities::new(IdentityRegistry::new(&config.status_dir)),
            node_ids: NodeIds::restore(run_file("nodes.json"), &config.node_name),
            policies: policies(&config),
            policy_revision: 0,
            endpoints: Endpoints::new(run_file("endpoints.json")),
            waiting: VecDeque::new(),
            client: Client::new(svids.share(), handshake::Deadlines::default()),
            svids,
            servers: Vec::new(),
            dialled,
            inbound,
            last_words,
            encryption,
            addresses: Addresses::default(),
            watched_uplink: 0,
            flows: Store::new(countersign_flows::limits::DEFAULT_CAPACITY),
            names: Names::new(&config.node_name),
            metrics: Metrics::new(),
            latency: LatencyWindow::default(),
            handshake_failures: BTreeMap::new(),
            handshakes_ok: 0,
            discarded: BTreeMap::new(),
            ticks: 0,
            datapath,
            config: Arc::new(config),
            _source: handle,
        };
        node.restore();
        // Before anybody hears that a device is not watched.
        node.watch_devices();
        // SAFETY: the ring owns its map's descriptor for as long as it lives and always names that one.
        let events = unsafe { AsyncFd::register(events) }?;
        let inputs = Inputs {
            changes,
            events,
            tap,
            dialled: dialled_in,
            inbound: inbound_in,
            last_words: last_words_in,
            svids: updates,
            requests,
        };
        Ok((node, inputs))
    }

    /// Runs until one of its inputs ends, which none does while the agent is well.
    ///
    /// # Errors
    /// Which input ended.
    pub async fn run(mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let mut tick = interval(limits::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut results = Vec::with_capacity(limits::RESULTS_PER_TURN);
        let mut clients = Vec::with_capacity(limits::RESULTS_PER_TURN);
        loop {
            tokio::select! {
                count = inputs.dialled.recv_many(&mut results, limits::RESULTS_PER_TURN) => {
                    anyhow::ensure!(count > 0, "the handshake tasks are gone");
                    results.drain(..).for_each(|result| self.dialled(result));
                }
                count = inputs.inbound.recv_many(&mut clients, limits::RESULTS_PER_TURN) => {
                    anyhow::ensure!(count > 0, "the handshake server is gone");
                    clients.drain(..).for_each(|client| self.accept(client));
                }
                word = inputs.last_words.recv() => {
                    self.last_word(word.context("the handshake server is gone")?);
                }
                ready = inputs.tap.readable() => {
                    let mut ready = ready?;
                    if self.read_parked() < limits::FRAMES_PER_TURN {
                        ready.clear_ready();
                    }
                }
                ready = inputs.events.readable_mut() => {
                    let mut ready = ready?;
                    if !self.read_events(ready.get_inner_mut()) {
                        ready.clear_ready();
                    }
                }
                change = inputs.changes.recv() => {
                    let change = change.context("the manifests are no longer watched")?;
                    self.take_changes(change, &mut inputs.changes);
                }
                update = inputs.svids.recv() => {
                    self.take_svid(update.context("the identity source is gone")?);
                }
                request = inputs.requests.recv() => {
                    self.answer(request.context("the control socket is gone")?);
                }
                () = wake_at(self.next_deadline()) => {}
                _ = tick.tick() => {
                    self.read_events(inputs.events.get_mut());
                    self.tick();
                }
            }
            self.turn();
        }
    }

    /// What follows from whatever has just come in.
    fn turn(&mut self) {
        let now = clock::boot_ns();
        if self.machine.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.machine.handle(proto::Event::Tick, now);
        }
        self.act();
        self.expire_parked(now);
        self.settle();
    }

    fn next_deadline(&self) -> Option<u64> {
        let machine = self.machine.poll_timeout().map(|(at, _)| at);
        [machine, self.parking.next_deadline(), self.order.next_look()].into_iter().flatten().min()
    }

    fn take_changes(&mut self, first: Change, changes: &mut mpsc::Receiver<Change>) {
        let mut touched = Touched::default();
        let was_synced = self.world.synced;
        self.world.apply(first, &mut touched);
        for _ in 1..limits::CHANGES_PER_TURN {
            let Ok(change) = changes.try_recv() else { break };
            self.world.apply(change, &mut touched);
        }
        self.follow(touched, self.world.synced && !was_synced);
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.give_up_waiting();
        self.save_told();
        if self.ticks.is_multiple_of(limits::TICKS_PER_LOOK) {
            self.watch_devices();
            if self.world.synced {
                self.listen();
                self.withdraw_due();
                self.disown_due();
                self.retry_behind();
            }
            self.refresh_encryption();
        }
    }

    /// Attaches to the uplink and the encrypted devices whenever they come, or come anew.
    fn watch_devices(&mut self) {
        let uplink = if_nametoindex(self.config.uplink.as_str()).unwrap_or(0);
        if uplink != 0 && uplink != self.watched_uplink {
            match self.datapath.attach_uplink(uplink) {
                Ok(()) => self.watched_uplink = uplink,
                Err(error) => {
                    tracing::warn!(%error, uplink = %self.config.uplink, "the uplink is not watched")
                }
            }
        }
        // One that is not needed is deleted, and is another one when it comes again.
        let needed = self.encryption.slots();
        let first = Slot::default();
        let is_gone = |slot: &Slot, _: &mut u32| *slot != first && !needed.contains(slot);
        let gone: Vec<_> = self.encryption.watched.extract_if(.., is_gone).collect();
        gone.into_iter().for_each(|(_, device)| self.datapath.detach(device));
        let mut is_new = false;
        for (slot, name) in self.encryption.devices.clone() {
            let device = if_nametoindex(name.as_str()).unwrap_or(0);
            let is_watched = self.encryption.watched.get(&slot) == Some(&device);
            if device == 0 || is_watched || (slot != first && !needed.contains(&slot)) {
                continue;
            }
            match self.datapath.attach_wg(device) {
                Ok(()) => is_new |= self.encryption.watched.insert(slot, device).is_none(),
                Err(error) => tracing::warn!(%error, name, "the encrypted device is not watched"),
            }
        }
        if is_new && self.world.synced {
            self.tell_manager();
        }
    }
}

fn directories(config: &Config) -> DirConfig {
    let mut source = DirConfig::new(config.manifests.clone(), config.status_dir.clone());
    // A policy that was in force and whose file is broken at the next start stays in force.
    source.accepted = Some(config.run_dir.join("accepted"));
    source
}

fn machine(config: &Config) -> Machine {
    let max_age = u64::try_from(config.auth_max_age.as_nanos()).unwrap_or(u64::MAX);
    Machine::new(proto::Config { max_age, ..proto::Config::default() }, seed())
}

fn datapath_options(config: &Config) -> OpenConfig {
    let policy_lpm = config.bpf_policy_map_max;
    let sizes = MapSizes { policy: policy_lpm.saturating_mul(2), policy_lpm, ..MapSizes::default() };
    OpenConfig { pin_dir: config.pin_dir.clone(), sizes, ..OpenConfig::default() }
}

fn policies(config: &Config) -> Repository {
    let mut policies = Repository::new();
    // Nobody is there yet whom it could concern.
    drop(policies.set_enforcement(match config.enable_policy {
        EnablePolicy::Default => Enforcement::Default,
        EnablePolicy::Always => Enforcement::Always,
        EnablePolicy::Never => Enforcement::Never,
    }));
    policies
}

fn settings(config: &Config, datapath: &Datapath, park: u32) -> anyhow::Result<datapath_config::Config> {
    use datapath_config::flag;
    let before = datapath.config().context("reading the datapath's settings")?;
    let parking = if config.parking == Switch::On { flag::PARKING } else { 0 };
    Ok(datapath_config::Config {
        flags: flag::READY | flag::VERDICT_EVENTS | flag::ENCRYPTION | parking,
        park_ifindex: park,
        handshake_port: config.handshake_port,
        wireguard_port: config.wireguard_port,
        ..before
    })
}

/// Jitter need not be secret, only different from node to node and from start to start.
fn seed() -> u64 {
    clock::boot_ns() ^ (u64::from(std::process::id()) << 32)
}

async fn wake_at(boot_ns: Option<u64>) {
    match boot_ns {
        None => std::future::pending().await,
        Some(at) => {
            let wait = std::time::Duration::from_nanos(at.saturating_sub(clock::boot_ns()));
            sleep_until(tokio::time::Instant::now() + wait).await;
        }
    }
}
