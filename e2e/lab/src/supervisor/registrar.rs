//! Telling the agent about endpoints, as a CNI plugin would, without waiting for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use countersign_agent_api::{Done, EndpointAdded, EndpointRef, EndpointSpec, Request};

use crate::agent;
use crate::names::PodKey;
use crate::paths::Paths;
use crate::pod::PodState;

use super::inbox::{Inbox, Order};

/// Requests under way at once: an agent that hangs must not gather threads.
const MOST_AT_ONCE: usize = 8;

/// What the agent answered.
#[derive(Debug)]
pub(super) enum Told {
    /// About a pod that is to be taken.
    Added {
        /// Which.
        key: PodKey,
        /// Which instance of it.
        uid: String,
        /// Whether it was.
        result: Result<()>,
    },
    /// About a pod that is gone.
    Removed {
        /// Which.
        key: PodKey,
        /// Whether the agent has let go of it.
        result: Result<()>,
    },
}

/// Asks in threads; the answers come through the node's inbox.
pub(super) struct Registrar {
    /// None in a lab without agents: then everything succeeds.
    socket: Option<PathBuf>,
    inbox: Arc<Inbox>,
    under_way: usize,
}

impl Registrar {
    pub(super) const fn new(socket: Option<PathBuf>, inbox: Arc<Inbox>) -> Self {
        Self { socket, inbox, under_way: 0 }
    }

    /// Returns whether the question is under way; otherwise there are too many.
    pub(super) fn add(&mut self, key: &PodKey, state: &PodState) -> bool {
        let Some(net) = &state.net else { return false };
        let spec = EndpointSpec {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: state.uid.clone(),
            interface: net.interface.clone(),
            mac: net.mac.clone(),
            ips: state.ips(),
            netns: std::fs::metadata(Paths::netns(&net.netns)).map(|meta| meta.ino()).ok(),
        };
        let (key, uid) = (key.clone(), state.uid.clone());
        self.ask(move |socket| {
            let request = Request::EndpointAdd(spec);
            let result =
                socket.map_or(Ok(()), |socket| agent::call::<EndpointAdded>(socket, &request).map(drop));
            Told::Added { key, uid, result }
        })
    }

    /// The same for one that is gone.
    pub(super) fn remove(&mut self, key: &PodKey) -> bool {
        let key = key.clone();
        self.ask(move |socket| {
            let of = EndpointRef { namespace: key.namespace.clone(), name: key.name.clone() };
            let request = Request::EndpointRemove(of);
            let result = socket.map_or(Ok(()), |socket| agent::call::<Done>(socket, &request).map(drop));
            Told::Removed { key, result }
        })
    }

    /// An answer has come.
    pub(super) const fn answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    fn ask(&mut self, work: impl FnOnce(Option<&Path>) -> Told + Send + 'static) -> bool {
        if self.under_way >= MOST_AT_ONCE {
            return false;
        }
        let (socket, inbox) = (self.socket.clone(), self.inbox.clone());
        let thread = std::thread::Builder::new().name("endpoint".into());
        let asked = thread.spawn(move || inbox.send(Order::Told(work(socket.as_deref()))));
        self.under_way += usize::from(asked.is_ok());
        asked.is_ok()
    }
}
