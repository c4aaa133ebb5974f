//! One kind of object at an API server: listed in pages, then watched, and again after a pause when that breaks.
//!
//! The machine below is kube's: a watch that breaks goes on where it was, and only where the server does not know
//! that place any more is everything listed anew. What is added here is when to try again, and what to say meanwhile.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::{sleep, timeout};

use super::client::Kubernetes;
use super::kind::Kind;
use crate::limits::{MESSAGE_BYTES, PAGE_OBJECTS, WATCH_RETRY_MAX, WATCH_RETRY_MIN, WATCH_WELL};

/// What is heard of a kind.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A list begins: what it does not name is gone when it has ended.
    Begun,
    /// The list names this object.
    Listed(Box<DynamicObject>),
    /// The list has ended.
    Ended,
    /// An object is new or different.
    Put(Box<DynamicObject>),
    /// An object was deleted.
    Deleted(Box<DynamicObject>),
    /// The server knows no such kind.
    Absent,
    /// It cannot be heard, for this reason. Whatever was heard still holds.
    Lost(String),
    /// It is heard again, and nothing is different.
    Well,
}

type Events = BoxStream<'static, watcher::Result<Event<DynamicObject>>>;

struct Listener {
    events: Events,
    /// Failures since anything went right.
    failures: u32,
    /// It has failed, and is not known to be well since.
    lost: bool,
}

/// All that is heard of a kind, without end.
pub(crate) fn listen(cluster: &Kubernetes, kind: Kind) -> BoxStream<'static, (Kind, Heard)> {
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &kind.resource());
    let config = watcher::Config::default().page_size(PAGE_OBJECTS);
    let listener = Listener { events: watcher(api, config).boxed(), failures: 0, lost: false };
    stream::unfold(listener, |mut listener| async move {
        let heard = listener.next().await?;
        Some((heard, listener))
    })
    .map(move |heard| (kind, heard))
    .boxed()
}

impl Listener {
    async fn next(&mut self) -> Option<Heard> {
        if self.failures > 0 {
            sleep(pause(self.failures, rand::random_range(0.75..=1.25))).await;
        }
        let event = if self.lost {
            match timeout(WATCH_WELL, self.events.next()).await {
                Ok(event) => event?,
                Err(_) => {
                    self.recover();
                    return Some(Heard::Well);
                }
            }
        } else {
            self.events.next().await?
        };
        Some(match event {
            Ok(event) => self.take(event),
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.lost = true;
                failure(&error)
            }
        })
    }

    fn take(&mut self, event: Event<DynamicObject>) -> Heard {
        match event {
            // Said before the server was asked: no sign of life.
            Event::Init => return Heard::Begun,
            Event::InitApply(object) => {
                // A page has come, though not the whole list: no pause before the next object.
                self.failures = 0;
                return Heard::Listed(Box::new(object));
            }
            Event::InitDone | Event::Apply(_) | Event::Delete(_) => self.recover(),
        }
        match event {
            Event::Apply(object) => Heard::Put(Box::new(object)),
            Event::Delete(object) => Heard::Deleted(Box::new(object)),
            Event::Init | Event::InitApply(_) | Event::InitDone => Heard::Ended,
        }
    }

    fn recover(&mut self) {
        self.failures = 0;
        self.lost = false;
    }
}

/// How long to wait after so many failures; `jitter` is around 1.
fn pause(failures: u32, jitter: f64) -> Duration {
    let doubled = WATCH_RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(WATCH_RETRY_MAX).mul_f64(jitter)
}

fn failure(error: &watcher::Error) -> Heard {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status))
            if status.code == 404 =>
        {
            Heard::Absent
        }
        InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) => Heard::Lost(text(cause)),
        WatchError(status) => Heard::Lost(bounded(&status.message)),
        watcher::Error::NoResourceVersion => Heard::Lost("the server gave no resourceVersion".to_owned()),
    }
}

/// In the words of whoever answered; of a connection that failed, its cause.
pub(super) fn text(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return bounded(&status.message);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    bounded(&cause.to_string())
}

fn bounded(message: &str) -> String {
    message.chars().take(MESSAGE_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit() {
        assert_eq!(pause(1, 1.0), WATCH_RETRY_MIN);
        assert_eq!(pause(2, 1.0), WATCH_RETRY_MIN * 2);
        for failures in [10, 100, u32::MAX] {
            assert_eq!(pause(failures, 1.0), WATCH_RETRY_MAX);
        }
        assert!(pause(10, 0.75) < WATCH_RETRY_MAX);
    }
}
