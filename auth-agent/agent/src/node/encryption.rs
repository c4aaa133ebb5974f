//! WireGuard between the nodes: whose key is proved, and where the device stands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use countersign_cluster::NodePublisher;
use countersign_wg_manager::{
    BackendChoice, Desired, KeyRing, Manager, OwnKey, OwnKeys, OwnNode, RemoteNode, Slot, Way,
};
use countersign_wg_proto::{
    ANNOTATION, ANNOTATION_NEXT, Agreements, AttestedKey, PresharedKey, TunnelId, announce,
};
use ipnet::IpNet;
use tokio::task::JoinHandle;

use super::Node;
use super::rotation::Rotating;
use crate::clock;
use crate::config::{Config, WireguardBackend};
use crate::limits;
use crate::state::StateFile;

/// The userspace data plane.
const DATA_PLANE: &str = "countersign-wg";

/// What this node knows of encryption.
pub(super) struct Encryption {
    pub(super) manager: Manager,
    /// This node's keys, as everything here was made for them.
    pub(super) own: OwnKeys,
    /// Who has come along with whose new key.
    pub(super) rotation: Rotating,
    publisher: NodePublisher,
    pub(super) keys: KeyRing,
    epochs: Epochs,
    /// The preshared keys.
    pub(super) agreements: Agreements,
    /// Those that the devices had when this process began, until it is known whose they are.
    found: BTreeMap<Way, PresharedKey>,
    /// The other nodes' keys were looked at once. Before that, what is in the devices is more than is known here.
    judged: bool,
    /// Why a node's key is not accepted.
    pub(super) refusals: BTreeMap<String, String>,
    /// How often the manager was told.
    revision: u64,
    /// Something changed since the peers were set.
    pub(super) dirty: bool,
    /// This node's key is announced with its present SVID.
    pub(super) announced: bool,
    /// When announcing it was last tried: a directory that cannot be written is not tried at every turn.
    attempted: Option<Instant>,
    /// The names of all devices that there may be.
    pub(super) devices: [(Slot, String); 4],
    /// Devices that are being watched, and their index. No tunnel is in another one.
    pub(super) watched: BTreeMap<Slot, u32>,
}

impl Encryption {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let settings = countersign_wg_manager::Config {
            device: config.wireguard_device.clone(),
            listen_port: config.wireguard_port,
            backend: match config.wireguard_backend {
                WireguardBackend::Auto => BackendChoice::Auto,
                WireguardBackend::Kernel => BackendChoice::Kernel,
                WireguardBackend::Userspace => BackendChoice::Userspace,
            },
            program: data_plane(config),
            run_dir: config.run_dir.clone(),
            ..countersign_wg_manager::Config::default()
        };
        let devices = Slot::ALL.map(|slot| (slot, settings.device_of(slot)));
        let manager = Manager::new(settings).await.context("the WireGuard manager")?;
        let own = manager.keys();
        let mut keys = KeyRing::new(own.current.public_key);
        keys.set_own(own.iter().map(|key| key.public_key));
        let epochs = Epochs::restore(StateFile::new(&config.run_dir, "wireguard-epochs.json"), &mut keys);
        Ok(Self {
            keys,
            epochs,
            agreements: Agreements::new(
                &config.node_name,
                u64::try_from(config.preshared_key_life.as_nanos()).unwrap_or(u64::MAX),
            ),
            // A device that is not there yet has none.
            found: manager.preshared_keys().await.unwrap_or_default(),
            judged: false,
            publisher: NodePublisher::new(&config.status_dir, &config.node_name).context("--node-name")?,
            own,
            rotation: Rotating::new(config),
            manager,
            refusals: BTreeMap::new(),
            revision: 0,
            dirty: false,
            announced: false,
            attempted: None,
            devices,
            watched: BTreeMap::new(),
        })
    }
}

