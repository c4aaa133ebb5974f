//! The source task: keeps an SVID fresh for every subject that is wanted. It is renewed at about half of its life
//! with a fresh key; if the CA cannot issue, what was issued stays as it is, and it is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::{EmbeddedCa, EmbeddedError, unix_millis};
use crate::limits::{
    COMMAND_QUEUE, DEFAULT_TTL, MAX_SLEEP, MAX_WANTED, MIN_TTL, RETRY_MAX, RETRY_MIN,
    ROTATION_JITTER_PERCENT, UPDATE_QUEUE,
};
use crate::source::{Command, Outbox, SourceStatus, Subject, SvidSource, Update};

/// How the embedded source is set up.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The CA's directory ([`EmbeddedCa::open`]).
    pub dir: PathBuf,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Life of an SVID; less than [`MIN_TTL`] becomes that.
    pub ttl: Duration,
}

impl EmbeddedConfig {
    /// With the default life of an SVID.
    #[must_use]
    pub fn new(dir: PathBuf, trust_domain: TrustDomain) -> Self {
        Self { dir, trust_domain, ttl: DEFAULT_TTL }
    }
}

/// Opens the embedded CA and starts its source. Must be called within a tokio runtime.
pub fn spawn(config: EmbeddedConfig) -> Result<(SvidSource, mpsc::Receiver<Update>), EmbeddedError> {
    spawn_with_clock(config, unix_millis)
}

/// As [`spawn`], with the wall clock (Unix milliseconds) as an argument.
fn spawn_with_clock(
    config: EmbeddedConfig,
    clock: impl Fn() -> u64 + Send + Sync + 'static,
) -> Result<(SvidSource, mpsc::Receiver<Update>), EmbeddedError> {
    let ca = EmbeddedCa::open(&config.dir, &config.trust_domain, clock() / 1000)?;
    let bundle = Update::Bundle(config.trust_domain, Arc::new(ca.bundle()?));
    let (commands, commands_rx) = mpsc::channel(COMMAND_QUEUE);
    let (updates, updates_rx) = mpsc::channel(UPDATE_QUEUE);
    let mut outbox = Outbox::default();
    outbox.put(bundle);
    let status = watch::Sender::new(SourceStatus::default());
    let source = SvidSource { commands, status: status.subscribe() };
    let task = Task {
        ca,
        ttl: config.ttl.max(MIN_TTL),
        clock: Box::new(clock),
        wanted: BTreeMap::new(),
        outbox,
        status,
    };
    tokio::spawn(task.run(commands_rx, updates));
    Ok((source, updates_rx))
}

/// A subject that is wanted.
struct Wanted {
    /// Whose it is to be.
    workloads: BTreeSet<String>,
    /// When it is to be issued anew: Unix milliseconds.
    due: u64,
    /// Pause before the next attempt, if the last one failed.
    retry: Duration,
}

