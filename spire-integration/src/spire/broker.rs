//! The way to the Broker API of SPIRE's agent: TLS 1.3 over its socket, with our own SVID on this side and the SPIRE
//! agent's on the other.

use std::path::Path;
use std::sync::Arc;

use countersign_certs::{Bundle, Svid, chain};
use rustls::Error;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::limits::FIRST_ANSWER;
use crate::tls::Client;

/// SPIRE gives its agents IDs below this path and nobody else.
const AGENTS: &str = "/spire/agent/";

/// Connects when it is used, and again when the socket was made anew. Who was let in stays in: another SVID of ours
/// needs another channel.
pub(super) fn channel(socket: &Path, svid: &Svid, bundle: Arc<Bundle>) -> Result<Channel, Error> {
    let client = client(svid, bundle)?;
    let socket = socket.to_owned();
    let connect = service_fn(move |_: Uri| {
        let (client, socket) = (client.clone(), socket.clone());
        async move { client.over(UnixStream::connect(&socket).await?).await }
    });
    let endpoint = Endpoint::from_static("http://spire-agent").connect_timeout(FIRST_ANSWER);
    Ok(endpoint.connect_with_connector_lazy(connect))
}

/// Believes the SPIRE agents of our trust domain, by the bundle that came with our SVID.
fn client(svid: &Svid, bundle: Arc<Bundle>) -> Result<Client, Error> {
    Client::new("spire-agent", svid, move |shown, now| match chain::verify_member(shown, &bundle, now) {
        Ok(peer) if peer.spiffe_id().path().starts_with(AGENTS) => Ok(()),
        Ok(peer) => Err(format!("{} is no SPIRE agent's", peer.spiffe_id())),
        Err(error) => Err(error.to_string()),
    })
}
