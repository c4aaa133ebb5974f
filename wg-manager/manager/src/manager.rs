//! The task that owns the device, and the handle to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_wg_proto::{Desired, Goal, Op, PresharedKey, PublicKey, plan};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::keys::{self, NodeKey};
use crate::limits::{COMMANDS, KEEPALIVE_SECONDS, RECONCILE_EVERY, RETRY_FIRST};
use crate::link::{self, Link};
use crate::status::{self, Status};
use crate::uapi::{self, SOCKET_DIR, Uapi};

/// Settings of a [`Manager`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The device's name.
    pub device: String,
    /// UDP port of the device.
    pub listen_port: u16,
    /// Directory of the key file.
    pub run_dir: PathBuf,
    /// Directory of the device's UAPI socket.
    pub uapi_dir: PathBuf,
    /// MTU of the device: that of the underlay less 80 (60 with an IPv4 underlay).
    pub mtu: u32,
    /// Seconds between persistent keepalives to every peer; 0 switches them off, and then the first packet
    /// to a peer waits for the handshake.
    pub keepalive: u16,
    /// Time between comparisons of the device with what it should be.
    pub reconcile_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device: "cs_wg0".to_owned(),
            listen_port: 51871,
            run_dir: PathBuf::from("/run/countersign"),
            uapi_dir: PathBuf::from(SOCKET_DIR),
            mtu: 1420,
            keepalive: KEEPALIVE_SECONDS,
            reconcile_every: RECONCILE_EVERY,
        }
    }
}

/// Why a manager could not start, or was not there any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No private key.
    #[error(transparent)]
    Key(#[from] keys::Error),
    /// No netlink.
    #[error(transparent)]
    Link(#[from] link::Error),
    /// The manager's task has ended: the runtime is shutting down.
    #[error("the WireGuard manager has ended")]
    Ended,
    /// Something is not as wished. It is tried again by itself.
    #[error(transparent)]
    Problems(#[from] Problems),
}

/// What is not as wished, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Problems(pub Vec<String>);

/// A handle to the task that keeps the device right. The task ends with the last handle; the device, its
/// peers and routes stay as they are, so that traffic outlives the agent.
#[derive(Debug, Clone)]
pub struct Manager {
    commands: mpsc::Sender<Command>,
    public_key: PublicKey,
    epoch: u64,
}

#[derive(Debug)]
enum Command {
    SetPeers(Box<Desired>, oneshot::Sender<Result<(), Problems>>),
    Reconcile(oneshot::Sender<Result<(), Problems>>),
    Status(oneshot::Sender<Status>),
    PresharedKeys(oneshot::Sender<BTreeMap<PublicKey, PresharedKey>>),
}

impl Manager {
    /// Load (or make) the key, and begin to keep the device right. Must be called within a tokio runtime in
    /// the network namespace of the device. The data plane need not be there yet.
    pub async fn new(config: Config) -> Result<Self, Error> {
        let path = config.run_dir.join("wireguard.key");
        let key = tokio::task::spawn_blocking(move || keys::load_or_create(&path));
        let key = key.await.map_err(|_| Error::Ended)??;
        let link = Link::new(&config.device, config.mtu)?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let manager = Self { commands, public_key: key.public(), epoch: key.epoch };
        tracing::info!(device = config.device, public_key = %manager.public_key, "WireGuard manager starts");
        tokio::spawn(Keeper::new(config, key, link).run(inbox));
        Ok(manager)
    }

    /// This node's public key, to be announced.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The epoch of this node's key, to be announced with it.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// This is what is known about the cluster now. Returns when it was carried out, or with what could not
    /// be; that is tried again until it can.
    pub async fn set_peers(&self, desired: Desired) -> Result<(), Error> {
        Ok(self.ask(|reply| Command::SetPeers(Box::new(desired), reply)).await??)
    }

    /// Compare and repair at once, rather than at the next turn.
    pub async fn reconcile(&self) -> Result<(), Error> {
        Ok(self.ask(Command::Reconcile).await??)
    }

    /// The preshared keys that the device has; none while it does not answer.
    pub async fn preshared_keys(&self) -> Result<BTreeMap<PublicKey, PresharedKey>, Error> {
        self.ask(Command::PresharedKeys).await
    }

    /// The device as it is now.
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Command::Status).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }
}

