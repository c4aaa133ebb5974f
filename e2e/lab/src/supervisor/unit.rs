//! One pod, from its network to its command.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, setgroups};

use crate::backoff::Backoff;
use crate::config::LabConfig;
use crate::limits::{BACKOFF_LAST, ENDPOINT_RETRY, POD_GRACE};
use crate::ns::Space;
use crate::paths::Paths;
use crate::pod::{Phase, PodState};
use crate::process::{Ended, MARK, Running};
use crate::scan;

/// Pause before a network that could not be made is tried again.
const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// How long a pod waits for its agent in silence.
const AGENT_PATIENCE: Duration = Duration::from_secs(2);

/// What all pods of a node share.
pub(super) struct Host {
    pub(super) config: LabConfig,
    pub(super) paths: Paths,
    /// The node's namespaces, for pods that use them.
    pub(super) space: Arc<Space>,
}

/// A pod and where it is on its way.
pub(super) struct Unit {
    pub(super) state: PodState,
    pub(super) stage: Stage,
    backoff: Backoff,
    made: Instant,
}

/// Each stage holds only what it needs.
pub(super) enum Stage {
    /// It has no network yet.
    Bare {
        /// When to try.
        due: Instant,
    },
    /// The agent has not taken its endpoint.
    Unregistered {
        /// When to ask (again).
        due: Instant,
    },
    /// The agent has been asked.
    Registering,
    /// Its command is to be started.
    Stopped {
        /// When.
        due: Instant,
    },
    /// Its command runs.
    Running(Running),
    /// Its command has ended for good.
    Done,
}

impl Host {
    fn mark(&self, unit: &Unit) -> String {
        format!("{}:pod-{}", self.config.name, unit.state.key.file_stem())
    }

    fn record(&self, unit: &Unit) -> std::path::PathBuf {
        PodState::process_file(&self.paths, &unit.state.key)
    }

    fn log(&self, unit: &Unit) -> std::path::PathBuf {
        self.paths.log(&unit.state.key.file_stem())
    }

    fn save(&self, unit: &Unit) {
        if let Err(error) = unit.state.save(&self.paths) {
            tracing::warn!(pod = %unit.state.key, "its status cannot be written: {error:#}");
        }
    }
}

impl Unit {
    pub(super) fn new(host: &Host, state: PodState) -> Self {
        let unit = Self {
            state,
            stage: Stage::Bare { due: Instant::now() },
            backoff: Backoff::new(BACKOFF_LAST),
            made: Instant::now(),
        };
        // A pod of this name that was here before has left its words; they are not this one's.
        let _ = fs::remove_file(host.log(&unit));
        host.save(&unit);
        unit
    }

    /// Goes on where a supervisor before us stopped.
    pub(super) fn adopt(host: &Host, state: PodState) -> Self {
        let mut unit =
            Self { state, stage: Stage::Done, backoff: Backoff::new(BACKOFF_LAST), made: Instant::now() };
        super::node::end_strays(
            host.config.name.as_str(),
            &format!("pod-{}", unit.state.key.file_stem()),
            &host.record(&unit),
        );
        let now = Instant::now();
        unit.stage = match (unit.state.phase, Running::adopt(&host.record(&unit))) {
            (_, Some(running)) => Stage::Running(running),
            (Phase::Succeeded | Phase::Failed, None) => Stage::Done,
            (_, None) if unit.state.registered => Stage::Stopped { due: now },
            (_, None) => Stage::Unregistered { due: now },
        };
        unit
    }

    /// Does what can be done without the agent.
    pub(super) fn tend(&mut self, host: &Host) {
        let now = Instant::now();
        match &self.stage {
            Stage::Bare { due } if *due <= now => self.make_network(host),
            Stage::Stopped { due } if *due <= now => self.start(host),
            Stage::Running(running) => {
                if let Some(ended) = running.ended() {
                    self.ended(host, ended);
                }
            }
            Stage::Bare { .. }
            | Stage::Stopped { .. }
            | Stage::Unregistered { .. }
            | Stage::Registering
            | Stage::Done => {}
        }
    }

