//! Who of several is the leader: the rules of a lease, as client-go has them. Time is an argument.
//!
//! All candidates write one record, each write only onto the version that its writer has read. Whose name is in it
//! leads, and has to write it again and again. Nobody's clock is compared with another's: a candidate that sees a
//! record waits its lease from when it has seen it *itself*. A leader counts from before it sent what was last
//! written, so its time is up before that of whoever has seen that write, as long as no clock goes faster than
//! another by more than [`Timing::lease`] is longer than [`Timing::renew`].
//!
//! The one thing that these rules do not survive is that somebody deletes the record under a leader.

use std::time::Duration;

/// How long things take, as client-go has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long the others wait since they have seen the record change before they take it.
    pub lease: Duration,
    /// How long a leader that cannot renew the record goes on.
    pub renew: Duration,
    /// Time between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    /// 15 s, 10 s, 2 s.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew: seconds(10), retry: seconds(2) }
    }
}

/// Why times are none that work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The record has whole seconds.
    #[error("a lease lasts whole seconds, at least one")]
    Lease,
    /// Two could lead at a time.
    #[error("the lease must be longer than the renew deadline, or two could lead at a time")]
    Renew,
    /// A leader would give up at its first failure.
    #[error("the renew deadline must be longer than 1.2 retry periods, and these longer than nothing")]
    Retry,
}

impl Timing {
    /// These times, where they work.
    ///
    /// # Errors
    /// [`TimingError`].
    pub fn check(self) -> Result<Self, TimingError> {
        if self.lease.is_zero() || self.lease.subsec_nanos() != 0 || self.lease.as_secs() > LEASE_MAX {
            return Err(TimingError::Lease);
        }
        if self.lease <= self.renew {
            return Err(TimingError::Renew);
        }
        if self.retry.is_zero() || self.renew <= self.retry.mul_f64(1.2) {
            return Err(TimingError::Retry);
        }
        Ok(self)
    }
}

/// Longest lease in seconds: after a day without a leader somebody should have noticed.
const LEASE_MAX: u64 = 86_400;

/// What a lease says. Times are microseconds since the Unix epoch, for people: nothing is decided by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who leads; nobody where it is empty.
    pub holder: String,
    /// How long the others wait.
    pub lease_seconds: u32,
    /// Since when its holder has it.
    pub acquired: i64,
    /// When it was written last.
    pub renewed: i64,
    /// How often it went to another.
    pub transitions: u32,
}

/// What is to be asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the record.
    Read,
    /// Write the first record.
    Create(Record),
    /// Write it in the place of this version, and of no other.
    Replace {
        /// What to write.
        record: Record,
        /// The version that was read.
        version: String,
    },
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The record and its version.
    Found {
        /// What it says.
        record: Record,
        /// Its version.
        version: String,
    },
    /// There is no record.
    NotFound,
    /// It is written, and has this version now.
    Written {
        /// The version.
        version: String,
    },
    /// It is another version by now, or there is one already. Nothing was written.
    Conflict,
    /// No answer, or none that says anything: whether it was written is not known.
    Failed,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing before this time.
    Wait(Duration),
    /// Ask this, and give the answer to [`Election::handle`].
    Ask(Request),
}

/// One candidate. Times are since any moment of its own clock, which must not go back.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// Until when this candidate leads.
    until: Option<Duration>,
    step: Step,
    due: Duration,
}

#[derive(Clone, Debug)]
struct Seen {
    record: Record,
    version: String,
    /// When it was first seen to be so.
    at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Create,
    Replace,
}

impl Election {
    /// A candidate of this name, which no other has, nor one before it had.
    #[must_use]
    pub fn new(identity: String, timing: Timing) -> Self {
        Self { identity, timing, seen: None, until: None, step: Step::Read, due: Duration::ZERO }
    }

    /// Its name.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether this candidate leads at that time.
    #[must_use]
    pub fn is_leader(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Until when it leads if nothing is heard any more.
    #[must_use]
    pub fn leads_until(&self) -> Option<Duration> {
        self.until
    }

    /// Who leads as far as this candidate has seen.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// What to do; `wall` is the time to write into a record.
    #[must_use]
    pub fn next(&self, now: Duration, wall: i64) -> Next {
        if now < self.due {
            return Next::Wait(self.due);
        }
        Next::Ask(match (self.step, &self.seen) {
            (Step::Create, _) => Request::Create(self.record(wall)),
            (Step::Replace, Some(seen)) => {
                Request::Replace { record: self.record(wall), version: seen.version.clone() }
            }
            (Step::Read | Step::Replace, _) => Request::Read,
        })
    }

    /// Takes in what was answered to `request`, which was sent at `sent`.
    pub fn handle(&mut self, request: &Request, sent: Duration, answer: Answer, now: Duration) {
        match (answer, request) {
            (Answer::Found { record, version }, _) => self.see(record, version, sent, now),
            // Somebody has deleted it, or there was none yet.
            (Answer::NotFound, _) => self.take_if_free(Step::Create, sent, now),
            (Answer::Written { version }, Request::Create(record) | Request::Replace { record, .. }) => {
                self.seen = Some(Seen { record: record.clone(), version, at: now });
                self.until = Some(sent + self.timing.renew);
                self.go_on(Step::Replace, sent + self.timing.retry);
            }
            // Somebody was faster, or an answer was lost: what is there now?
            (Answer::Conflict, _) => self.go_on(Step::Read, now),
            (Answer::Written { .. } | Answer::Failed, _) => {
                self.go_on(Step::Read, sent + self.timing.retry);
            }
        }
    }

    /// What to ask so that others need not wait; whoever calls this has stopped to lead.
    #[must_use]
    pub fn release(&self, wall: i64) -> Option<Request> {
        let seen = self.seen.as_ref().filter(|seen| seen.record.holder == self.identity)?;
        let record = Record { holder: String::new(), lease_seconds: 1, renewed: wall, ..seen.record.clone() };
        Some(Request::Replace { record, version: seen.version.clone() })
    }

    fn see(&mut self, record: Record, version: String, sent: Duration, now: Duration) {
        if record.holder != self.identity {
            self.until = None;
        }
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(Seen { record, version, at: now });
        }
        self.take_if_free(Step::Replace, sent, now);
    }

    /// Who was seen to lead may do so to the end of its lease, whatever became of the record.
    fn take_if_free(&mut self, step: Step, sent: Duration, now: Duration) {
        match self.free_at() <= now {
            true => self.go_on(step, now),
            false => self.go_on(Step::Read, sent + self.timing.retry),
        }
    }

    /// When the record may be taken.
    fn free_at(&self) -> Duration {
        let Some(Seen { record, at, .. }) = &self.seen else { return Duration::ZERO };
        if record.holder.is_empty() || record.holder == self.identity {
            return Duration::ZERO;
        }
        *at + match record.lease_seconds {
            0 => self.timing.lease,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    fn go_on(&mut self, step: Step, due: Duration) {
        (self.step, self.due) = (step, due);
    }

    fn record(&self, wall: i64) -> Record {
        let before = self.seen.as_ref().map(|seen| &seen.record);
        let mine = before.filter(|record| record.holder == self.identity);
        let transitions = before.map_or(0, |record| record.transitions);
        Record {
            holder: self.identity.clone(),
            lease_seconds: u32::try_from(self.timing.lease.as_secs()).unwrap_or(u32::MAX),
            acquired: mine.map_or(wall, |record| record.acquired),
            renewed: wall,
            transitions: match (before, mine) {
                (Some(_), None) => transitions.saturating_add(1),
                _ => transitions,
            },
        }
    }
}