/// The state of the task.
struct Keeper {
    config: Config,
    key: NodeKey,
    uapi: Uapi,
    link: Link,
    desired: Desired,
    goal: Goal,
    /// What the last turn could not do.
    failures: Vec<String>,
    repairs: u64,
    /// The goal was reached once: whatever is to be done now is a repair.
    reached: bool,
    retry_after: Duration,
    next: Instant,
}

impl Keeper {
    fn new(config: Config, key: NodeKey, link: Link) -> Self {
        let desired = Desired::default();
        Self {
            uapi: Uapi::new(&config.uapi_dir, &config.device),
            goal: desired.goal(config.keepalive, unix_now()),
            config,
            key,
            link,
            desired,
            failures: Vec::new(),
            repairs: 0,
            reached: false,
            retry_after: RETRY_FIRST,
            next: Instant::now(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.obey_all(command, &mut inbox).await,
                    None => return,
                },
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
                    self.desired = *desired;
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
                self.desired = *desired;
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
        }
    }

    /// One comparison, and what follows from it.
    async fn turn(&mut self) -> Result<(), Problems> {
        self.refresh_goal();
        let mut failures = Vec::new();
        // The fallback routes come first: they must be there also when the data plane is not.
        let mut changed = note(self.link.set_fallbacks(&self.goal.routes).await, &mut failures);
        let device = self.set_device().await;
        let device_answers = device.is_ok();
        changed |= note(device, &mut failures);
        if device_answers {
            let shrink = self.goal.shrink;
            changed |= note(self.link.set_device_routes(&self.goal.routes, shrink).await, &mut failures);
        }
        self.finish(changed, failures)
    }

    fn refresh_goal(&mut self) {
        let now = unix_now();
        let stale = !self.reached || self.goal.valid_until.is_some_and(|until| until <= now);
        if stale {
            self.reached = false;
            self.goal = self.desired.goal(self.config.keepalive, now);
            self.goal.device.private_key = Some(self.key.private.clone());
            self.goal.device.listen_port = self.config.listen_port;
        }
    }

    async fn set_device(&self) -> Result<bool, uapi::Error> {
        let observed = self.uapi.get().await?;
        let ops = plan(&self.goal.device, &observed.device, self.goal.shrink);
        if ops.is_empty() {
            return Ok(false);
        }
        for op in &ops {
            log(op);
        }
        self.uapi.apply(&ops).await?;
        Ok(true)
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
            self.reached = true;
            self.retry_after = RETRY_FIRST.min(self.config.reconcile_every);
            self.next = Instant::now() + self.config.reconcile_every;
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

    async fn preshared_keys(&self) -> BTreeMap<PublicKey, PresharedKey> {
        let Ok(observed) = self.uapi.get().await else { return BTreeMap::new() };
        let peers = observed.device.peers.into_iter();
        peers.filter_map(|(key, peer)| Some((key, peer.preshared_key?))).collect()
    }

    async fn status(&self) -> Status {
        let mut status = Status {
            device: self.config.device.clone(),
            backend: "userspace",
            public_key: Some(self.key.public()),
            repairs: self.repairs,
            errors: self.problems(),
            ..Status::default()
        };
        match self.uapi.get().await {
            Ok(observed) => {
                status.listen_port = observed.device.listen_port;
                status.peers = status::peers(&observed, &self.goal);
            }
            Err(error) => {
                let error = error.to_string();
                if !status.errors.contains(&error) {
                    status.errors.insert(0, error);
                }
            }
        }
        status
    }
}

fn note<E: std::fmt::Display>(result: Result<bool, E>, failures: &mut Vec<String>) -> bool {
    result.unwrap_or_else(|error| {
        failures.push(error.to_string());
        false
    })
}

fn log(op: &Op) {
    match op {
        Op::SetPrivateKey(_) => tracing::info!("setting the device's key"),
        Op::SetListenPort(port) => tracing::info!(port, "setting the device's port"),
        Op::AddPeer { key, peer } => tracing::info!(peer = %key, endpoint = ?peer.endpoint, "adding a peer"),
        Op::UpdatePeer { key, .. } => tracing::debug!(peer = %key, "updating a peer"),
        Op::ShrinkAllowedIps { key, .. } => tracing::info!(peer = %key, "taking prefixes from a peer"),
        Op::RemovePeer { key } => tracing::info!(peer = %key, "removing a peer"),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