    /// When something is to be done next, where that is known.
    pub(super) const fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Bare { due } | Stage::Unregistered { due } | Stage::Stopped { due } => Some(*due),
            Stage::Registering | Stage::Running(_) | Stage::Done => None,
        }
    }

    fn make_network(&mut self, host: &Host) {
        let made = self.state.net.as_ref().map_or(Ok(()), |net| net.create());
        self.stage = match made {
            // A pod of the node's own namespaces is no endpoint.
            Ok(()) if self.state.net.is_none() => Stage::Stopped { due: Instant::now() },
            Ok(()) => Stage::Unregistered { due: Instant::now() },
            Err(error) => {
                self.complain(host, format!("{error:#}"));
                Stage::Bare { due: Instant::now() + NETWORK_RETRY }
            }
        };
    }

    /// The agent enforces: the network may carry something.
    pub(super) fn open(&mut self, host: &Host) {
        match self.state.net.as_ref().map_or(Ok(()), |net| net.open()) {
            Ok(()) => {
                self.state.registered = true;
                self.state.message.clear();
                self.stage = Stage::Stopped { due: Instant::now() };
                self.tend(host);
            }
            Err(error) => {
                self.complain(host, format!("{error:#}"));
                self.stage = Stage::Bare { due: Instant::now() + NETWORK_RETRY };
            }
        }
    }

    /// The agent did not take it. For a moment that is nothing special: it hears of pods at its own pace.
    pub(super) fn refused(&mut self, host: &Host, error: &anyhow::Error) {
        if self.made.elapsed() > AGENT_PATIENCE {
            self.complain(host, format!("the agent has not taken it: {error:#}"));
        }
        self.stage = Stage::Unregistered { due: Instant::now() + ENDPOINT_RETRY };
    }

    /// Keeps why it does not run, for `ps`.
    pub(super) fn complain(&mut self, host: &Host, message: String) {
        if self.state.message != message {
            tracing::warn!(pod = %self.state.key, "{message}");
            self.state.message = message;
            host.save(self);
        }
    }

    fn start(&mut self, host: &Host) {
        self.backoff.started();
        let started = self.space().and_then(|space| {
            let space = space.as_ref().unwrap_or(&host.space);
            Running::start(space, &mut self.command(host), &host.log(self), &host.record(self))
        });
        match started {
            Ok(running) => {
                self.stage = Stage::Running(running);
                self.state.phase = Phase::Running;
                self.state.message.clear();
                host.save(self);
            }
            Err(error) => {
                self.complain(host, format!("{error:#}"));
                self.ended(host, Ended::Exited(127));
            }
        }
    }

    fn ended(&mut self, host: &Host, ended: Ended) {
        self.state.ended = Some(ended);
        if self.state.launch.runs_again(ended) {
            self.state.restarts += 1;
            self.stage = Stage::Stopped { due: self.backoff.ended() };
        } else {
            self.state.phase = if ended == Ended::Exited(0) { Phase::Succeeded } else { Phase::Failed };
            self.stage = Stage::Done;
        }
        host.save(self);
    }

    /// Its own namespace; none where it is in its node's.
    fn space(&self) -> Result<Option<Space>> {
        self.state.net.as_ref().map(|net| Space::net(&net.netns)).transpose()
    }

    fn command(&self, host: &Host) -> Command {
        let waiting = ["sleep".to_owned(), "infinity".to_owned()];
        let words =
            if self.state.launch.command.is_empty() { &waiting } else { &self.state.launch.command[..] };
        let inherited = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", format!("{}:{inherited}", host.config.bin_dir.display()))
            .env("HOSTNAME", &self.state.key.name)
            .env("POD_NAME", &self.state.key.name)
            .env("POD_NAMESPACE", &self.state.key.namespace)
            .env("NODE_NAME", &self.state.node)
            .env("POD_IPS", self.state.ips().iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            .envs(&self.state.launch.env)
            .env(MARK, host.mark(self))
            .process_group(0)
            .current_dir("/");
        let group = Gid::from_raw(self.state.group());
        // SAFETY: between fork and exec it makes one system call and touches no memory of the parent's.
        unsafe { command.pre_exec(move || Ok(setgroups(&[group])?)) };
        command
    }

    /// Ends everything in the pod and removes its network.
    ///
    /// # Errors
    /// Where something clings to it.
    pub(super) fn remove(&mut self, host: &Host) -> Result<()> {
        if let Stage::Running(running) = &self.stage {
            let _ = killpg(Pid::from_raw(running.record().pid), Signal::SIGTERM);
            let _ = running.wait(POD_GRACE);
        }
        let mark = host.mark(self);
        let inodes: BTreeSet<u64> =
            self.space().ok().flatten().and_then(|s| s.net_inode().ok()).into_iter().collect();
        scan::kill_all(|| {
            let mut all = scan::marked(&mark);
            all.extend(scan::inside(&inodes));
            all
        })?;
        self.reap(host);
        self.state.net.as_ref().map_or(Ok(()), |net| net.remove()).context("remove the pod's network")
    }

    /// Takes the end of its command out of the process table.
    fn reap(&mut self, host: &Host) {
        if let Stage::Running(running) = &self.stage {
            let _ = running.wait(POD_GRACE);
        }
        self.stage = Stage::Done;
        let _ = fs::remove_file(host.record(self));
    }
}
