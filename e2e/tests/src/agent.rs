//! Asking an agent, without a runtime in the caller.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use countersign_agent_api::{
    AuthEntry, AuthFlushed, Client, EncryptStatus, EndpointEntry, FlowEvent, ObserveRequest, SpireStatus,
};
use countersign_agent_api::{Request, Status};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

/// The control socket of one node's agent.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    runtime: Runtime,
}

impl Agent {
    /// The agent behind `socket`, running or not.
    ///
    /// # Errors
    /// Where the system has no descriptors left.
    pub fn new(socket: PathBuf) -> Result<Self> {
        Ok(Self { socket, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// Asks for one value.
    ///
    /// # Errors
    /// Where the agent does not run, or refuses.
    pub fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let answer =
            self.runtime.block_on(async { Client::connect(&self.socket).await?.call(request).await });
        answer.with_context(|| format!("{request:?} of {}", self.socket.display()))
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// Where the agent does not run, or refuses.
    pub fn list<T: DeserializeOwned>(&self, request: &Request) -> Result<Vec<T>> {
        let answer =
            self.runtime.block_on(async { Client::connect(&self.socket).await?.list(request).await });
        answer.with_context(|| format!("{request:?} of {}", self.socket.display()))
    }

    /// How the agent is.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn status(&self) -> Result<Status> {
        self.call(&Request::Status)
    }

    /// How traffic between nodes is.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn encrypt_status(&self) -> Result<EncryptStatus> {
        self.call(&Request::EncryptStatus)
    }

    /// Where its SVIDs come from, and what it holds.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn spire_status(&self) -> Result<SpireStatus> {
        self.call(&Request::SpireStatus)
    }

    /// Every pair it knows.
    ///
    /// # Errors
    /// See [`Self::list`].
    pub fn auth_list(&self) -> Result<Vec<AuthEntry>> {
        self.list(&Request::AuthList)
    }

    /// Its endpoints.
    ///
    /// # Errors
    /// See [`Self::list`].
    pub fn endpoints(&self) -> Result<Vec<EndpointEntry>> {
        self.list(&Request::EndpointList)
    }

    /// Makes every pair prove itself again. Returns how many entries are gone.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn auth_flush(&self) -> Result<u64> {
        Ok(self.call::<AuthFlushed>(&Request::AuthFlush)?.removed)
    }

    /// The past flows that `request` selects.
    ///
    /// # Errors
    /// Where the agent does not run, or refuses.
    pub fn observe(&self, request: ObserveRequest) -> Result<Vec<FlowEvent>> {
        let request = Request::Observe(ObserveRequest { follow: false, ..request });
        self.runtime.block_on(async {
            let mut stream = Client::connect(&self.socket).await?.stream(&request).await?;
            let mut events = Vec::new();
            while let Some(event) = stream.next().await {
                events.push(event?);
            }
            Ok(events)
        })
    }
}
