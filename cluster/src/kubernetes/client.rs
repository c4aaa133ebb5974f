//! The way to the API server: as a pod of the cluster, or by a kubeconfig file.

use std::path::{Path, PathBuf};

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::limits::API_CONNECT;

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// This is no pod with a service account.
    #[error("this process is no pod of a cluster with a service account: {0}")]
    InCluster(#[from] InClusterError),
    /// The kubeconfig file makes no sense.
    #[error("{}: {source}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// What they say makes no client.
    #[error("these settings make no client of the API server: {0}")]
    Client(#[from] kube::Error),
}

/// A client of an API server; clones share its connections.
#[derive(Clone)]
pub struct Kubernetes {
    pub(crate) client: Client,
    server: String,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// By the service account of the pod that this process is in, whose token and authority are read again as they
    /// change. Must be called within a tokio runtime, as [`Kubernetes::kubeconfig`].
    ///
    /// # Errors
    /// Where this is no such pod.
    pub fn in_cluster() -> Result<Self, KubernetesError> {
        Self::new(Config::incluster()?)
    }

    /// By the current context of a kubeconfig file.
    ///
    /// # Errors
    /// Where the file makes no sense.
    pub async fn kubeconfig(file: &Path) -> Result<Self, KubernetesError> {
        let refused = |source| KubernetesError::Kubeconfig { file: file.to_owned(), source };
        let read = Kubeconfig::read_from(file).map_err(refused)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        Self::new(config.map_err(refused)?)
    }

    fn new(mut config: Config) -> Result<Self, KubernetesError> {
        config.connect_timeout = Some(API_CONNECT);
        // Each caller here has pauses and deadlines of its own.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        Ok(Self { client: Client::try_from(config)?, server })
    }

    /// The namespace of the pod, or of the kubeconfig's context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Its address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }
}
