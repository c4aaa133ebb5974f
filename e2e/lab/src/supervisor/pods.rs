//! The pods of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use countersign_policy::objects::Pod;

use crate::config::{AgentMode, LabConfig};
use crate::limits::ENDPOINT_RETRY;
use crate::names::PodKey;
use crate::ns::Space;
use crate::pod::{Launch, Phase, PodState};
use crate::podnet::PodNet;
use crate::process::Running;
use crate::{ns, paths::Paths};

use super::addresses::Addresses;
use super::inbox::Inbox;
use super::registrar::{Registrar, Told};
use super::unit::{Host, Stage, Unit};

/// All pods of a node, and what the agent has yet to be told about ones that are gone.
pub(super) struct Pods {
    host: Host,
    node: String,
    host_ip: IpAddr,
    addresses: Addresses,
    registrar: Registrar,
    units: BTreeMap<PodKey, Unit>,
    /// Asked for, but there was no address.
    refused: BTreeMap<PodKey, (Launch, Instant)>,
    /// Known from a supervisor before us; nobody has asked for them yet.
    inherited: BTreeMap<PodKey, PodState>,
    /// Gone, but the agent has not heard of it.
    gone: BTreeMap<PodKey, Instant>,
}

impl Pods {
    pub(super) fn new(
        config: &LabConfig,
        number: u8,
        node: &str,
        space: Arc<Space>,
        inbox: Arc<Inbox>,
    ) -> Self {
        let paths = config.paths();
        let known = PodState::load_all(&paths).into_iter().filter(|state| state.node == node);
        let inherited: BTreeMap<_, _> = known.map(|state| (state.key.clone(), state)).collect();
        let mut addresses = Addresses::new(config.plan(), number);
        inherited.values().filter_map(|state| state.net.as_ref()).for_each(|net| addresses.hold(net.v4));
        let socket = (config.agent == AgentMode::Countersign).then(|| paths.agent_socket(node));
        Self {
            host: Host { config: config.clone(), paths, space },
            node: node.to_owned(),
            host_ip: config.plan().node(number).0.into(),
            addresses,
            registrar: Registrar::new(socket, inbox),
            units: BTreeMap::new(),
            refused: BTreeMap::new(),
            inherited,
            gone: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, pod: &Pod) {
        let key = PodKey::new(&pod.namespace, &pod.name);
        let launch = Launch::of(pod);
        if self.units.get(&key).is_some_and(|unit| unit.state.launch == launch) {
            return;
        }
        match self.inherited.remove(&key) {
            Some(state) if state.launch == launch && is_intact(&state) => {
                self.units.insert(key, Unit::adopt(&self.host, state));
            }
            inherited => {
                // A pod is never changed: what is to run something else is another pod of the same name.
                inherited
                    .map(|state| Unit::adopt(&self.host, state))
                    .into_iter()
                    .for_each(|unit| self.discard(unit));
                self.delete(&key);
                self.create(key, launch);
            }
        }
    }

    pub(super) fn delete(&mut self, key: &PodKey) {
        self.refused.remove(key);
        if let Some(unit) = self.units.remove(key) {
            self.discard(unit);
        }
    }

    /// Nobody has asked for what is still inherited now: its manifests went while no supervisor looked.
    pub(super) fn synced(&mut self) {
        for (_, state) in std::mem::take(&mut self.inherited) {
            let unit = Unit::adopt(&self.host, state);
            self.discard(unit);
        }
    }

    pub(super) fn tend(&mut self) {
        let now = Instant::now();
        let due: Vec<PodKey> =
            self.refused.iter().filter(|(_, (_, due))| *due <= now).map(|(k, _)| k.clone()).collect();
        for key in due {
            if let Some((launch, _)) = self.refused.remove(&key) {
                self.create(key, launch);
            }
        }
        for unit in self.units.values_mut() {
            unit.tend(&self.host);
        }
        self.tell_agent(now);
    }

    /// The agent has answered.
    pub(super) fn told(&mut self, told: Told) {
        self.registrar.answered();
        match told {
            Told::Added { key, uid, result } => self.added(&key, &uid, result),
            Told::Removed { key, result } => {
                if result.is_ok() {
                    self.gone.remove(&key);
                } else if let Some(due) = self.gone.get_mut(&key) {
                    *due = Instant::now() + ENDPOINT_RETRY;
                }
            }
        }
    }

    /// Commands that run.
    pub(super) fn running(&self) -> impl Iterator<Item = &Running> {
        self.units.values().filter_map(|unit| match &unit.stage {
            Stage::Running(running) => Some(running),
            Stage::Bare { .. }
            | Stage::Unregistered { .. }
            | Stage::Registering
            | Stage::Stopped { .. }
            | Stage::Done => None,
        })
    }

    /// How long nothing is to be done.
    pub(super) fn due(&self) -> Option<Duration> {
        let first = self.units.values().filter_map(Unit::due).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn create(&mut self, key: PodKey, launch: Launch) {
        match self.state(&key, &launch) {
            Ok(state) => {
                let mut unit = Unit::new(&self.host, state);
                unit.tend(&self.host);
                self.units.insert(key, unit);
            }
            Err(error) => {
                tracing::warn!(pod = %key, "cannot be made: {error:#}");
                self.refused.insert(key, (launch, Instant::now() + Duration::from_secs(1)));
            }
        }
    }

    fn state(&mut self, key: &PodKey, launch: &Launch) -> Result<PodState> {
        let uid =
            std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("a new UID")?.trim().to_owned();
        let lab = &self.host.config.name;
        let net = if launch.host_network {
            None
        } else {
            let addresses = self.addresses.take(launch.wanted_ip.as_deref())?;
            Some(PodNet::new(&uid, lab.pod_netns(key), lab.node_netns(&self.node), addresses))
        };
        Ok(PodState {
            key: key.clone(),
            node: self.node.clone(),
            uid,
            launch: launch.clone(),
            net,
            host_ip: self.host_ip,
            phase: Phase::Pending,
            registered: false,
            restarts: 0,
            ended: None,
            message: String::new(),
        })
    }

    fn discard(&mut self, mut unit: Unit) {
        let key = unit.state.key.clone();
        if let Err(error) = unit.remove(&self.host) {
            tracing::warn!(pod = %key, "not all of it could be removed: {error:#}");
        }
        if let Some(net) = &unit.state.net {
            self.addresses.release(net.v4);
            self.gone.insert(key.clone(), Instant::now());
        }
        PodState::forget(&self.host.paths, &key);
    }

    /// A new pod waits until the agent has let go of the one that had its name.
    fn tell_agent(&mut self, now: Instant) {
        for (key, due) in self.gone.iter_mut().filter(|(_, due)| **due <= now) {
            if self.registrar.remove(key) {
                // Asked; whether to ask again is known when it answers.
                *due = now + Duration::from_secs(60);
            }
        }
        let gone: BTreeSet<PodKey> = self.gone.keys().cloned().collect();
        for (key, unit) in self.units.iter_mut().filter(|(key, _)| !gone.contains(key)) {
            let Stage::Unregistered { due } = unit.stage else { continue };
            if due <= now && self.registrar.add(key, &unit.state) {
                unit.stage = Stage::Registering;
            }
        }
    }

    fn added(&mut self, key: &PodKey, uid: &str, result: Result<()>) {
        let Some(unit) = self.units.get_mut(key).filter(|unit| unit.state.uid == uid) else { return };
        match result {
            Ok(()) => unit.open(&self.host),
            Err(error) => unit.refused(&self.host, &error),
        }
    }
}

/// Whether what the state speaks of is still there (it is not after a reboot).
fn is_intact(state: &PodState) -> bool {
    state.net.as_ref().is_none_or(|net| {
        ns::is_namespace(&Paths::netns(&net.netns)) && crate::ip::link_exists(&net.node_netns, &net.interface)
    })
}
