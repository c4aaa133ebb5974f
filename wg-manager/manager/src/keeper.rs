//! The task that owns the devices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_wg_proto::limits::SESSION_LIFE_SECONDS;
use countersign_wg_proto::{
    Desired, Device, Goal, Observed, Op, PresharedKey, PrivateKey, SMALLEST, Shrink, Slot, Way, choose,
    inside, plan,
};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::backend::{self, Plane};
use crate::keys::{self, NodeKeys};
use crate::limits::{COMMANDS, LOOK_FOR_SESSION_EVERY, RETRY_FIRST, USUAL_MTU};
use crate::link::{self, Link, Target, Via};
use crate::manager::{Config, OwnKeys, Problems};
use crate::paths::Paths;
use crate::status::{self, Status};

/// What is asked of the task, and where the answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    SetPeers(Box<Desired>, oneshot::Sender<Result<(), Problems>>),
    Reconcile(oneshot::Sender<Result<(), Problems>>),
    Status(oneshot::Sender<Status>),
    PresharedKeys(oneshot::Sender<BTreeMap<Way, PresharedKey>>),
    BeginRotation(oneshot::Sender<Result<OwnKeys, keys::Error>>),
    EndOldKey(oneshot::Sender<Result<OwnKeys, keys::Error>>),
}

/// Who hears of keys, and of the ways that packets take.
pub(crate) type Tell = (watch::Sender<OwnKeys>, watch::Sender<BTreeMap<String, Way>>);

/// Why a device is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Backend(#[from] backend::Error),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error("{0} has no key to be between: the node has none of that kind")]
    NoKey(String),
    #[error("{0} is of the other backend, and is left there until its prefixes have fallback routes")]
    NoFallback(String),
}

/// A device that is there.
struct Found {
    index: u32,
    observed: Observed,
}

/// The state of the task.
pub(crate) struct Keeper {
    config: Config,
    keys: NodeKeys,
    /// Given to a device that is not to have a key: made when first needed, and nobody's.
    nobodys: Option<PrivateKey>,
    link: Link,
    plane: Plane,
    paths: Paths,
    tell: Tell,
    desired: Desired,
    goal: Goal,
    /// What the last turn could not do.
    failures: Vec<String>,
    repairs: u64,
    /// The goal was reached once: whatever is to be done now is a repair.
    reached: bool,
    /// Packets go the best way to everybody.
    settled: bool,
    /// Every prefix has its fallback route.
    has_fallbacks: bool,
    retry_after: Duration,
    next: Instant,
}

