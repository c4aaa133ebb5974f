//! WireGuard between the nodes: whose key is proved, and where the device stands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use countersign_cluster::NodePublisher;
use countersign_wg_manager::{Desired, KeyRing, Manager, OwnNode, RemoteNode};
use countersign_wg_proto::{ANNOTATION, Agreements, PresharedKey, PublicKey, announce};
use ipnet::IpNet;
use tokio::task::JoinHandle;

use super::Node;
use crate::clock;
use crate::config::Config;
use crate::limits;
use crate::state::StateFile;

/// What this node knows of encryption.
pub(super) struct Encryption {
    pub(super) manager: Manager,
    publisher: NodePublisher,
    pub(super) keys: KeyRing,
    epochs: Epochs,
    /// The preshared keys.
    pub(super) agreements: Agreements,
    /// Those that the device had when this process began, until their nodes are known.
    found: BTreeMap<PublicKey, PresharedKey>,
    /// Why a node's key is not accepted.
    pub(super) refusals: BTreeMap<String, String>,
    /// Something changed since the peers were set.
    pub(super) dirty: bool,
    /// This node's key is announced with its present SVID.
    pub(super) announced: bool,
    /// When announcing it was last tried: a directory that cannot be written is not tried at every turn.
    attempted: Option<Instant>,
    /// Index of the device that is being watched.
    pub(super) watched: u32,
}

impl Encryption {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let manager = Manager::new(countersign_wg_manager::Config {
            device: config.wireguard_device.clone(),
            listen_port: config.wireguard_port,
            run_dir: config.run_dir.clone(),
            ..countersign_wg_manager::Config::default()
        })
        .await
        .context("the WireGuard manager")?;
        let mut keys = KeyRing::new(manager.public_key());
        let epochs = Epochs::restore(StateFile::new(&config.run_dir, "wireguard-epochs.json"), &mut keys);
        Ok(Self {
            keys,
            epochs,
            agreements: Agreements::new(&config.node_name),
            // A device that is not there yet has none.
            found: manager.preshared_keys().await.unwrap_or_default(),
            publisher: NodePublisher::new(&config.status_dir, &config.node_name).context("--node-name")?,
            manager,
            refusals: BTreeMap::new(),
            dirty: false,
            announced: false,
            attempted: None,
            watched: 0,
        })
    }
}

/// The last accepted epochs of the other nodes' keys, as they are in the run directory: an older announcement is a
/// replay, also for the agent that comes after this one.
struct Epochs {
    file: StateFile,
    saved: BTreeMap<String, (u64, String)>,
}

impl Epochs {
    fn restore(file: StateFile, keys: &mut KeyRing) -> Self {
        let saved: BTreeMap<String, (u64, String)> = file.load().unwrap_or_default();
        keys.restore(saved.iter().filter_map(|(node, (epoch, key))| match key.parse() {
            Ok(key) => Some((node.clone(), *epoch, key)),
            Err(error) => {
                tracing::warn!(%node, %error, "a saved epoch has no key: older announcements of it are believed");
                None
            }
        }));
        Self { file, saved }
    }

    fn save(&mut self, keys: &KeyRing) {
        let now: BTreeMap<String, (u64, String)> =
            keys.last().map(|(node, epoch, key)| (node.to_owned(), (epoch, key.to_string()))).collect();
        if now == self.saved {
            return;
        }
        match self.file.save(&now) {
            Ok(()) => self.saved = now,
            Err(error) => {
                tracing::warn!(%error, "epochs of WireGuard keys not saved: a restart may believe older ones");
            }
        }
    }
}

impl Encryption {
    /// The nodes whose keys are proved are those to agree with.
    fn know_peers(&mut self) {
        let keys = self.keys.iter().map(|key| (key.node().to_owned(), *key.public_key()));
        self.agreements.set_peers(&keys.collect());
        for key in self.keys.iter() {
            if let Some(preshared) = self.found.remove(key.public_key()) {
                self.agreements.restore(key.node(), preshared, clock::boot_ns());
            }
        }
    }

    /// Why nothing goes to a node.
    pub(super) fn troubles(&self) -> BTreeMap<String, String> {
        let mut troubles = self.refusals.clone();
        for key in self.keys.iter().filter(|key| self.agreements.key(key.node()).is_none()) {
            let why = self.agreements.last_error(key.node()).unwrap_or("it is being asked");
            let trouble = || format!("no preshared key is agreed on: {why}");
            troubles.entry(key.node().to_owned()).or_insert_with(trouble);
        }
        troubles
    }

    /// The announcement is to be signed with a new SVID.
    pub(super) fn renew_announcement(&mut self) {
        self.announced = false;
        self.attempted = None;
        self.agreements.renew_all(clock::boot_ns());
    }
}

impl Node {
    /// Announces this node's key and sets the peers, where something changed or has not worked yet.
    pub(super) fn refresh_encryption(&mut self) {
        if !self.encryption.keys.expire(clock::unix()).is_empty() {
            self.encryption.dirty = true;
        }
        let late = self.encryption.attempted.is_none_or(|at| at.elapsed() >= limits::ENCRYPTION_RETRY);
        if !self.encryption.announced && late {
            self.announce_key();
        }
        if self.encryption.dirty && self.world.synced && self.svids.bundle().is_some() {
            self.encryption.dirty = false;
            self.set_peers();
        }
        self.agree_due();
    }

