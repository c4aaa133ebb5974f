//! The loop: hear changes, work out what should be, bring the server there a batch at a time.

use std::collections::{BTreeMap, BTreeSet};

use countersign_cluster::{Change, IdentityRegistry};
use countersign_spire_proto::{
    Entry, EntryError, Existing, Extras, Plan, RegistrarStatus, Turn, limits, plan,
};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::failing::Failing;
use crate::limits::{BATCH_ENTRIES, QUIET, QUIET_AT_MOST, RESYNC_JITTER, SERVER_RETRY_MAX, SERVER_RETRY_MIN};
use crate::picture::Picture;
use crate::server::{Outcome, Server, ServerError};
use crate::status::{self, StatusFile, unix};

/// Keeps a server as a cluster wants it.
#[derive(Debug)]
pub struct Registrar {
    picture: Picture,
    changes: mpsc::Receiver<Change>,
    server: Server,
    link: Link,
    /// The server's entries as last listed and changed since; none while that is not known.
    known: Option<BTreeMap<String, Existing>>,
    /// When the server's entries are to be listed again.
    list_due: Instant,
    resync: Duration,
    failing: Failing,
    /// Entries that were desired since the start: what becomes of these is known for sure.
    vouched: BTreeSet<String>,
    status: RegistrarStatus,
    file: StatusFile,
}

/// Whether the server can be reached.
#[derive(Debug)]
struct Link {
    retry: Option<Instant>,
    backoff: Backoff,
}

/// What to do next.
enum Step {
    Delete(Vec<String>),
    Update(Vec<(String, Entry)>),
    Create(Vec<(String, Entry)>),
    Nothing,
}

impl Registrar {
    /// Starts with nothing but what `config` says, and, where several take turns, with a turn to name in the status.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the settings are refused.
    pub fn new(config: &Config, changes: mpsc::Receiver<Change>, turn: Option<Turn>) -> anyhow::Result<Self> {
        let (layout, target) = (config.layout()?, config.target()?);
        let status = status::first(config, turn)?;
        let registry = config.status_dir.as_deref().map(IdentityRegistry::new);
        Ok(Self {
            picture: Picture::new(layout, config.all_pods, registry),
            changes,
            server: Server::new(&target, &config.trust_domain)?,
            link: Link { retry: None, backoff: Backoff::new(SERVER_RETRY_MIN, SERVER_RETRY_MAX) },
            known: None,
            list_due: Instant::now(),
            resync: config.resync(),
            failing: Failing::default(),
            vouched: BTreeSet::new(),
            status,
            file: StatusFile::new(config.status_file.clone()),
        })
    }

