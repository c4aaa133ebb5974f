//! A process that a node always has: its agent, its WireGuard.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::ns::Space;
use crate::process::Running;

/// Longest pause before a node's service is started again: nodes must be back within two seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Keeps one process running.
pub(super) struct Service {
    name: &'static str,
    log: PathBuf,
    record: PathBuf,
    /// While this file exists, it is not started.
    hold: Option<PathBuf>,
    running: Option<Running>,
    backoff: Backoff,
    due: Instant,
}

impl Service {
    /// Takes over the process recorded at `record`, if it runs.
    pub(super) fn new(name: &'static str, log: PathBuf, record: PathBuf, hold: Option<PathBuf>) -> Self {
        let running = Running::adopt(&record);
        Self { name, log, record, hold, running, backoff: Backoff::new(LONGEST_PAUSE), due: Instant::now() }
    }

    pub(super) const fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Starts it where it should run and does not; sees that it has ended.
    pub(super) fn tend(&mut self, space: &Space, command: impl FnOnce() -> Command) {
        if let Some(ended) = self.running.as_ref().and_then(Running::ended) {
            tracing::info!(service = self.name, ?ended, "ended");
            self.running = None;
            self.due = self.backoff.ended();
        }
        if self.running.is_some() || self.is_held() || Instant::now() < self.due {
            return;
        }
        self.backoff.started();
        match Running::start(space, &mut command(), &self.log, &self.record) {
            Ok(running) => {
                tracing::info!(service = self.name, pid = running.record().pid, "started");
                self.running = Some(running);
            }
            Err(error) => {
                tracing::warn!(service = self.name, "cannot be started: {error:#}");
                self.due = self.backoff.ended();
            }
        }
    }

    fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.exists())
    }
}
