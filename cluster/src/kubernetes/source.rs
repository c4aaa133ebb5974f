//! An API server as the source of what the cluster says.

use countersign_policy::Settings;
use futures::stream::{StreamExt, select_all};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::Kubernetes;
use super::kind::KINDS;
use super::listener::listen;
use super::world::World;
use crate::change::Change;
use crate::limits::CHANGES;

/// The source; see [`KubeSource::spawn`].
#[derive(Debug)]
pub struct KubeSource;

/// Keeps the source going; it ends when this is dropped.
#[derive(Debug)]
pub struct KubeHandle(JoinHandle<()>);

impl Drop for KubeHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl KubeSource {
    /// Starts to list and watch. The first changes are everything there is, then [`Change::Synced`]: once every kind
    /// was listed to its end, or the server has said that it does not know it. Must be called within a tokio runtime.
    ///
    /// A reader that is slow makes the watches wait.
    #[must_use]
    pub fn spawn(cluster: &Kubernetes, settings: Settings) -> (mpsc::Receiver<Change>, KubeHandle) {
        let (sender, receiver) = mpsc::channel(CHANGES);
        let task = tokio::spawn(follow(cluster.clone(), settings, sender));
        (receiver, KubeHandle(task))
    }
}

async fn follow(cluster: Kubernetes, settings: Settings, sender: mpsc::Sender<Change>) {
    let mut world = World::new(settings);
    let mut heard = select_all(KINDS.map(|kind| listen(&cluster, kind)));
    while let Some((kind, heard)) = heard.next().await {
        for change in world.hear(kind, heard) {
            if sender.send(change).await.is_err() {
                return;
            }
        }
    }
}
