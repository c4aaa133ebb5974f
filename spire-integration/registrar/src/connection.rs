//! The way to the SPIRE server: its own socket on the same machine, or TLS with the registrar's SVID.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::{SpiffeId, TrustDomain, chain};
use countersign_spire::tls::Client;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::limits::{CONNECT_DEADLINE, REQUEST_DEADLINE};
use crate::workload::{self, Credentials, Own};

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its admin socket; who may open it is an administrator.
    Socket(PathBuf),
    /// Its TCP address (`host:port`). The registrar's SVID comes from the Workload API at the socket, and its
    /// SPIFFE ID is among the server's `admin_ids`.
    Network {
        /// `host:port`.
        address: String,
        /// Socket of the SPIRE agent beside us.
        workload_socket: PathBuf,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(out, "{}", path.display()),
            Self::Network { address, .. } => out.write_str(address),
        }
    }
}

/// Channels to the server; a new one when our SVID is.
#[derive(Debug)]
pub(crate) struct Connection {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Socket(Channel),
    Network {
        address: String,
        server: SpiffeId,
        own: watch::Receiver<Own>,
        current: Option<(Arc<Credentials>, Channel)>,
    },
}

impl Connection {
    /// Connects when it is used. Must be called within a tokio runtime.
    pub(crate) fn new(target: &Target, domain: &TrustDomain) -> anyhow::Result<Self> {
        let kind = match target {
            Target::Socket(path) => {
                let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()))?;
                Kind::Socket(bounded(endpoint).connect_lazy())
            }
            Target::Network { address, workload_socket } => Kind::Network {
                address: address.clone(),
                server: SpiffeId::parse(&format!("spiffe://{domain}/spire/server"))?,
                own: workload::follow(workload_socket.clone(), domain.clone()),
                current: None,
            },
        };
        Ok(Self { kind })
    }

    /// The channel to use now.
    pub(crate) fn channel(&mut self) -> Result<Channel, String> {
        match &mut self.kind {
            Kind::Socket(channel) => Ok(channel.clone()),
            Kind::Network { address, server, own, current } => {
                let newest = own.borrow_and_update().clone()?;
                if let Some((credentials, channel)) = current
                    && Arc::ptr_eq(credentials, &newest)
                {
                    return Ok(channel.clone());
                }
                let channel = network(address.clone(), server, &newest).map_err(|error| error.to_string())?;
                *current = Some((newest, channel.clone()));
                Ok(channel)
            }
        }
    }

    /// Resolves when there is another SVID of ours than last time; never for a socket.
    pub(crate) async fn renewed(&mut self) {
        match &mut self.kind {
            Kind::Socket(_) => std::future::pending().await,
            Kind::Network { own, .. } => {
                if own.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn bounded(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(CONNECT_DEADLINE).timeout(REQUEST_DEADLINE)
}

fn network(address: String, server: &SpiffeId, own: &Arc<Credentials>) -> anyhow::Result<Channel> {
    let client = client(server.clone(), Arc::clone(own))?;
    let connect = service_fn(move |_: Uri| {
        let (client, address) = (client.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            client.over(stream).await
        }
    });
    Ok(bounded(Endpoint::from_static("http://spire-server")).connect_with_connector_lazy(connect))
}

/// Believes the server of our trust domain, by the bundle that came with our SVID.
fn client(server: SpiffeId, own: Arc<Credentials>) -> anyhow::Result<Client> {
    let svid = Arc::clone(&own);
    Ok(Client::new("spire-server", &svid.svid, move |shown, now| {
        chain::verify(shown, &own.bundle, &server, now).map(drop).map_err(|error| error.to_string())
    })?)
}
