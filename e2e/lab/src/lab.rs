//! A lab as tests and benchmarks use it.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use countersign_agent_api::{EncryptStatus, IpcacheEntry, Request, Status};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::config::{AgentMode, LabConfig, LabOptions, Parking, write_atomically};
use crate::limits::{KILL_TIMEOUT, READY_TIMEOUT};
use crate::names::{LabName, PodKey};
use crate::ns::Space;
use crate::paths::Paths;
use crate::pod::PodState;
use crate::process::{Record, wait_until};
use crate::ps::LabView;
use crate::{agent, down, ps, up};

/// A lab that is up. One made by [`Lab::up`] is taken down when this is dropped, a panicking test included.
#[derive(Debug)]
pub struct Lab {
    config: LabConfig,
    guard: bool,
}

/// Somewhere in a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The wire between the nodes, where the world outside is, too.
    Wire,
    /// A node.
    Node(String),
    /// A pod.
    Pod(PodKey),
}

/// One node of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    lab: &'a Lab,
    number: u8,
}

impl Lab {
    /// Brings a lab up.
    ///
    /// # Errors
    /// See [`up::up`]; of a new lab, what was made until then is removed.
    pub fn up(options: &LabOptions) -> Result<Self> {
        let existed = up::exists(&options.name);
        match up::up(options) {
            Ok(config) => Ok(Self { config, guard: true }),
            Err(error) => {
                if !existed {
                    let _ = down::down(&options.name);
                }
                Err(error)
            }
        }
    }

    /// One that is up already, and stays up when this is dropped.
    ///
    /// # Errors
    /// Where there is none.
    pub fn attach(name: &LabName) -> Result<Self> {
        Ok(Self { config: LabConfig::load(name)?, guard: false })
    }

    /// Leaves it up when this is dropped.
    pub const fn keep(&mut self) {
        self.guard = false;
    }

    /// Takes it down.
    ///
    /// # Errors
    /// See [`down::down`].
    pub fn down(mut self) -> Result<()> {
        self.guard = false;
        down::down(&self.config.name).map(drop)
    }

    /// What it was asked to be.
    #[must_use]
    pub const fn config(&self) -> &LabConfig {
        &self.config
    }

    /// Its files.
    #[must_use]
    pub fn paths(&self) -> Paths {
        self.config.paths()
    }

