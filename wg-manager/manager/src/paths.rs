//! How large a packet each path to another node takes: what the kernel knows of it (the first hop's device, and what
//! routers have said), and what probes find where routers say nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use countersign_wg_proto::{Known, PathMtu};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::echo::{Answer, Echo};
use crate::limits::{LARGEST_PATH, PATH_LOOK, PROBES_AT_ONCE, PROBES_PAUSE};
use crate::link::Link;

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSize {
    /// The largest packet that may be sent there, IP header included, in bytes.
    pub mtu: u16,
    /// What its probes have told.
    pub known: Known,
}

/// The paths of a node, looked at by a task of its own.
#[derive(Debug)]
pub(crate) struct Paths {
    ends: watch::Sender<BTreeSet<IpAddr>>,
    sizes: watch::Receiver<BTreeMap<IpAddr, PathSize>>,
}

impl Paths {
    /// Must be called within a tokio runtime, on a thread in the network namespace of the paths. The task ends with
    /// this value.
    pub(crate) fn new(link: Link) -> Self {
        let (ends, wanted) = watch::channel(BTreeSet::new());
        let (found, sizes) = watch::channel(BTreeMap::new());
        let echo = Echo::new().inspect_err(|error| {
            tracing::warn!(%error, "paths are not probed: what their first hop takes counts as right");
        });
        let start = Instant::now();
        let task = Task { link, echo: echo.ok(), paths: BTreeMap::new(), start, pause: start };
        tokio::spawn(task.run(wanted, found));
        Self { ends, sizes }
    }

    /// These are the other ends.
    pub(crate) fn look_at(&self, ends: BTreeSet<IpAddr>) {
        self.ends.send_if_modified(|before| {
            let is_new = *before != ends;
            *before = ends;
            is_new
        });
    }

    /// What is known at the moment. A path that nothing is known of is not in it.
    pub(crate) fn sizes(&self) -> BTreeMap<IpAddr, PathSize> {
        self.sizes.borrow().clone()
    }

    /// Something else is known than before.
    pub(crate) async fn changed(&mut self) {
        if self.sizes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Task {
    link: Link,
    echo: Option<Echo>,
    paths: BTreeMap<IpAddr, PathMtu>,
    start: Instant,
    /// No probe leaves before.
    pause: Instant,
}

impl Task {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
        found: watch::Sender<BTreeMap<IpAddr, PathSize>>,
    ) {
        let mut look = Instant::now();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = sleep_until(look.min(deadline)) => {}
                answer = answer_of(self.echo.as_ref()) => self.answered(answer),
            }
            let ends = wanted.borrow_and_update().clone();
            self.paths.retain(|end, _| ends.contains(end));
            let is_time = look <= Instant::now();
            for end in ends
                .iter()
                .filter(|end| is_time || !self.paths.contains_key(end))
                .copied()
                .collect::<Vec<_>>()
            {
                self.look_at(end).await;
            }
            if is_time {
                look = Instant::now() + PATH_LOOK;
            }
            self.probe();
            found.send_if_modified(|before| {
                let size = |path: &PathMtu| PathSize { mtu: path.size(), known: path.known() };
                let now = self.paths.iter().map(|(end, path)| (*end, size(path))).collect();
                let is_new = *before != now;
                *before = now;
                is_new
            });
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn deadline(&self) -> Instant {
        let next = self.paths.values().map(PathMtu::deadline).min().filter(|_| self.echo.is_some());
        next.map_or_else(far, |at| self.pause.max(self.start + Duration::from_nanos(at)))
    }

    /// Asks the kernel. A path that it does not know any more keeps what was found: it may come again.
    async fn look_at(&mut self, end: IpAddr) {
        let limit = match self.link.path_mtu(end).await {
            Ok(limit) => u16::try_from(limit).unwrap_or(u16::MAX).min(LARGEST_PATH),
            Err(error) => return tracing::debug!(%end, %error, "no path"),
        };
        let now = self.now();
        self.paths.entry(end).or_insert_with(|| PathMtu::new(limit, now)).set_limit(limit, now);
    }

    fn probe(&mut self) {
        let (Some(echo), now) = (&self.echo, self.now()) else { return };
        if self.pause > Instant::now() {
            return;
        }
        self.pause = Instant::now() + PROBES_PAUSE;
        // Those that wait longest first, and never many together.
        let mut due: Vec<_> = self.paths.iter_mut().filter(|(_, path)| path.deadline() <= now).collect();
        due.sort_by_key(|(_, path)| path.deadline());
        for (end, path) in due.into_iter().take(PROBES_AT_ONCE) {
            let Some(probe) = path.poll(now) else { continue };
            if let Err(error) = echo.send(*end, probe) {
                tracing::debug!(%end, size = probe.size, %error, "a probe does not leave");
            }
        }
    }

    fn answered(&mut self, Answer { from, probe }: Answer) {
        let now = self.now();
        if let Some(path) = self.paths.get_mut(&from) {
            path.answered(probe, now);
        }
    }
}

async fn answer_of(echo: Option<&Echo>) -> Answer {
    match echo {
        Some(echo) => echo.answer().await,
        None => std::future::pending().await,
    }
}

/// Later than anything here lasts.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}