    fn announce_key(&mut self) {
        let Some(svid) = self.svids.node_svid().cloned() else { return };
        self.encryption.attempted = Some(Instant::now());
        let (key, epoch) = (self.encryption.manager.public_key(), self.encryption.manager.epoch());
        let text = match announce(&svid, &self.config.node_name, key, epoch) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, "this node's WireGuard key could not be announced"),
        };
        let annotations = BTreeMap::from([(ANNOTATION.to_owned(), Some(text))]);
        match self.encryption.publisher.annotate(&annotations) {
            Ok(()) => self.encryption.announced = true,
            Err(error) => {
                tracing::warn!(%error, "this node's WireGuard key could not be published; trying again")
            }
        }
    }

    /// Accepts what proves itself, and tells the manager who the peers are.
    fn set_peers(&mut self) {
        let (Some(bundle), now) = (self.svids.bundle().cloned(), clock::unix()) else { return };
        let names: Vec<String> = self.world.nodes.keys().cloned().collect();
        let gone: Vec<String> = self.encryption.keys.iter().map(|key| key.node().to_owned()).collect();
        for name in gone.iter().filter(|name| !self.world.nodes.contains_key(*name)) {
            self.encryption.keys.remove(name);
        }
        self.encryption.refusals.retain(|name, _| self.world.nodes.contains_key(name));
        for name in names.iter().filter(|name| **name != self.config.node_name) {
            let Some(node) = self.world.nodes.get(name) else { continue };
            let Some(text) = node.annotations.get(ANNOTATION) else {
                self.encryption.refusals.insert(name.clone(), "it has not announced a key yet".to_owned());
                continue;
            };
            match self.encryption.keys.accept(name, text, &bundle, now) {
                Ok(_) => drop(self.encryption.refusals.remove(name)),
                Err(refusal) => {
                    tracing::warn!(node = %name, %refusal, "a WireGuard key is refused; the node's pods are unreachable");
                    self.encryption.refusals.insert(name.clone(), refusal.to_string());
                }
            }
        }
        self.encryption.epochs.save(&self.encryption.keys);
        self.encryption.know_peers();
        self.tell_manager();
    }

    /// The device is to be as everything is known now. The task ends when it is, or when it will be as soon as it
    /// can be reached: the manager tries on.
    pub(super) fn tell_manager(&self) -> JoinHandle<()> {
        let desired = self.desired();
        let manager = self.encryption.manager.clone();
        tokio::spawn(async move {
            if let Err(error) = manager.set_peers(desired).await {
                tracing::debug!(%error, "not all of WireGuard is as it should be; the manager tries on");
            }
        })
    }

    fn desired(&self) -> Desired {
        let mut desired = Desired { complete: self.world.synced, ..Desired::default() };
        for (name, node) in &self.world.nodes {
            let pod_cidrs: BTreeSet<IpNet> = node.pod_cidrs.iter().copied().collect();
            let addresses = node.internal_ips.iter().copied().collect();
            if *name == self.config.node_name {
                desired.own = OwnNode { name: name.clone(), pod_cidrs, addresses };
                continue;
            }
            let preshared = self.encryption.agreements.key(name);
            match (self.encryption.keys.get(name), node.internal_ips.first(), preshared) {
                (Some(key), Some(ip), Some(preshared)) => desired.nodes.push(RemoteNode {
                    key: key.clone(),
                    endpoint: SocketAddr::new(*ip, self.config.wireguard_port),
                    pod_cidrs,
                    // The nodes' own traffic goes outside of the tunnel.
                    addresses: BTreeSet::new(),
                    preshared_key: Some(preshared.key.clone()),
                }),
                _ => drop(desired.unproved.insert(name.clone(), pod_cidrs)),
            }
        }
        desired
    }
}

#[cfg(test)]
mod tests {
    use countersign_wg_proto::PrivateKey;

    use super::*;

    #[test]
    fn epochs_are_saved_and_what_is_damaged_is_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = StateFile::new(dir.path(), "epochs.json");
        let key = |seed| PrivateKey::from_bytes([seed; 32]).public();
        let mut keys = KeyRing::new(key(9));
        let mut epochs = Epochs::restore(file.clone(), &mut keys);
        keys.restore([("a".to_owned(), 5, key(1)), ("b".to_owned(), 6, key(2))]);
        epochs.save(&keys);
        let mut again = KeyRing::new(key(9));
        Epochs::restore(file.clone(), &mut again);
        assert_eq!(again.last().collect::<Vec<_>>(), [("a", 5, &key(1)), ("b", 6, &key(2))]);
        file.save(&BTreeMap::from([("a", (5, "no key")), ("b", (6, &*key(2).to_string()))])).expect("save");
        let mut third = KeyRing::new(key(9));
        Epochs::restore(file, &mut third);
        assert_eq!(third.last().collect::<Vec<_>>(), [("b", 6, &key(2))]);
    }
}