    /// Its nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (1..=self.config.nodes).map(|number| Node { lab: self, number })
    }

    /// The node of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        let found = self.nodes().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name} in lab {}", self.config.name))
    }

    /// A node by its name, `wire`, or a pod as `namespace/name` (or a name alone in namespace `default`).
    ///
    /// # Errors
    /// Where there is no such thing in this lab.
    pub fn target(&self, text: &str) -> Result<Target> {
        if text == "wire" {
            return Ok(Target::Wire);
        }
        if self.node(text).is_ok() {
            return Ok(Target::Node(text.to_owned()));
        }
        let key = PodKey::parse(text);
        if PodState::load(&self.paths(), &key).is_none() {
            bail!(
                "{text} is neither a node nor a pod of lab {}; `countersign lab ps` lists them",
                self.config.name
            );
        }
        Ok(Target::Pod(key))
    }

    /// The namespaces of a target, open.
    ///
    /// # Errors
    /// Where they are gone.
    pub fn space(&self, target: &Target) -> Result<Space> {
        let name = &self.config.name;
        match target {
            Target::Wire => Space::net(&name.wire_netns()),
            Target::Node(node) => Space::net_and_mnt(&name.node_netns(node), &self.paths().node_mnt(node)),
            Target::Pod(key) => match self.pod(key)? {
                PodState { net: Some(net), .. } => Space::net(&net.netns),
                PodState { net: None, node, .. } => self.space(&Target::Node(node)),
            },
        }
    }

    /// Runs `work` in a thread inside; sockets it opens stay inside wherever they are used.
    ///
    /// # Errors
    /// Those of entering, and those of `work`.
    pub fn inside<T: Send>(&self, target: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.space(&self.target(target)?)?.run(work)
    }

    /// Starts a command inside.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(&self, target: &str, command: &mut Command) -> Result<Child> {
        let inherited = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{inherited}", self.config.bin_dir.display()));
        let program = command.get_program().to_string_lossy().into_owned();
        self.inside(target, || command.spawn().with_context(|| format!("run {program}")))
    }

    /// Runs a command inside and takes its output.
    ///
    /// # Errors
    /// Where it cannot be started; its failure is in the output's status.
    pub fn exec(&self, target: &str, words: &[&str]) -> Result<Output> {
        let mut command = command(words)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.spawn(target, &mut command)?.wait_with_output()?)
    }

    /// Runs a command inside, on this process's terminal.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn exec_here(&self, target: &str, words: &[&str]) -> Result<ExitStatus> {
        Ok(self.spawn(target, &mut command(words)?)?.wait()?)
    }

    /// Writes a file of manifests, whole at once. It takes effect within a second.
    ///
    /// # Errors
    /// Where the name is not a file name, or those of writing.
    pub fn apply(&self, file: &str, yaml: &str) -> Result<()> {
        write_atomically(&self.manifest(file)?, yaml.as_bytes())
    }

    /// Deletes a file of manifests; no error if it is gone.
    ///
    /// # Errors
    /// Those of deleting.
    pub fn delete(&self, file: &str) -> Result<()> {
        match fs::remove_file(self.manifest(file)?) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Waits until every pod of the manifests runs, or has run.
    ///
    /// # Errors
    /// Which do not in time.
    pub fn wait_pods(&self, at_most: Duration) -> Result<usize> {
        up::wait_pods(&self.config, at_most)
    }

    /// Waits until every agent knows the identity behind every pod's addresses, those of other nodes included,
    /// and has a key for every other node.
    ///
    /// # Errors
    /// Which node lacks what.
    pub fn wait_known(&self, at_most: Duration) -> Result<()> {
        let with_network = |pod: &PodState| pod.net.is_some();
        let wanted: BTreeSet<IpAddr> =
            self.pods().iter().filter(|p| with_network(p)).flat_map(PodState::ips).collect();
        for node in self.nodes().filter(|_| self.config.agent == AgentMode::Countersign) {
            let mut lacks = String::new();
            wait_until(at_most, || {
                lacks = node.lacks(&wanted).unwrap_or_else(|error| format!("{error:#}"));
                lacks.is_empty()
            });
            if !lacks.is_empty() {
                bail!("{} lacks {lacks}", node.name());
            }
        }
        Ok(())
    }

    /// Waits until a pod is gone.
    ///
    /// # Errors
    /// Where it is not in time.
    pub fn wait_gone(&self, pod: &str, at_most: Duration) -> Result<()> {
        let key = PodKey::parse(pod);
        if wait_until(at_most, || PodState::load(&self.paths(), &key).is_none()) {
            return Ok(());
        }
        bail!("pod {key} is still there")
    }

    /// All pods.
    #[must_use]
    pub fn pods(&self) -> Vec<PodState> {
        PodState::load_all(&self.paths())
    }

    /// One pod.
    ///
    /// # Errors
    /// Where there is none.
    pub fn pod(&self, key: &PodKey) -> Result<PodState> {
        PodState::load(&self.paths(), key).with_context(|| format!("there is no pod {key}"))
    }

    /// Everything, as `lab ps` shows it.
    #[must_use]
    pub fn view(&self) -> LabView {
        ps::view(&self.config)
    }

    /// Says how agents treat first packets from now on: they are started anew.
    ///
    /// # Errors
    /// Where one does not come back.
    pub fn set_parking(&mut self, parking: Parking) -> Result<()> {
        self.config.parking = parking;
        self.config.save()?;
        for node in self.nodes() {
            node.stop_agent(Signal::SIGTERM)?;
        }
        for node in self.nodes() {
            node.start_agent()?;
        }
        Ok(())
    }

    fn manifest(&self, file: &str) -> Result<PathBuf> {
        if file.contains('/') || file.starts_with('.') {
            bail!("{file:?} is not the name of a manifest");
        }
        Ok(self.paths().manifests().join(file))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.guard {
            return;
        }
        if let Err(error) = down::down(&self.config.name) {
            eprintln!("lab {} is not down: {error:#}", self.config.name);
        }
    }
}

