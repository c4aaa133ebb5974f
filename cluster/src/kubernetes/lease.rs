//! A candidate for a `coordination.k8s.io/v1` Lease: carries what [`Election`] asks to the API server and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::client::Kubernetes;
use super::listener::text;
use crate::election::{Answer, Election, Next, Record, Request, Timing};

/// Which Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for LeaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One of several, of which one leads at a time.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: LeaseName,
    election: Election,
    /// How long one request may take: a second one has to fit before the renew deadline.
    patience: Duration,
    began: Instant,
    /// The Lease as last read: what others put into it stays.
    lease: Lease,
    error: Option<String>,
}

impl Candidate {
    /// A candidate whose name no other has, nor one before it had.
    #[must_use]
    pub fn new(cluster: &Kubernetes, name: LeaseName, identity: String, timing: Timing) -> Self {
        Self {
            api: Api::namespaced(cluster.client.clone(), &name.namespace),
            name,
            election: Election::new(identity, timing),
            patience: timing.renew / 2,
            began: Instant::now(),
            lease: Lease::default(),
            error: None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.election.identity()
    }

    /// Who leads as far as this candidate has seen.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.election.holder()
    }

    /// Why the API server could not be asked the last time.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether this candidate leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.election.is_leader(self.now())
    }

    /// Does the next thing that a candidate has to do, which may be to wait. May be dropped at any point.
    pub async fn step(&mut self) {
        match self.election.next(self.now(), wall()) {
            Next::Wait(until) => sleep_until(self.began + until).await,
            Next::Ask(request) => self.ask(&request, self.patience).await,
        }
    }

    /// Leads, until that is over: renews the Lease, and returns when it could not before its deadline, or when it
    /// is another's. Poll this before what the leader does.
    pub async fn lead(&mut self) {
        while let Some(until) = self.election.leads_until().filter(|until| self.now() < *until) {
            match self.election.next(self.now(), wall()) {
                Next::Wait(due) => sleep_until(self.began + due.min(until)).await,
                Next::Ask(request) => {
                    let left = until.saturating_sub(self.now());
                    self.ask(&request, self.patience.min(left)).await;
                }
            }
        }
    }

    /// Gives the Lease back, so that another need not wait for its end; whoever calls this has stopped to do what
    /// only the leader does. A server that does not answer is not waited for beyond `patience`.
    pub async fn release(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        // What was under way when we stopped may have been written: then it is read once more.
        for _ in 0..2 {
            let Some(request) = self.election.release(wall()) else { return };
            match timeout_at(deadline, self.send(&request)).await {
                Ok(Answer::Written { .. }) => return,
                Ok(Answer::Conflict) => {}
                Ok(_) | Err(_) => break,
            }
            let read = timeout_at(deadline, self.send(&Request::Read)).await;
            let now = self.now();
            self.election.handle(&Request::Read, now, read.unwrap_or(Answer::Failed), now);
        }
        tracing::warn!(lease = %self.name, "the lease could not be given back; others wait for its end");
    }

    async fn ask(&mut self, request: &Request, patience: Duration) {
        let sent = self.now();
        let answer = timeout(patience, self.send(request)).await.unwrap_or_else(|_| {
            self.error = Some(format!("no answer within {} ms", patience.as_millis()));
            Answer::Failed
        });
        self.election.handle(request, sent, answer, self.now());
    }

    async fn send(&mut self, request: &Request) -> Answer {
        let parameters = PostParams::default();
        let result = match request {
            Request::Read => self.api.get(&self.name.name).await,
            Request::Create(record) => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(self.name.name.clone()), ..ObjectMeta::default() },
                    spec: Some(to_spec(record, LeaseSpec::default())),
                };
                self.api.create(&parameters, &lease).await
            }
            Request::Replace { record, version } => {
                let mut lease = self.lease.clone();
                lease.metadata.resource_version = Some(version.clone());
                lease.spec = Some(to_spec(record, lease.spec.unwrap_or_default()));
                self.api.replace(&self.name.name, &parameters, &lease).await
            }
        };
        let refused = result.as_ref().err().map(text);
        let answer = match result {
            Ok(lease) => self.found(lease, matches!(request, Request::Read)),
            Err(kube::Error::Api(status)) if status.code == 404 => Answer::NotFound,
            Err(kube::Error::Api(status)) if status.code == 409 => Answer::Conflict,
            Err(_) => Answer::Failed,
        };
        self.error = refused.filter(|_| answer == Answer::Failed);
        answer
    }

    fn found(&mut self, lease: Lease, read: bool) -> Answer {
        let record = to_record(lease.spec.as_ref());
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        self.lease = lease;
        if read { Answer::Found { record, version } } else { Answer::Written { version } }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

fn to_spec(record: &Record, before: LeaseSpec) -> LeaseSpec {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let time = |micros: i64| Timestamp::from_microsecond(micros).ok().map(MicroTime);
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: Some(number(record.lease_seconds)),
        acquire_time: time(record.acquired),
        renew_time: time(record.renewed),
        lease_transitions: Some(number(record.transitions)),
        ..before
    }
}

fn to_record(spec: Option<&LeaseSpec>) -> Record {
    let Some(spec) = spec else { return Record::default() };
    let number =
        |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let micros =
        |time: &Option<MicroTime>| time.as_ref().map(|time| time.0.as_microsecond()).unwrap_or_default();
    Record {
        holder: spec.holder_identity.clone().unwrap_or_default(),
        lease_seconds: number(spec.lease_duration_seconds),
        acquired: micros(&spec.acquire_time),
        renewed: micros(&spec.renew_time),
        transitions: number(spec.lease_transitions),
    }
}

fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