struct Task {
    ca: EmbeddedCa,
    ttl: Duration,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    wanted: BTreeMap<Subject, Wanted>,
    outbox: Outbox,
    status: watch::Sender<SourceStatus>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, updates: mpsc::Sender<Update>) {
        loop {
            let nap = self.nap();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                slot = updates.reserve(), if !self.outbox.is_empty() => match slot {
                    Ok(slot) => {
                        if let Some(update) = self.outbox.take() {
                            slot.send(update);
                        }
                    }
                    Err(_) => return,
                },
                () = sleep(nap) => self.rotate(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want(subject, _) if !subject.id.is_member_of(self.ca.trust_domain()) => {
                tracing::warn!(id = %subject.id, "not of the embedded CA's trust domain");
            }
            Command::Want(subject, workload) => {
                if let Some(wanted) = self.wanted.get_mut(&subject) {
                    wanted.workloads.insert(workload.key);
                } else if self.wanted.len() >= MAX_WANTED {
                    tracing::warn!(id = %subject.id, "too many SVIDs wanted");
                } else {
                    let (due, retry) = self.issue(&subject, RETRY_MIN);
                    let workloads = BTreeSet::from([workload.key]);
                    self.wanted.insert(subject, Wanted { workloads, due, retry });
                }
            }
            Command::Unwant(subject, workload) => {
                let Some(wanted) = self.wanted.get_mut(&subject) else { return };
                if wanted.workloads.remove(&workload) && wanted.workloads.is_empty() {
                    self.wanted.remove(&subject);
                    self.outbox.put(Update::Removed(subject));
                }
            }
        }
        let workloads = self.wanted.values().map(|wanted| wanted.workloads.len()).sum();
        self.status
            .send_if_modified(|status| std::mem::replace(&mut status.workloads, workloads) != workloads);
    }

    fn rotate(&mut self) {
        let now = (self.clock)();
        let due = self.wanted.iter().filter(|(_, wanted)| wanted.due <= now);
        let due: Vec<(Subject, Duration)> =
            due.map(|(subject, wanted)| (subject.clone(), wanted.retry)).collect();
        for (subject, retry) in due {
            let (due, retry) = self.issue(&subject, retry);
            if let Some(wanted) = self.wanted.get_mut(&subject) {
                (wanted.due, wanted.retry) = (due, retry);
            }
        }
    }

    /// When it is due next, and the pause before an attempt after that one fails.
    fn issue(&mut self, subject: &Subject, retry: Duration) -> (u64, Duration) {
        let now = (self.clock)();
        match self.ca.issue(&subject.id, now / 1000, self.ttl.as_secs()) {
            Ok(svid) => {
                self.outbox.put(Update::Svid(subject.clone(), Arc::new(svid)));
                (now.saturating_add(rotate_after(self.ttl)), RETRY_MIN)
            }
            Err(error) => {
                tracing::warn!(id = %subject.id, %error, "no SVID could be issued");
                (now.saturating_add(millis(retry)), (retry * 2).min(RETRY_MAX))
            }
        }
    }

    /// Until the next one is due, but not longer than [`MAX_SLEEP`].
    fn nap(&self) -> Duration {
        let now = (self.clock)();
        let due = self.wanted.values().map(|wanted| wanted.due.saturating_sub(now)).min();
        due.map_or(MAX_SLEEP, Duration::from_millis).min(MAX_SLEEP)
    }
}