impl Node<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// Its addresses.
    #[must_use]
    pub const fn addresses(&self) -> (std::net::Ipv4Addr, std::net::Ipv6Addr) {
        self.lab.config.plan().node(self.number)
    }

    /// Its agent's control socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.lab.paths().agent_socket(&self.name())
    }

    /// Its WireGuard's configuration socket.
    #[must_use]
    pub fn wireguard_socket(&self) -> PathBuf {
        self.lab.paths().node_wireguard(&self.name()).join("cs_wg0.sock")
    }

    /// Asks its agent for one value.
    ///
    /// # Errors
    /// Those of the control socket.
    pub fn ask<T: DeserializeOwned + Send>(&self, request: &Request) -> Result<T> {
        agent::call(&self.agent_socket(), request)
    }

    /// Asks its agent for a list.
    ///
    /// # Errors
    /// Those of the control socket.
    pub fn ask_list<T: DeserializeOwned + Send>(&self, request: &Request) -> Result<Vec<T>> {
        agent::list(&self.agent_socket(), request)
    }

    /// The process of its agent, if it runs.
    #[must_use]
    pub fn agent(&self) -> Option<Record> {
        self.process("agent")
    }

    /// The process of its WireGuard, if it runs.
    #[must_use]
    pub fn wireguard(&self) -> Option<Record> {
        self.process("wg")
    }

    /// Ends its agent, and keeps it down until [`Self::start_agent`].
    ///
    /// # Errors
    /// Where it does not end.
    pub fn stop_agent(&self, signal: Signal) -> Result<()> {
        fs::write(self.lab.paths().agent_hold(&self.name()), "")?;
        let Some(agent) = self.agent() else { return Ok(()) };
        let _ = agent.signal(signal);
        if !wait_until(KILL_TIMEOUT, || !agent.is_alive()) {
            let _ = agent.signal(Signal::SIGKILL);
        }
        if wait_until(KILL_TIMEOUT, || !agent.is_alive()) {
            return Ok(());
        }
        bail!("the agent of {} does not end", self.name())
    }

    /// Lets its agent run again and waits until it answers.
    ///
    /// # Errors
    /// Where it does not in time.
    pub fn start_agent(&self) -> Result<Status> {
        let hold = self.lab.paths().agent_hold(&self.name());
        match fs::remove_file(hold) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => up::wait_agent(&self.lab.paths(), &self.name(), READY_TIMEOUT),
        }
    }

    /// What keeps it from speaking to every pod of the lab; nothing where nothing does.
    fn lacks(&self, pods: &BTreeSet<IpAddr>) -> Result<String> {
        let known: Vec<IpcacheEntry> = self.ask_list(&Request::IpcacheList)?;
        let known: BTreeSet<IpAddr> = known.iter().filter(|e| e.identity != 0).map(|e| e.address).collect();
        let unknown: Vec<String> = pods.difference(&known).map(ToString::to_string).collect();
        if !unknown.is_empty() {
            return Ok(format!("the identities of {}", unknown.join(", ")));
        }
        let encrypt: EncryptStatus = self.ask(&Request::EncryptStatus)?;
        let keyed =
            encrypt.peers.iter().filter(|peer| peer.error.is_none() && !peer.public_key.is_empty()).count();
        let others = usize::from(self.lab.config.nodes) - 1;
        Ok(if keyed < others { format!("the keys of {} nodes", others - keyed) } else { String::new() })
    }

    fn process(&self, what: &str) -> Option<Record> {
        Record::load_alive(&self.lab.paths().processes().join(format!("{what}-{}.json", self.name())))
    }
}

fn command(words: &[&str]) -> Result<Command> {
    let (program, args) = words.split_first().context("no command given")?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}
