//! Entries that the server does not take, each with its own pauses.

use std::collections::BTreeMap;

use countersign_spire_proto::Entry;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::limits::{ENTRY_RETRY_MAX, ENTRY_RETRY_MIN};

/// What failed, by the entry's ID.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    entries: BTreeMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    /// What was tried: an entry, or to delete it.
    tried: Option<Entry>,
    message: String,
    retry: Instant,
    backoff: Backoff,
}

impl Failing {
    /// It failed (again).
    pub(crate) fn add(&mut self, id: &str, tried: Option<&Entry>, message: String, now: Instant) {
        let failure = self.entries.entry(id.to_owned()).or_insert_with(|| Failure {
            tried: None,
            message: String::new(),
            retry: now,
            backoff: Backoff::new(ENTRY_RETRY_MIN, ENTRY_RETRY_MAX),
        });
        if failure.message != message {
            tracing::warn!(entry = id, %message, "an entry is not taken");
        }
        if failure.tried.as_ref() != tried {
            failure.backoff.reset();
        }
        failure.tried = tried.cloned();
        failure.message = message;
        failure.retry = now + failure.backoff.pause();
    }

    /// It went well.
    pub(crate) fn remove(&mut self, id: &str) {
        self.entries.remove(id);
    }

    /// Whether this may be tried now: it never failed, its pause is over, or it is something else now.
    pub(crate) fn may_try(&self, id: &str, what: Option<&Entry>, now: Instant) -> bool {
        self.entries.get(id).is_none_or(|failure| failure.retry <= now || failure.tried.as_ref() != what)
    }

    /// Forgets what is not to be done any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.entries.retain(|id, _| wanted(id));
    }

    /// When the next pause is over.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.entries.values().map(|failure| failure.retry).min()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(id, failure)| (id.as_str(), failure.message.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failure_waits_longer_each_time_and_what_is_new_does_not() {
        let now = Instant::now();
        let mut failing = Failing::default();
        assert!(failing.may_try("a", None, now) && failing.due().is_none());
        failing.add("a", None, "x".to_owned(), now);
        assert!(!failing.may_try("a", None, now) && failing.may_try("b", None, now));
        let first = failing.due().unwrap() - now;
        assert!(failing.may_try("a", None, now + first));
        failing.add("a", None, "x".to_owned(), now);
        assert!(failing.due().unwrap() - now > first);
        let entry = Entry {
            spiffe_id: "spiffe://t/a".parse().unwrap(),
            parent_id: "spiffe://t/b".parse().unwrap(),
            selectors: ["a:b".parse().unwrap()].into(),
            x509_svid_ttl_seconds: 0,
            federates_with: [].into(),
            hint: String::new(),
        };
        assert!(failing.may_try("a", Some(&entry), now), "something else");
        for _ in 0..20 {
            failing.add("a", None, "x".to_owned(), now);
        }
        assert!(failing.due().unwrap() - now <= ENTRY_RETRY_MAX + Duration::from_secs(15));
        failing.retain(|id| id != "a");
        assert_eq!(failing.iter().count(), 0);
    }
}