/// The program that makes devices: the one that was installed with this one.
fn data_plane(config: &Config) -> PathBuf {
    config.wireguard_program.clone().unwrap_or_else(|| {
        let own = std::env::current_exe().ok();
        let beside = own.and_then(|own| Some(own.parent()?.join(DATA_PLANE))).filter(|path| path.is_file());
        beside.unwrap_or_else(|| PathBuf::from(DATA_PLANE))
    })
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
    /// Every key of ours with every key of a node's: which tunnels may be. Those of the latest keys are asked for.
    fn know_tunnels(&mut self) {
        let mut tunnels = BTreeMap::new();
        let nodes: BTreeSet<&str> = self.keys.iter().map(|key| key.node()).collect();
        for key in nodes.iter().flat_map(|node| self.keys.of_node(node)) {
            let is_latest = self.keys.next(key.node()).is_none_or(|next| next.epoch() == key.epoch());
            for own in self.own.iter() {
                let is_ours = self.own.next.is_none_or(|next| next == own);
                let tunnel = tunnel_of(&own, key);
                tunnels.insert(tunnel, (is_latest && is_ours, Slot::of(own.epoch, key.epoch())));
            }
        }
        self.agreements.set_tunnels(&tunnels.iter().map(|(of, (wanted, _))| (of.clone(), *wanted)).collect());
        let mut found = std::mem::take(&mut self.found);
        for (tunnel, (_, slot)) in &tunnels {
            if let Some(preshared) = found.remove(&Way { slot: *slot, peer: tunnel.peer }) {
                self.agreements.restore(tunnel, preshared, clock::boot_ns());
            }
        }
        self.judged = true;
    }

    /// Why nothing goes to a node, or goes under a key that it may have changed since.
    pub(super) fn troubles(&self) -> BTreeMap<String, String> {
        let mut troubles = self.refusals.clone();
        let agreed = self.agreements.nodes();
        for key in self.keys.iter().filter(|key| !agreed.contains(key.node())) {
            let why = self.agreements.last_error(key.node()).unwrap_or("it is being asked");
            let trouble = || format!("no preshared key is agreed on: {why}");
            troubles.entry(key.node().to_owned()).or_insert_with(trouble);
        }
        troubles
    }

    /// A node's key is proved, and a preshared key is agreed on.
    pub(super) fn is_reachable(&self, node: &str) -> bool {
        self.keys.get(node).is_some() && self.agreements.nodes().contains(node)
    }

    /// This node has other keys than before: they are to be announced, and tunnels to be made.
    pub(super) fn keys_changed(&mut self) {
        self.announced = false;
        self.attempted = None;
        self.dirty = true;
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
        self.rotate_due();
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
        self.tell_moved();
    }

    fn announce_key(&mut self) {
        let Some(svid) = self.svids.node_svid().cloned() else { return };
        self.encryption.attempted = Some(Instant::now());
        let OwnKeys { current, next } = self.encryption.own;
        let announced = |key: OwnKey| announce(&svid, &self.config.node_name, key.public_key, key.epoch);
        let texts = announced(current).and_then(|text| Ok((text, next.map(announced).transpose()?)));
        let (text, next) = match texts {
            Ok(texts) => texts,
            Err(error) => return tracing::error!(%error, "this node's WireGuard key could not be announced"),
        };
        let annotations =
            BTreeMap::from([(ANNOTATION.to_owned(), Some(text)), (ANNOTATION_NEXT.to_owned(), next)]);
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
            let next = node.annotations.get(ANNOTATION_NEXT);
            let accepted = self.encryption.keys.accept(name, text, &bundle, now).map(drop);
            let accepted = accepted.and_then(|()| match next {
                Some(next) => self.encryption.keys.accept_next(name, next, &bundle, now),
                None => Ok(()),
            });
            match accepted {
                Ok(()) => drop(self.encryption.refusals.remove(name)),
                Err(refusal) => {
                    tracing::warn!(node = %name, %refusal, "a WireGuard key is refused; without another one the node's pods are unreachable");
                    self.encryption.refusals.insert(name.clone(), refusal.to_string());
                }
            }
        }
        self.encryption.epochs.save(&self.encryption.keys);
        self.encryption.know_tunnels();
        self.tell_manager();
    }

    /// The device is to be as everything is known now. The task ends when it is, or when it will be as soon as it
    /// can be reached: the manager tries on.
    pub(super) fn tell_manager(&mut self) -> JoinHandle<()> {
        self.encryption.revision += 1;
        let desired = self.desired();
        let manager = self.encryption.manager.clone();
        tokio::spawn(async move {
            if let Err(error) = manager.set_peers(desired).await {
                tracing::debug!(%error, "not all of WireGuard is as it should be; the manager tries on");
            }
        })
    }

    fn desired(&self) -> Desired {
        let (complete, revision) = (self.world.synced && self.encryption.judged, self.encryption.revision);
        let mut desired = Desired { complete, revision, ..Desired::default() };
        for (name, node) in &self.world.nodes {
            let pod_cidrs: BTreeSet<IpNet> = node.pod_cidrs.iter().copied().collect();
            let addresses = node.internal_ips.iter().copied().collect();
            if *name == self.config.node_name {
                desired.own = OwnNode { name: name.clone(), pod_cidrs, addresses };
                continue;
            }
            let tunnels = self.tunnels_to(name, node.internal_ips.first().copied(), &pod_cidrs);
            if tunnels.is_empty() {
                desired.unproved.insert(name.clone(), pod_cidrs);
            }
            desired.nodes.extend(tunnels);
        }
        desired.slots = self.encryption.slots();
        desired
    }

    /// The tunnels to a node that there is a preshared key for, those of the latest keys first.
    fn tunnels_to(&self, name: &str, ip: Option<IpAddr>, pod_cidrs: &BTreeSet<IpNet>) -> Vec<RemoteNode> {
        let mut tunnels = Vec::new();
        let own = || self.encryption.own.iter();
        for (key, own) in self.encryption.keys.of_node(name).flat_map(|key| own().map(move |own| (key, own)))
        {
            let slot = Slot::of(own.epoch, key.epoch());
            let preshared = self.encryption.agreements.key(&tunnel_of(&own, key));
            let (Some(ip), Some(preshared), true) =
                (ip, preshared, self.encryption.watched.contains_key(&slot))
            else {
                continue;
            };
            let tunnel = RemoteNode {
                key: key.clone(),
                slot,
                endpoint: SocketAddr::new(ip, slot.mirrored().port(self.config.wireguard_port)),
                pod_cidrs: pod_cidrs.clone(),
                // The nodes' own traffic goes outside of the tunnel.
                addresses: BTreeSet::new(),
                preshared_key: Some(preshared.key.clone()),
            };
            tunnels.push((own.epoch.saturating_add(key.epoch()), tunnel));
        }
        tunnels.sort_by_key(|(epochs, _)| std::cmp::Reverse(*epochs));
        tunnels.into_iter().map(|(_, tunnel)| tunnel).collect()
    }
}