/// Half of a life, a little earlier or later, in milliseconds.
fn rotate_after(ttl: Duration) -> u64 {
    let half = millis(ttl) / 2;
    let jitter = half / 100 * ROTATION_JITTER_PERCENT;
    let mut bytes = [0; 8];
    // Without randomness there is no jitter, which is harmless; keys are another matter (embedded.rs).
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return half;
    }
    half - jitter + u64::from_be_bytes(bytes) % (2 * jitter + 1)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_certs::{Bundle, SpiffeId, chain};
    use tokio::time::Instant;

    use super::*;
    use crate::source::{Reference, SourceGone, Workload};

    fn pod(key: &str) -> Workload {
        Workload { key: key.to_owned(), reference: Reference::Pid(1) }
    }

    const START: u64 = 1_800_000_000;

    fn domain() -> TrustDomain {
        TrustDomain::parse("countersign.lab").unwrap()
    }

    fn id(number: u32) -> Subject {
        let id = SpiffeId::parse(&format!("spiffe://countersign.lab/identity/{number}")).unwrap();
        Subject { identity: number, id }
    }

    /// A source whose wall clock is tokio's paused one.
    fn start(ttl: u64) -> (tempfile::TempDir, SvidSource, mpsc::Receiver<Update>) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EmbeddedConfig::new(dir.path().join("ca"), domain());
        config.ttl = Duration::from_secs(ttl);
        let began = Instant::now();
        let clock = move || START * 1000 + millis(began.elapsed());
        let (source, updates) = spawn_with_clock(config, clock).unwrap();
        (dir, source, updates)
    }

    async fn bundle(updates: &mut mpsc::Receiver<Update>) -> Arc<Bundle> {
        match updates.recv().await.unwrap() {
            Update::Bundle(of, bundle) if of == domain() => bundle,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_svid_is_renewed_around_half_of_its_life_for_ever() {
        let (_dir, source, mut updates) = start(30);
        let began = Instant::now();
        let bundle = bundle(&mut updates).await;
        source.want(id(300), pod("a")).await.unwrap();
        let (mut last, mut keys, mut gaps) = (None, BTreeSet::new(), BTreeSet::new());
        for _ in 0..40 {
            let Update::Svid(of, svid) = updates.recv().await.unwrap() else { panic!() };
            let now = START + began.elapsed().as_secs();
            let peer = chain::verify(svid.chain(), &bundle, &of.id, now).unwrap();
            assert_eq!((of, svid.not_after()), (id(300), now + 30));
            assert!(keys.insert(peer.public_key().to_vec()), "every SVID has a key of its own");
            if let Some(before) = last.replace(Instant::now()) {
                let gap = (Instant::now() - before).as_millis();
                assert!((13_500..=16_510).contains(&gap), "{gap} ms");
                gaps.insert(gap);
            }
        }
        assert!(gaps.len() > 10, "rotation times are spread: {gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn unwanted_means_removed_once_and_silence_afterwards() {
        let (_dir, source, mut updates) = start(60);
        bundle(&mut updates).await;
        source.want(id(300), pod("a")).await.unwrap();
        source.want(id(300), pod("a")).await.unwrap();
        assert!(matches!(updates.recv().await, Some(Update::Svid(of, _)) if of == id(300)));
        source.unwant(id(300), "a".to_owned()).await.unwrap();
        source.unwant(id(300), "a".to_owned()).await.unwrap();
        assert!(matches!(updates.recv().await, Some(Update::Removed(of)) if of == id(300)));
        let quiet = tokio::time::timeout(Duration::from_secs(600), updates.recv()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn commands_are_taken_while_nobody_reads_and_the_newest_update_wins() {
        let (_dir, source, mut updates) = start(30);
        // Twice what both queues hold together: this would hang if the task waited for its reader.
        let count = u32::try_from(2 * (COMMAND_QUEUE + UPDATE_QUEUE)).unwrap();
        for number in 0..count {
            source.want(id(number), pod("a")).await.unwrap();
        }
        sleep(Duration::from_secs(120)).await;
        bundle(&mut updates).await;
        let mut newest = BTreeMap::new();
        // What was queued, and everybody's newest; they are renewed meanwhile, so there may be no end of updates.
        for _ in 0..UPDATE_QUEUE + 2 * count as usize {
            let next = tokio::time::timeout(Duration::from_millis(500), updates.recv()).await;
            let Ok(Some(Update::Svid(of, svid))) = next else { break };
            newest.insert(of, svid.not_after());
        }
        assert_eq!(newest.len(), count as usize);
        let stale = newest.values().filter(|not_after| **not_after < START + 120).count();
        assert!(stale <= UPDATE_QUEUE, "only what was queued before may be old: {stale}");
    }

    #[tokio::test(start_paused = true)]
    async fn others_trust_domains_get_nothing() {
        let (_dir, source, mut updates) = start(30);
        bundle(&mut updates).await;
        let foreign = SpiffeId::parse("spiffe://other.example/identity/300").unwrap();
        let foreign = Subject { identity: 300, id: foreign };
        source.want(foreign, pod("a")).await.unwrap();
        source.want(id(301), pod("a")).await.unwrap();
        assert!(matches!(updates.recv().await, Some(Update::Svid(of, _)) if of == id(301)));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_are_refused_without_growing() {
        let (_dir, source, mut updates) = start(3600);
        let reader = tokio::spawn(async move {
            let mut seen = BTreeSet::new();
            while let Some(update) = updates.recv().await {
                if let Update::Svid(of, _) = update {
                    seen.insert(of);
                }
            }
            seen.len()
        });
        for number in 0..u32::try_from(MAX_WANTED).unwrap() + 50 {
            source.want(id(number), pod("a")).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        drop(source);
        assert_eq!(reader.await.unwrap(), MAX_WANTED);
    }

    #[tokio::test]
    async fn it_ends_when_nobody_asks_any_more() {
        let (_dir, source, mut updates) = start(60);
        bundle(&mut updates).await;
        drop(source);
        assert!(updates.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_closed_reader_ends_it_too() {
        let (_dir, source, updates) = start(60);
        drop(updates);
        while source.want(id(1), pod("a")).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(source.unwant(id(1), "a".to_owned()).await, Err(SourceGone));
    }
}