    /// Goes on until the source of changes ends. May be dropped at any point.
    ///
    /// # Errors
    /// When the source has ended.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut more = false;
        loop {
            self.file.write(&self.status);
            self.hear(more).await?;
            self.picture.settle();
            more = match self.picture.is_synced() {
                true => self.work().await,
                false => {
                    self.describe(None);
                    false
                }
            };
        }
    }

    /// Takes changes in: what there is if there is more to do, or else what comes, and what follows it at once.
    async fn hear(&mut self, more: bool) -> anyhow::Result<()> {
        if !more {
            let due = self.due();
            tokio::select! {
                change = self.changes.recv() => self.take(change)?,
                () = sleep_until(due) => {}
                () = self.server.renewed() => self.link.retry = None,
            }
        }
        let last = Instant::now() + QUIET_AT_MOST;
        loop {
            // With more to do, nothing is waited for.
            let until = if more { Instant::now() } else { last.min(Instant::now() + QUIET) };
            match timeout_at(until, self.changes.recv()).await {
                Ok(change) => self.take(change)?,
                Err(_) => return Ok(()),
            }
            if Instant::now() >= last {
                return Ok(());
            }
        }
    }

    fn take(&mut self, change: Option<Change>) -> anyhow::Result<()> {
        self.picture.apply(change.ok_or_else(|| anyhow::anyhow!("the source of changes has ended"))?);
        Ok(())
    }

    /// When there is something to do without being told.
    fn due(&self) -> Instant {
        if !self.picture.is_synced() {
            return Instant::now() + self.resync;
        }
        if let Some(retry) = self.link.retry {
            return retry;
        }
        self.failing.due().map_or(self.list_due, |due| due.min(self.list_due))
    }

    /// Does one step. Returns whether there is another to do at once.
    async fn work(&mut self) -> bool {
        if self.link.retry.is_some_and(|retry| retry > Instant::now()) {
            self.describe(None);
            return false;
        }
        match self.step().await {
            Ok(more) => more,
            Err(error) => {
                self.lose(&error);
                false
            }
        }
    }

    async fn step(&mut self) -> Result<bool, ServerError> {
        if self.known.is_none() || self.list_due <= Instant::now() {
            self.list().await?;
        }
        let desired = self.picture.desired();
        let new: Vec<String> = desired.keys().filter(|id| !self.vouched.contains(*id)).cloned().collect();
        self.vouched.extend(new);
        let Some(known) = &self.known else { return Ok(false) };
        let plan = plan(self.picture.layout().owner(), &desired, known.values());
        let written = plan.updates.iter().chain(&plan.creates).map(|(id, _)| id.as_str());
        let ids: BTreeSet<&str> = written.chain(plan.deletes.iter().map(String::as_str)).collect();
        self.failing.retain(|id| ids.contains(id));
        self.status.desired = desired.len();
        self.describe(Some(&plan));
        let step = self.choose(plan);
        self.act(step).await
    }

    async fn list(&mut self) -> Result<(), ServerError> {
        let listed = self.server.list().await?;
        self.known = Some(listed.into_iter().map(|existing| (existing.id.clone(), existing)).collect());
        let jitter = rand::random_range(1.0 - RESYNC_JITTER..=1.0 + RESYNC_JITTER);
        self.list_due = Instant::now() + self.resync.mul_f64(jitter);
        self.status.listed = Some(unix());
        self.reach();
        Ok(())
    }

    /// The first of a plan that may be done now.
    fn choose(&self, mut plan: Plan) -> Step {
        let now = Instant::now();
        let (failing, vouched, whole) = (&self.failing, &self.vouched, self.picture.is_whole());
        plan.deletes.retain(|id| (whole || vouched.contains(id)) && failing.may_try(id, None, now));
        let may_try = |(id, entry): &(String, Entry)| failing.may_try(id, Some(entry), now);
        plan.updates.retain(may_try);
        plan.creates.retain(may_try);
        if !plan.deletes.is_empty() {
            plan.deletes.truncate(BATCH_ENTRIES);
            return Step::Delete(plan.deletes);
        }
        if !plan.updates.is_empty() {
            plan.updates.truncate(BATCH_ENTRIES);
            return Step::Update(plan.updates);
        }
        if !plan.creates.is_empty() {
            plan.creates.truncate(BATCH_ENTRIES);
            return Step::Create(plan.creates);
        }
        Step::Nothing
    }

    async fn act(&mut self, step: Step) -> Result<bool, ServerError> {
        let (what, count, began) = (step.name(), step.len(), Instant::now());
        match step {
            Step::Nothing => return Ok(false),
            Step::Delete(ids) => {
                let outcomes = self.server.delete(&ids).await?;
                ids.iter().zip(outcomes).for_each(|(id, outcome)| self.deleted(id, outcome));
            }
            Step::Update(entries) => {
                let outcomes = self.server.update(&entries).await?;
                entries.iter().zip(outcomes).for_each(|((id, e), outcome)| self.written(id, e, outcome));
            }
            Step::Create(entries) => {
                let outcomes = self.server.create(&entries).await?;
                entries.iter().zip(outcomes).for_each(|((id, e), outcome)| self.written(id, e, outcome));
            }
        }
        self.reach();
        tracing::info!(entries = count, ms = began.elapsed().as_millis(), "{what}");
        Ok(true)
    }

    fn deleted(&mut self, id: &str, outcome: Outcome) {
        match outcome {
            // Somebody was faster.
            Outcome::Done | Outcome::NotFound => {
                self.failing.remove(id);
                self.vouched.remove(id);
                self.forget(id);
            }
            Outcome::Alike(_) => self.failing.add(id, None, "not deleted".to_owned(), Instant::now()),
            Outcome::Refused(why) => self.failing.add(id, None, why, Instant::now()),
        }
    }

    fn written(&mut self, id: &str, entry: &Entry, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.failing.remove(id);
                let entry = Some(entry.clone());
                self.remember(Existing { id: id.to_owned(), entry, extras: Extras::None });
            }
            Outcome::Alike(other) => {
                if other.entry.as_ref().is_none_or(|other| other.likeness() != entry.likeness()) {
                    let why = format!("the server takes it for {}, which is another", other.id);
                    self.failing.add(id, Some(entry), why, Instant::now());
                }
                self.remember(*other);
            }
            // Deleted by somebody since the list: the next plan creates it.
            Outcome::NotFound => self.forget(id),
            Outcome::Refused(why) => self.failing.add(id, Some(entry), why, Instant::now()),
        }
    }

    fn remember(&mut self, existing: Existing) {
        if let Some(known) = &mut self.known {
            known.insert(existing.id.clone(), existing);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(known) = &mut self.known {
            known.remove(id);
        }
    }

    /// The server has answered.
    fn reach(&mut self) {
        self.link.backoff.reset();
        self.link.retry = None;
        self.status.last_error = None;
        if let Some(since) = self.status.server_down_since.take() {
            tracing::info!(since, "the SPIRE server answers again");
        }
    }

    /// The server has not answered, or not to the request. What it did all the same is looked up before the next.
    fn lose(&mut self, error: &ServerError) {
        self.known = None;
        self.link.retry = Some(Instant::now() + self.link.backoff.pause());
        let message = error.to_string();
        if self.status.server_down_since.is_none() || self.status.last_error.as_ref() != Some(&message) {
            tracing::warn!(%error, "the SPIRE server does not answer; entries stay as they are");
        }
        self.status.server_down_since.get_or_insert_with(unix);
        self.status.last_error = Some(message);
    }

    /// Says in the status how things are.
    fn describe(&mut self, plan: Option<&Plan>) {
        let mut errors = self.picture.waiting();
        self.status.waiting = errors.len();
        let failed = self.failing.iter();
        let about = |id: &str, message: &str| EntryError {
            about: self.picture.about(id),
            message: message.to_owned(),
        };
        errors.extend(failed.take(limits::MAX_STATUS_ERRORS).map(|(id, message)| about(id, message)));
        if let Some(plan) = plan {
            let owner = self.picture.layout().owner();
            let known = self.known.iter().flatten();
            self.status.managed = known.filter(|(id, _)| owner.owns(id)).count();
            self.status.elsewhere = plan.elsewhere.len();
            self.status.failed = self.failing.iter().count() + plan.blocked.len();
            let blocked = plan.blocked.iter().take(limits::MAX_STATUS_ERRORS);
            errors.extend(blocked.map(|blocked| {
                let by = format!(
                    "entry {} of somebody else's is in its place, and agents withhold it",
                    blocked.by
                );
                about(&blocked.id, &by)
            }));
            if plan.is_empty() && self.status.failed == 0 {
                self.status.in_step = Some(unix());
            }
        }
        errors.splice(0..0, self.picture.problems().take(limits::MAX_STATUS_ERRORS));
        if let Some(file) = self.picture.unread() {
            let message = "cannot be read, so entries that may belong to what is in it stay".to_owned();
            errors.insert(0, EntryError { about: file.display().to_string(), message });
        }
        errors.truncate(limits::MAX_STATUS_ERRORS);
        self.status.errors = errors;
    }
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Delete(_) => "entries deleted",
            Self::Update(_) => "entries repaired",
            Self::Create(_) => "entries created",
            Self::Nothing => "nothing to do",
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Delete(ids) => ids.len(),
            Self::Update(entries) | Self::Create(entries) => entries.len(),
            Self::Nothing => 0,
        }
    }
}