impl Encryption {
    /// The devices for the tunnels that there are or are to be, and those whose tunnels are not known to be nobody's.
    /// The first one serves who has nobody yet.
    pub(super) fn slots(&self) -> BTreeSet<Slot> {
        let mut slots: BTreeSet<Slot> =
            self.agreements.needed().filter_map(|tunnel| self.slot_of(tunnel)).collect();
        slots.extend(self.found.keys().map(|way| way.slot));
        if slots.is_empty() {
            slots.insert(Slot::of(self.own.current.epoch, 0));
        }
        slots
    }

    /// The device of a tunnel; none if one of the keys is no longer good.
    pub(super) fn slot_of(&self, tunnel: &TunnelId) -> Option<Slot> {
        let own = self.own.iter().find(|own| own.public_key == tunnel.own)?;
        let key = self.keys.of_node(&tunnel.node).find(|key| *key.public_key() == tunnel.peer)?;
        Some(Slot::of(own.epoch, key.epoch()))
    }
}

/// The tunnel between a key of this node and one of another's.
pub(super) fn tunnel_of(own: &OwnKey, key: &AttestedKey) -> TunnelId {
    TunnelId { node: key.node().to_owned(), own: own.public_key, peer: *key.public_key() }
}

#[cfg(test)]
mod tests {
    use countersign_wg_proto::{PrivateKey, PublicKey};

    use super::*;

    #[test]
    fn epochs_are_saved_and_what_is_damaged_is_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = StateFile::new(dir.path(), "epochs.json");
        let key = |seed| -> PublicKey { PrivateKey::from_bytes([seed; 32]).public() };
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
