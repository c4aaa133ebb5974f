//! The handle to the task that owns the devices.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use countersign_wg_proto::{Desired, PresharedKey, PublicKey, Slot, Way};
use tokio::sync::{mpsc, oneshot, watch};

use crate::backend::{self, BackendChoice, Plane};
use crate::keeper::{Command, Keeper};
use crate::keys::{self, NodeKeys};
use crate::limits::{COMMANDS, KEEPALIVE_SECONDS, RECONCILE_EVERY};
use crate::link::{self, Link};
use crate::paths::Paths;
use crate::status::Status;
use crate::uapi::SOCKET_DIR;

/// Settings of a [`Manager`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The first device's name. In userspace it is there without the manager's doing. The others, which are needed
    /// while somebody changes keys, and are made and deleted, have its name with another number at the end.
    pub device: String,
    /// UDP port of the first device; the others have the three ports after it.
    pub listen_port: u16,
    /// What is to carry the packets.
    pub backend: BackendChoice,
    /// The program that makes a device in userspace.
    pub program: PathBuf,
    /// Directory of the key file.
    pub run_dir: PathBuf,
    /// Directory of the device's UAPI socket.
    pub uapi_dir: PathBuf,
    /// MTU of the devices; `None`: what the paths to the other nodes take, less what WireGuard puts around.
    pub mtu: Option<u32>,
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
            backend: BackendChoice::Auto,
            program: PathBuf::from("countersign-wg"),
            run_dir: PathBuf::from("/run/countersign"),
            uapi_dir: PathBuf::from(SOCKET_DIR),
            mtu: None,
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
    /// The kernel's WireGuard is asked for, and there is none.
    #[error("this kernel has no WireGuard, neither built in nor as a module that it can load")]
    NoKernelWireGuard,
    /// It cannot be found out what there is.
    #[error("looking for WireGuard devices: {0}")]
    Backend(String),
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
    keys: watch::Receiver<OwnKeys>,
    ways: watch::Receiver<BTreeMap<String, Way>>,
}

/// A key of this node, as it is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnKey {
    /// The public half.
    pub public_key: PublicKey,
    /// Its epoch.
    pub epoch: u64,
}

/// The keys of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnKeys {
    /// The one it has.
    pub current: OwnKey,
    /// What takes its place, while it changes keys.
    pub next: Option<OwnKey>,
}

impl OwnKeys {
    /// All of them, the latest first.
    pub fn iter(&self) -> impl Iterator<Item = OwnKey> + use<> {
        self.next.into_iter().chain([self.current])
    }

    pub(crate) fn of(keys: &NodeKeys) -> Self {
        let own = |key: &keys::NodeKey| OwnKey { public_key: key.public(), epoch: key.epoch };
        Self { current: own(&keys.current), next: keys.next.as_ref().map(own) }
    }
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        Self::Backend(error.to_string())
    }
}

impl Manager {
    /// Load (or make) the key, and begin to keep the device right. Must be called within a tokio runtime in
    /// the network namespace of the device. The data plane need not be there yet.
    pub async fn new(config: Config) -> Result<Self, Error> {
        let directory = config.run_dir.clone();
        let keys = tokio::task::spawn_blocking(move || NodeKeys::open(&directory));
        let keys = keys.await.map_err(|_| Error::Ended)??;
        let link = Link::new()?;
        let paths = Paths::new(Link::new()?);
        let plane = Plane::choose(&config, &link).await?.ok_or(Error::NoKernelWireGuard)?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (tell_keys, own) = watch::channel(OwnKeys::of(&keys));
        let (tell_ways, ways) = watch::channel(BTreeMap::new());
        let manager = Self { commands, keys: own, ways };
        let backend = plane.backend();
        tracing::info!(device = config.device, %backend, public_key = %manager.public_key(), "WireGuard manager starts");
        tokio::spawn(Keeper::new(config, keys, (link, plane, paths), (tell_keys, tell_ways)).run(inbox));
        Ok(manager)
    }

    /// This node's public key, to be announced.
    pub fn public_key(&self) -> PublicKey {
        self.keys().current.public_key
    }

    /// The epoch of this node's key, to be announced with it.
    pub fn epoch(&self) -> u64 {
        self.keys().current.epoch
    }

    /// This node's key and, while it changes keys, the next one.
    pub fn keys(&self) -> OwnKeys {
        *self.keys.borrow()
    }

    /// Make a next key, beside the one that is; nothing is changed if there is one.
    pub async fn begin_rotation(&self) -> Result<OwnKeys, Error> {
        Ok(self.ask(Command::BeginRotation).await??)
    }

    /// The next key becomes the node's only one. The old one is forgotten.
    pub async fn end_old_key(&self) -> Result<OwnKeys, Error> {
        Ok(self.ask(Command::EndOldKey).await??)
    }

    /// By which tunnel packets go to each node.
    pub fn ways(&self) -> BTreeMap<String, Way> {
        self.ways.borrow().clone()
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

    /// The preshared keys that the devices have; none of those that do not answer.
    pub async fn preshared_keys(&self) -> Result<BTreeMap<Way, PresharedKey>, Error> {
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

impl Config {
    /// The name of a device.
    pub fn device_of(&self, slot: Slot) -> String {
        if slot == Slot::default() {
            return self.device.clone();
        }
        let stem = self.device.strip_suffix('0').unwrap_or(&self.device);
        format!("{stem}{}", slot.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_of_their_own() {
        let names = |device: &str| {
            let config = Config { device: device.to_owned(), ..Config::default() };
            Slot::ALL.map(|slot| config.device_of(slot))
        };
        assert_eq!(names("cs_wg0"), ["cs_wg0", "cs_wg1", "cs_wg2", "cs_wg3"]);
        assert_eq!(names("tunnel"), ["tunnel", "tunnel1", "tunnel2", "tunnel3"]);
    }
}