impl Keeper {
    pub(crate) fn new(
        config: Config,
        keys: NodeKeys,
        (link, plane, paths): (Link, Plane, Paths),
        tell: Tell,
    ) -> Self {
        let desired = Desired::default();
        Self {
            goal: desired.goal(config.keepalive, unix_now()),
            config,
            keys,
            nobodys: None,
            link,
            plane,
            paths,
            tell,
            desired,
            failures: Vec::new(),
            repairs: 0,
            reached: false,
            settled: false,
            has_fallbacks: false,
            retry_after: RETRY_FIRST,
            next: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.obey_all(command, &mut inbox).await,
                    None => return,
                },
                // It is the paths that are different, and nothing to be repaired.
                () = self.paths.changed() => {
                    self.reached = false;
                    let _ = self.turn().await;
                }
                () = sleep_until(self.next) => {
                    let _ = self.turn().await;
                }
            }
        }
    }

    /// Everything that waits, in order. A turn costs as much as there are nodes, and each key that is agreed on is
    /// a new wish: of those that wait together the last counts, and all of them get its answer.
    async fn obey_all(&mut self, first: Command, inbox: &mut mpsc::Receiver<Command>) {
        let mut wishes = Vec::new();
        let waiting = std::iter::from_fn(|| inbox.try_recv().ok()).take(COMMANDS);
        for command in std::iter::once(first).chain(waiting) {
            match command {
                Command::SetPeers(desired, reply) => {
                    self.wish(*desired);
                    wishes.push(reply);
                }
                other => {
                    self.fulfil(&mut wishes).await;
                    self.obey(other).await;
                }
            }
        }
        self.fulfil(&mut wishes).await;
    }

    fn wish(&mut self, desired: Desired) {
        if desired.revision >= self.desired.revision {
            self.desired = desired;
        }
    }

    async fn fulfil(&mut self, wishes: &mut Vec<oneshot::Sender<Result<(), Problems>>>) {
        if wishes.is_empty() {
            return;
        }
        self.reached = false;
        let done = self.turn().await;
        for reply in wishes.drain(..) {
            // Whoever asked may have stopped listening; that changes nothing.
            let _ = reply.send(done.clone());
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::SetPeers(desired, reply) => {
                self.wish(*desired);
                self.fulfil(&mut vec![reply]).await;
            }
            Command::Reconcile(reply) => {
                let _ = reply.send(self.turn().await);
            }
            Command::PresharedKeys(reply) => {
                let _ = reply.send(self.preshared_keys().await);
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status().await);
            }
            Command::BeginRotation(reply) => {
                let keys = self.keys.with_next(&self.config.run_dir);
                let _ = reply.send(self.take_keys(keys));
            }
            Command::EndOldKey(reply) => {
                let keys = self.keys.without_old(&self.config.run_dir);
                let _ = reply.send(self.take_keys(keys));
            }
        }
    }

    fn take_keys(&mut self, keys: Result<NodeKeys, keys::Error>) -> Result<OwnKeys, keys::Error> {
        self.keys = keys?;
        self.reached = false;
        let own = OwnKeys::of(&self.keys);
        // Who does not listen any more has ended.
        let _ = self.tell.0.send(own);
        Ok(own)
    }

    /// One comparison, and what follows from it.
    async fn turn(&mut self) -> Result<(), Problems> {
        self.refresh_goal();
        let mut failures = Vec::new();
        // The fallback routes come first: they must be there also when the data plane is not.
        let fallbacks = self.link.set_fallbacks(self.goal.routes.keys()).await;
        self.has_fallbacks = fallbacks.is_ok();
        let mut changed = note(fallbacks, &mut failures);
        let mut found = BTreeMap::new();
        for (slot, goal) in &self.goal.devices {
            match self.set_device(*slot, goal).await {
                Ok((device, is_changed)) => {
                    changed |= is_changed;
                    found.insert(*slot, device);
                }
                Err(failure) => failures.push(failure.to_string()),
            }
        }
        changed |= match self.set_routes(&found).await {
            Ok((is_changed, settled)) => {
                self.settled = settled;
                is_changed
            }
            Err(failure) => note::<Failure>(Err(failure.into()), &mut failures),
        };
        // Last: until now packets may have gone there.
        if self.goal.shrink == Shrink::Allowed {
            if !self.goal.devices.contains_key(&Slot::default()) {
                self.make_nobodys_key(&mut failures);
            }
            for slot in Slot::ALL.into_iter().filter(|slot| !self.goal.devices.contains_key(slot)) {
                changed |= note(self.retire(slot).await, &mut failures);
            }
        }
        self.finish(changed, failures)
    }

    fn refresh_goal(&mut self) {
        let now = unix_now();
        let stale = !self.reached || self.goal.valid_until.is_some_and(|until| until <= now);
        if stale {
            self.reached = false;
            self.goal = self.desired.goal(self.config.keepalive, now);
            self.paths.look_at(ends(&self.goal));
            let first = Slot::default();
            // Before anything is known, too, the device that is there gets its key.
            if self.goal.devices.is_empty() && first.is_of(self.keys.current.epoch) {
                self.goal.devices.insert(first, Device::default());
            }
            for (slot, device) in &mut self.goal.devices {
                let own = self.keys.iter().find(|key| slot.is_of(key.epoch));
                device.private_key = own.map(|key| key.private.clone());
                device.listen_port =
                    if self.config.listen_port == 0 { 0 } else { slot.port(self.config.listen_port) };
            }
        }
    }

    /// What the largest path takes, so that the device holds nobody up; routes say where it is less.
    fn mtu(&self) -> u32 {
        let sizes = self.paths.sizes();
        let largest = sizes.iter().map(|(end, size)| u32::from(inside(size.mtu, end.is_ipv4()))).max();
        // A device that takes less than this has no IPv6.
        self.config.mtu.unwrap_or_else(|| largest.unwrap_or(USUAL_MTU).max(SMALLEST.into()))
    }

    /// The MTU of the route to one of a peer's prefixes; 0 if it is the device's.
    fn mtu_of(&self, way: &Way, net: &IpNet) -> u32 {
        let end = self.goal.devices.get(&way.slot).and_then(|device| device.peers.get(&way.peer)?.endpoint);
        let size = end.and_then(|end| Some((end, *self.paths.sizes().get(&end.ip())?)));
        let Some((end, size)) = size else { return 0 };
        let inside = u32::from(inside(size.mtu, end.is_ipv4()));
        let inside = if net.addr().is_ipv6() { inside.max(SMALLEST.into()) } else { inside };
        if inside < self.mtu() { inside } else { 0 }
    }

    /// A device as it is.
    async fn read(&self, device: &str) -> Result<Observed, backend::Error> {
        self.plane.read(device, &self.link).await
    }

    async fn set_device(&self, slot: Slot, goal: &Device) -> Result<(Found, bool), Failure> {
        let name = self.config.device_of(slot);
        if goal.private_key.is_none() {
            return Err(Failure::NoKey(name));
        }
        let observed = match self.read(&name).await {
            Err(backend::Error::OtherKind(_)) => {
                self.delete_other(&name).await?;
                self.make(slot, &name).await?
            }
            Err(error) if error.is_absence() && self.plane.makes(slot) => self.make(slot, &name).await?,
            other => other?,
        };
        let ops = plan(goal, &observed.device, self.goal.shrink);
        ops.iter().for_each(|op| log(&name, op));
        self.plane.apply(&name, &ops).await?;
        let (index, was_down) = self.link.bring_up(&name, self.mtu()).await?;
        Ok((Found { index, observed }, was_down || !ops.is_empty()))
    }

    async fn make(&self, slot: Slot, name: &str) -> Result<Observed, Failure> {
        if self.plane.makes(slot) {
            self.plane.make(name, self.mtu(), &self.link).await?;
        }
        Ok(self.read(name).await?)
    }

    /// A device that the other backend has left. The two are never mixed, and its key may be this node's: it goes,
    /// and until there is another one, its prefixes are unreachable by their fallback routes.
    async fn delete_other(&self, name: &str) -> Result<(), Failure> {
        if !self.has_fallbacks {
            return Err(Failure::NoFallback(name.to_owned()));
        }
        tracing::warn!(device = name, backend = %self.plane.backend(), "is of the other backend, and is deleted");
        Ok(self.link.delete_tunnel(name).await?)
    }

    fn make_nobodys_key(&mut self, failures: &mut Vec<String>) {
        if self.nobodys.is_none() {
            match keys::generate(None) {
                Ok(key) => self.nobodys = Some(key.private),
                Err(error) => failures.push(error.to_string()),
            }
        }
    }

    /// A device that no tunnel is in: it forgets what it knows, or goes. True if there was anything to do.
    async fn retire(&self, slot: Slot) -> Result<bool, Failure> {
        let name = self.config.device_of(slot);
        if slot != Slot::default() {
            let was_there = self.link.delete(&name).await?;
            if was_there {
                tracing::info!(device = name, "a device is no longer needed, and is deleted");
            }
            return Ok(was_there);
        }
        let observed = match self.read(&name).await {
            Err(error) if error.is_absence() => return Ok(false),
            Err(backend::Error::OtherKind(_)) => return self.delete_other(&name).await.map(|()| true),
            other => other?,
        };
        let has_key = observed.device.private_key.is_some();
        let private_key = self.nobodys.clone().filter(|_| has_key);
        let nothing = Device { private_key, ..Device::default() };
        let ops = plan(&nothing, &observed.device, Shrink::Allowed);
        ops.iter().for_each(|op| log(&name, op));
        self.plane.apply(&name, &ops).await?;
        Ok(!ops.is_empty())
    }

    /// Leads each prefix into one of its tunnels. Says whether something had to be changed, and whether all packets
    /// take the best way now.
    async fn set_routes(&self, found: &BTreeMap<Slot, Found>) -> Result<(bool, bool), link::Error> {
        let now = unix_now();
        let existing = self.link.own_routes().await?;
        let slot_of = |index: u32| found.iter().find(|(_, of)| of.index == index).map(|(slot, _)| *slot);
        let is_open = |way: &Way| {
            let stats = found.get(&way.slot).and_then(|of| of.observed.stats.get(&way.peer));
            let last = stats.and_then(|stats| stats.last_handshake_unix);
            last.is_some_and(|last| now.saturating_sub(last) < SESSION_LIFE_SECONDS)
        };
        let (mut wanted, mut taken, mut settled) = (BTreeMap::new(), BTreeMap::new(), true);
        for (net, ways) in &self.goal.routes {
            let via = existing.iter().find_map(|(other, via)| match via {
                Via::Device(index, _) if other == net => slot_of(*index),
                _ => None,
            });
            // A device that does not answer at the moment is no way; what leads there now is left alone.
            let there: Vec<Way> = ways.iter().filter(|way| found.contains_key(&way.slot)).copied().collect();
            let way = choose(&there, via, is_open);
            settled &= way.as_ref() == ways.first();
            let target = match way.and_then(|way| Some((way, found.get(&way.slot)?))) {
                Some((way, device)) => Target::Device(device.index, self.mtu_of(&way, net)),
                None if ways.is_empty() => Target::Nowhere,
                None => Target::Unchanged,
            };
            wanted.insert(*net, target);
            if let Some((way, key)) = way.and_then(|way| Some((way, self.goal.names.get(&way.peer)?))) {
                taken.insert(key.node().to_owned(), way);
            }
        }
        let changed = self.link.set_routes(&wanted, self.goal.shrink).await?;
        self.tell.1.send_if_modified(|before| {
            let is_new = *before != taken;
            *before = taken;
            is_new
        });
        Ok((changed, settled))
    }

    fn finish(&mut self, changed: bool, failures: Vec<String>) -> Result<(), Problems> {
        if changed && self.reached {
            self.repairs = self.repairs.saturating_add(1);
            tracing::warn!(
                device = self.config.device,
                "device or routes had been changed, and are repaired"
            );
        }
        if failures != self.failures {
            for failure in &failures {
                tracing::warn!(device = self.config.device, "{failure}");
            }
        }
        self.failures = failures;
        if self.failures.is_empty() {
            self.reached = self.settled;
            self.retry_after = RETRY_FIRST.min(self.config.reconcile_every);
            let again = if self.settled { self.config.reconcile_every } else { LOOK_FOR_SESSION_EVERY };
            self.next = Instant::now() + again.min(self.config.reconcile_every);
        } else {
            self.reached = false;
            self.next = Instant::now() + self.retry_after;
            self.retry_after = (self.retry_after * 2).min(self.config.reconcile_every);
        }
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }

    fn problems(&self) -> Vec<String> {
        self.failures.iter().chain(&self.goal.problems).cloned().collect()
    }

    async fn preshared_keys(&self) -> BTreeMap<Way, PresharedKey> {
        let mut keys = BTreeMap::new();
        for slot in Slot::ALL {
            let Ok(observed) = self.read(&self.config.device_of(slot)).await else { continue };
            let peers = observed.device.peers.into_iter();
            keys.extend(peers.filter_map(|(peer, of)| Some((Way { slot, peer }, of.preshared_key?))));
        }
        keys
    }

    async fn status(&self) -> Status {
        let mut status = Status {
            device: self.config.device.clone(),
            backend: self.plane.backend(),
            public_key: Some(self.keys.current.public()),
            repairs: self.repairs,
            errors: self.problems(),
            ..Status::default()
        };
        let (mut names, paths) = (Vec::new(), self.paths.sizes());
        for slot in self.goal.devices.keys() {
            let name = self.config.device_of(*slot);
            match self.read(&name).await {
                Ok(observed) => {
                    if status.listen_port == 0 {
                        status.listen_port = observed.device.listen_port;
                    }
                    status.peers.extend(status::peers(&name, &observed, &self.goal, &paths));
                }
                Err(error) => {
                    let error = error.to_string();
                    if !status.errors.contains(&error) {
                        status.errors.insert(0, error);
                    }
                }
            }
            names.push(name);
        }
        status.peers.sort_by(|a, b| (&a.node, a.public_key).cmp(&(&b.node, b.public_key)));
        if !names.is_empty() {
            status.device = names.join(", ");
        }
        status
    }
}

/// Where the tunnels end.
fn ends(goal: &Goal) -> BTreeSet<IpAddr> {
    let peers = goal.devices.values().flat_map(|device| device.peers.values());
    peers.filter_map(|peer| Some(peer.endpoint?.ip())).collect()
}

fn note<E: std::fmt::Display>(result: Result<bool, E>, failures: &mut Vec<String>) -> bool {
    result.unwrap_or_else(|error| {
        failures.push(error.to_string());
        false
    })
}

fn log(device: &str, op: &Op) {
    match op {
        Op::SetPrivateKey(_) => tracing::info!(device, "setting the device's key"),
        Op::SetListenPort(port) => tracing::info!(device, port, "setting the device's port"),
        Op::AddPeer { key, peer } => {
            tracing::info!(device, peer = %key, endpoint = ?peer.endpoint, "adding a peer");
        }
        Op::UpdatePeer { key, .. } => tracing::debug!(device, peer = %key, "updating a peer"),
        Op::ShrinkAllowedIps { key, .. } => {
            tracing::info!(device, peer = %key, "taking prefixes from a peer")
        }
        Op::RemovePeer { key } => tracing::info!(device, peer = %key, "removing a peer"),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
