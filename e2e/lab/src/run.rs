//! `lab run`: a pod for as long as a command takes.

use std::collections::BTreeMap;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::lab::Lab;
use crate::limits::READY_TIMEOUT;
use crate::names::PodKey;

/// What pod to make.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// `name` or `namespace/name`.
    pub pod: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its node; the first by default.
    pub node: Option<String>,
    /// Whether it has no SVID.
    pub without_svid: bool,
}

/// Makes the pod, runs the command in it on this process's terminal, and removes the pod.
///
/// # Errors
/// Where there is a pod of that name, or it does not get ready.
pub fn run_pod(lab: &Lab, options: &RunOptions, words: &[&str]) -> Result<ExitStatus> {
    let key = PodKey::parse(&options.pod);
    if !key.is_valid() {
        bail!("{key} is not the name of a pod");
    }
    if lab.pod(&key).is_ok() {
        bail!("there is a pod {key} already; `countersign lab exec {key} -- …` runs a command in it");
    }
    let file = format!("lab-run-{}.yaml", key.file_stem());
    lab.apply(&file, &manifest(&key, options))?;
    // From here on the manifest goes whatever happens, an interrupt included: that one is the command's.
    outlive_interrupts()?;
    let status = lab.wait_pods(READY_TIMEOUT).and_then(|_| lab.exec_here(&key.to_string(), words));
    lab.delete(&file)?;
    lab.wait_gone(&key.to_string(), READY_TIMEOUT)?;
    status
}

fn manifest(key: &PodKey, options: &RunOptions) -> String {
    let svid = if options.without_svid { json!({"countersign.dev/svid": "none"}) } else { json!({}) };
    countersign_cluster::to_yaml(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": key.namespace, "name": key.name, "labels": options.labels, "annotations": svid},
        "spec": {
            "nodeName": options.node.as_deref().unwrap_or("node1"),
            "containers": [{"name": "main", "image": "none"}],
        },
    }))
}

/// Ctrl-C reaches the command, which is in our process group; we stay to clean up.
fn outlive_interrupts() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("interrupts".into()).spawn(move || {
        runtime.block_on(async {
            let registered = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
            let _ = ready.send(registered.is_ok());
            if let Ok(mut interrupts) = registered {
                while interrupts.recv().await.is_some() {}
            }
        });
    })?;
    is_ready.recv().context("take interrupts").map(drop)
}

#[cfg(test)]
mod tests {
    use countersign_policy::objects::Pod;
    use countersign_policy::yaml;

    use super::*;

    #[test]
    fn the_manifest_is_a_pod_as_asked_for() {
        let labels = BTreeMap::from([("app".to_owned(), "x".to_owned())]);
        let mut options =
            RunOptions { pod: "a/b".into(), labels: labels.clone(), node: None, without_svid: true };
        let read = |options: &RunOptions| {
            let text = manifest(&PodKey::parse(&options.pod), options);
            Pod::from_document(&yaml::parse(&text).unwrap()[0]).unwrap()
        };
        let pod = read(&options);
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.node.as_str()), ("a", "b", "node1"));
        assert_eq!((&pod.labels, pod.annotations["countersign.dev/svid"].as_str()), (&labels, "none"));
        assert!(pod.command.is_empty(), "it waits; the command runs beside it");
        options.node = Some("node2".into());
        options.without_svid = false;
        let pod = read(&options);
        assert_eq!((pod.node.as_str(), pod.annotations.len()), ("node2", 0));
    }
}
