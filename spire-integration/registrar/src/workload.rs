//! The registrar's own SVID, from the SPIRE agent beside it.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::{Bundle, Svid, TrustDomain};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::backoff::Backoff;
use crate::limits::{MAX_AUTHORITIES, MAX_OWN_SVIDS, SERVER_RETRY_MAX, SERVER_RETRY_MIN};
use crate::server::text;
use crate::workload_api::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::workload_api::{X509svid, X509svidRequest, X509svidResponse};

/// Who we are, and whom we believe.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) svid: Svid,
    pub(crate) bundle: Bundle,
}

/// The newest credentials, or why there are none. What was there stays while the agent is away.
pub(crate) type Own = Result<Arc<Credentials>, String>;

/// Follows the Workload API until nobody looks any more.
pub(crate) fn follow(socket: PathBuf, domain: TrustDomain) -> watch::Receiver<Own> {
    let (own, receiver) = watch::channel(Err(format!("no SVID yet from {}", socket.display())));
    tokio::spawn(async move {
        let mut backoff = Backoff::new(SERVER_RETRY_MIN, SERVER_RETRY_MAX);
        while !own.is_closed() {
            let why = tokio::select! {
                why = read(&socket, &domain, &own, &mut backoff) => why,
                () = own.closed() => return,
            };
            own.send_if_modified(|own| match own {
                Ok(_) => false,
                Err(message) => {
                    *message = format!("no SVID from {}: {why}", socket.display());
                    true
                }
            });
            sleep(backoff.pause()).await;
        }
    });
    receiver
}

/// Takes messages until the stream ends; returns why it ended.
async fn read(
    socket: &std::path::Path,
    domain: &TrustDomain,
    own: &watch::Sender<Own>,
    backoff: &mut Backoff,
) -> String {
    let channel = match Endpoint::from_shared(format!("unix:{}", socket.display())) {
        Ok(endpoint) => endpoint.connect_lazy(),
        Err(error) => return error.to_string(),
    };
    let mut request = Request::new(X509svidRequest {});
    // The specification demands it of every caller: a browser that was tricked into asking cannot set it.
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let ended = |status: &Status| text(status);
    let mut stream = match SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return ended(&status),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                backoff.reset();
                match credentials(message, domain) {
                    Ok(credentials) => drop(own.send_replace(Ok(Arc::new(credentials)))),
                    Err(why) => tracing::warn!(%why, "the Workload API's answer is of no use"),
                }
            }
            Ok(None) => return "the stream has ended".to_owned(),
            Err(status) => return ended(&status),
        }
    }
}

/// The first SVID of our trust domain, and its bundle.
fn credentials(message: X509svidResponse, domain: &TrustDomain) -> Result<Credentials, String> {
    let mut trouble = "it holds no SVID".to_owned();
    for entry in message.svids.into_iter().take(MAX_OWN_SVIDS) {
        match understand(entry, domain) {
            Ok(credentials) => return Ok(credentials),
            Err(why) => trouble = why,
        }
    }
    Err(trouble)
}

fn understand(entry: X509svid, domain: &TrustDomain) -> Result<Credentials, String> {
    // Svid::new wipes the key that it is given.
    let svid = Svid::new(certificates(&entry.x509_svid)?, entry.x509_svid_key).map_err(|e| e.to_string())?;
    if !svid.spiffe_id().is_member_of(domain) {
        return Err(format!("{} is not of {domain}", svid.spiffe_id()));
    }
    let bundle = Bundle::new(domain.clone(), &certificates(&entry.bundle)?).map_err(|e| e.to_string())?;
    Ok(Credentials { svid, bundle })
}

/// The certificates that follow each other in `der`.
fn certificates(der: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (mut rest, mut found) = (der, Vec::new());
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).map_err(|error| error.to_string())?;
        found.push(rest.get(..rest.len() - after.len()).unwrap_or_default().to_vec());
        rest = after;
        if found.len() > MAX_AUTHORITIES {
            return Err(format!("more than {MAX_AUTHORITIES} certificates"));
        }
    }
    Ok(found)
}
