//! Asking an agent over its control socket, without a runtime of the caller's.

use std::path::Path;

use anyhow::{Context, Result};
use countersign_agent_api::{Client, ClientError, Request};
use serde::de::DeserializeOwned;

/// Asks for one value.
///
/// # Errors
/// Those of the client; the agent's own refusal among them.
pub fn call<T: DeserializeOwned + Send>(socket: &Path, request: &Request) -> Result<T> {
    block_on(async { Client::connect(socket).await?.call(request).await })
}

/// Asks for a list.
///
/// # Errors
/// Those of the client.
pub fn list<T: DeserializeOwned + Send>(socket: &Path, request: &Request) -> Result<Vec<T>> {
    block_on(async { Client::connect(socket).await?.list(request).await })
}

/// In a thread of its own, so that it also works where the caller is inside a runtime.
fn block_on<T: Send>(work: impl Future<Output = Result<T, ClientError>> + Send) -> Result<T> {
    crate::ns::in_thread(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(runtime.context("start a runtime")?.block_on(work)?)
    })
}
