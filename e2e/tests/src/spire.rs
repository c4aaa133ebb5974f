//! What a node can get out of SPIRE, and what a test does to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use countersign_lab::PodState;
use countersign_lab::spire::{Spire, TRUST_DOMAIN};

use crate::world::World;

/// The longest that anything of SPIRE may take in a lab.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// SVIDs that are not signed yet keep SPIRE's agent from answering: thousands of them for a while.
const UNTIL_SIGNED: Duration = Duration::from_secs(120);

/// Whether a node holds the SVID of a pod of namespace `default`.
///
/// # Errors
/// Where its agent does not answer.
pub fn holds(world: &World, node: &str, pod: &str) -> Result<bool> {
    let name = format!("default/{pod}");
    Ok(world.agent(node)?.spire_status()?.svids.iter().any(|svid| svid.pods.contains(&name)))
}

/// The SPIFFE ID of such a pod.
///
/// # Errors
/// Where it has no SVID.
pub fn spiffe_id(world: &World, node: &str, pod: &str) -> Result<String> {
    let status = world.agent(node)?.spire_status()?;
    let name = format!("default/{pod}");
    let svid = status.svids.into_iter().find(|svid| svid.pods.contains(&name));
    Ok(svid.with_context(|| format!("{pod} has no SVID"))?.spiffe_id)
}

/// Deletes the entry of a SPIFFE ID, behind the registrar's back.
///
/// # Errors
/// What the server says.
pub fn delete_entry(spire: &Spire, id: &str) -> Result<()> {
    let shown = spire.server(&["entry", "show", "-spiffeID", id, "-output", "json"])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let entry = shown["entries"][0]["id"].as_str().context("the entry's ID")?;
    spire.server(&["entry", "delete", "-entryID", entry]).map(drop)
}

/// The selector by which SPIRE knows a pod of a lab.
#[must_use]
pub fn selector(pod: &PodState) -> (String, String) {
    ("unix".to_owned(), format!("supplementary_gid:{}", pod.group()))
}

/// The SPIFFE IDs whose keys can be got from a node's admin socket by claiming these selectors.
///
/// # Errors
/// What SPIRE's agent answers instead.
pub fn obtainable(admin_socket: &Path, selectors: Vec<(String, String)>) -> Result<BTreeSet<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { countersign_spire::spire::obtainable(admin_socket, selectors, UNTIL_SIGNED).await };
    runtime.block_on(asked).map_err(|error| anyhow!("{}: {error}", admin_socket.display()))
}

/// Lays entries out as Cilium does: one parent that is an alias of every SPIRE agent, one selector for all. Returns
/// that selector.
///
/// # Errors
/// What the server says.
pub fn cilium_layout(spire: &Spire, ids: &[String]) -> Result<(String, String)> {
    let parent = format!("spiffe://{TRUST_DOMAIN}/cilium-agent");
    let agents: serde_json::Value =
        serde_json::from_str(&spire.server(&["agent", "list", "-output", "json"])?)?;
    for agent in agents["agents"].as_array().into_iter().flatten() {
        let path = agent["id"]["path"].as_str().unwrap_or_default();
        let (agent, selector) =
            (format!("spiffe://{TRUST_DOMAIN}{path}"), format!("spiffe_id:spiffe://{TRUST_DOMAIN}{path}"));
        let arguments =
            ["entry", "create", "-parentID", &agent, "-spiffeID", &parent, "-selector", &selector];
        spire.server(&arguments)?;
    }
    create(spire, ids.iter().map(|id| (id.clone(), parent.clone(), "cilium".into(), "mutual-auth".into())))?;
    Ok(("cilium".to_owned(), "mutual-auth".to_owned()))
}

/// Creates entries in one go: SPIFFE ID, parent, selector's type and value.
///
/// # Errors
/// What the server says.
pub fn create(spire: &Spire, entries: impl Iterator<Item = (String, String, String, String)>) -> Result<()> {
    let entries: Vec<serde_json::Value> = entries
        .map(|(id, parent, kind, value)| {
            let selectors = serde_json::json!([{"type": kind, "value": value}]);
            serde_json::json!({"spiffe_id": id, "parent_id": parent, "selectors": selectors})
        })
        .collect();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), serde_json::to_vec(&serde_json::json!({ "entries": entries }))?)?;
    spire.server(&["entry", "create", "-data", &file.path().to_string_lossy()])?;
    Ok(())
}
