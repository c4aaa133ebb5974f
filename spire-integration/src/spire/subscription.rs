//! Subscriptions to SPIRE's agent, each a task that goes on until it is aborted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_certs::{Bundle, SpiffeId, TrustDomain};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::backoff::Backoff;
use super::broker_api::api_client::ApiClient;
use super::broker_api::{
    SubscribeToX509BundlesRequest as BrokerBundlesRequest, SubscribeToX509svidRequest, WorkloadPidReference,
    WorkloadReference,
};
use super::delegated::delegated_identity_client::DelegatedIdentityClient;
use super::delegated::{SubscribeToX509BundlesRequest, SubscribeToX509sviDsRequest};
use super::message::{self, Said};
use super::process::Process;
use super::proto::types::Selector;
use super::workload::X509svidRequest;
use super::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use super::{BROKER_API, DELEGATED_API, WORKLOAD_API};
use crate::limits::{FIRST_ANSWER, PROBE_ANSWER, PROBE_EVERY};
use crate::source::{Reference, Workload};

/// What a subscription has to tell.
#[derive(Debug)]
pub(super) enum Report {
    /// The newest state of a workload.
    Workload { key: String, said: Said },
    /// The authorities that came with our own SVID.
    OwnBundle(Arc<Bundle>),
    /// The newest bundles, and what is wrong with others.
    Bundles { good: BTreeMap<TrustDomain, Arc<Bundle>>, bad: BTreeMap<String, String> },
    /// This API has answered.
    Answered(&'static str),
    /// This API cannot be reached, or refuses.
    Failed(&'static str, String),
    /// This API has not answered: it was last heard when it last had something to say.
    Silent(&'static str, String),
}

/// What is subscribed to.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) id: SpiffeId,
    pub(super) workload: Workload,
}

/// Whoever reads the reports has gone.
struct Over;

type Reports = mpsc::Sender<Report>;

async fn send(reports: &Reports, report: Report) -> Result<(), Over> {
    reports.send(report).await.map_err(|_| Over)
}

/// The bundles of all trust domains: the first stream to come and to go, by which the API is judged.
pub(super) async fn bundles(channel: Channel, own: TrustDomain, reports: Reports) {
    let mut backoff = Backoff::new();
    let client = DelegatedIdentityClient::new(channel);
    let ask = || {
        let mut asked = client.clone();
        async move { asked.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {}).await }
    };
    loop {
        let ended = read(within(ask()).await, &mut backoff, &reports, |message| {
            let (good, bad) = message::bundles(message.ca_certificates, &own);
            vec![Report::Bundles { good, bad }, Report::Answered(DELEGATED_API)]
        });
        let Ok(report) = watched(DELEGATED_API, ended, silence(DELEGATED_API, ask, &reports)).await else {
            return;
        };
        if send(&reports, report).await.is_err() {
            return;
        }
        sleep(backoff.pause()).await;
    }
}

/// The same over the Broker API. It wants to know for which workload: for this process.
pub(super) async fn bundles_by_broker(mut channels: Channels, own: TrustDomain, reports: Reports) {
    let mut backoff = Backoff::new();
    while let Some(client) = broker(&mut channels).await {
        let ask = || {
            let mut asked = client.clone();
            async move {
                let reference = reference(i32::try_from(std::process::id()).unwrap_or_default())?;
                let request = BrokerBundlesRequest { reference: Some(reference) };
                asked.subscribe_to_x509_bundles(marked(request)).await
            }
        };
        let ended = read(within(ask()).await, &mut backoff, &reports, |message| {
            let (good, bad) = message::bundles(message.bundles, &own);
            vec![Report::Bundles { good, bad }, Report::Answered(BROKER_API)]
        });
        let Ok(report) = watched(BROKER_API, ended, silence(BROKER_API, ask, &reports)).await else {
            return;
        };
        if send(&reports, report).await.is_err() {
            return;
        }
        sleep(backoff.pause()).await;
    }
}

/// Why a stream is not read any more: it has ended, or whoever sends it says nothing at all.
async fn watched(
    api: &'static str,
    ended: impl Future<Output = Result<String, Over>>,
    silence: impl Future<Output = Result<String, Over>>,
) -> Result<Report, Over> {
    tokio::select! {
        ended = ended => Ok(Report::Failed(api, ended?)),
        silence = silence => Ok(Report::Silent(api, silence?)),
    }
}

/// Asks now and then for what SPIRE's agent has at hand, and returns when it does not answer: a stream that says
/// nothing does not tell an agent that has no news from one that was stopped.
async fn silence<M, A>(api: &'static str, ask: impl Fn() -> A, reports: &Reports) -> Result<String, Over>
where
    A: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    loop {
        sleep(PROBE_EVERY).await;
        let probe = async { ask().await?.into_inner().message().await };
        match timeout(PROBE_ANSWER, probe).await {
            Ok(Ok(_)) => send(reports, Report::Answered(api)).await?,
            // Whoever refuses is there; that the subscription itself has ended is for its reader to say.
            Ok(Err(_)) => {}
            Err(_) => return Ok(format!("no answer within {} s", PROBE_ANSWER.as_secs())),
        }
    }
}

/// The agent's own SVID.
pub(super) async fn caller(what: Subscription, channel: Channel, reports: Reports) {
    let mut backoff = Backoff::new();
    let client = SpiffeWorkloadApiClient::new(channel);
    loop {
        let mut request = Request::new(X509svidRequest {});
        // The specification demands it of every caller: a browser that was tricked into asking cannot set it.
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut asked = client.clone();
        let answer = within(asked.fetch_x509svid(request)).await;
        // In these words the Workload API takes back what it has given (SPIFFE Workload API, 6.2).
        if answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied) {
            let said = Said::None(Vec::new());
            if send(&reports, Report::Workload { key: what.workload.key.clone(), said }).await.is_err() {
                return;
            }
        }
        let ended = read(answer, &mut backoff, &reports, |message| {
            let bundle = message::own_bundle(&message, &what.id).map(Report::OwnBundle);
            let said = message::workload(message, &what.id);
            let answered = match &said {
                Said::Svid(_) => Report::Answered(WORKLOAD_API),
                Said::None(ids) => {
                    let why = format!("no SVID for {}, but for {}", what.id, ids.join(", "));
                    Report::Failed(WORKLOAD_API, why)
                }
                Said::Useless(why) | Said::Unattested(why) => Report::Failed(WORKLOAD_API, why.clone()),
            };
            let said = Report::Workload { key: what.workload.key.clone(), said };
            bundle.into_iter().chain([said, answered]).collect()
        });
        let Ok(why) = ended.await else { return };
        if send(&reports, Report::Failed(WORKLOAD_API, why)).await.is_err() {
            return;
        }
        sleep(backoff.pause()).await;
    }
}

/// The SVIDs of one of this node's workloads, while the API can be reached.
pub(super) async fn workload(
    what: Subscription,
    channel: Channel,
    mut reachable: watch::Receiver<bool>,
    reports: Reports,
) {
    let mut backoff = Backoff::new();
    let client = DelegatedIdentityClient::new(channel);
    while reachable.wait_for(|reachable| *reachable).await.is_ok() {
        let mut asked = client.clone();
        // The first answer comes when the SVID is signed: as late as that may be.
        let answer = asked.subscribe_to_x509svi_ds(request(&what.workload.reference)).await;
        let ended = read(answer, &mut backoff, &reports, |message| {
            let said = message::delegated(message, &what.id);
            vec![Report::Workload { key: what.workload.key.clone(), said }]
        });
        let Ok(why) = ended.await else { return };
        tracing::debug!(id = %what.id, workload = what.workload.key, %why, "a subscription has ended");
        sleep(backoff.pause()).await;
    }
}

/// The SVIDs of one of this node's workloads over the Broker API: SPIRE's agent is told of a process and attests it
/// itself.
pub(super) async fn by_broker(
    what: Subscription,
    mut channels: Channels,
    mut reachable: watch::Receiver<bool>,
    reports: Reports,
) {
    let mut backoff = Backoff::new();
    while reachable.wait_for(|reachable| *reachable).await.is_ok() {
        let Some(client) = broker(&mut channels).await else { return };
        let Ok(why) = attested(&what, client, &mut backoff, &reports).await else { return };
        tracing::debug!(id = %what.id, workload = what.workload.key, %why, "a subscription has ended");
        sleep(backoff.pause()).await;
    }
}

/// One subscription. Returns why it ended; that the workload was not attested is reported.
async fn attested(
    what: &Subscription,
    mut client: ApiClient<Channel>,
    backoff: &mut Backoff,
    reports: &Reports,
) -> Result<String, Over> {
    let refused = async |why: String| -> Result<String, Over> {
        let said = Said::Unattested(why.clone());
        send(reports, Report::Workload { key: what.workload.key.clone(), said }).await?;
        Ok(why)
    };
    let Some(process) = process_of(&what.workload.reference).await else {
        return refused("no process of it runs".to_owned()).await;
    };
    let request = match reference(process.pid) {
        Ok(reference) => SubscribeToX509svidRequest { reference: Some(reference) },
        Err(status) => return refused(text(&status)).await,
    };
    // The first answer comes when the SVID is signed: as late as that may be.
    let mut stream = match client.subscribe_to_x509svid(marked(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if is_refusal(&status) => return refused(text(&status)).await,
        Err(status) => return Ok(text(&status)),
    };
    let mut is_sure = false;
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok("the stream has ended".to_owned()),
            Err(status) if !is_sure && is_refusal(&status) => return refused(text(&status)).await,
            Err(status) => return Ok(text(&status)),
        };
        // By the first answer the process has been attested; if it still has its ID, it was this one.
        is_sure = is_sure || is_still(process, &what.workload.reference);
        if !is_sure {
            return refused("its process has ended while it was attested".to_owned()).await;
        }
        backoff.reset();
        let said = message::brokered(message, &what.id);
        send(reports, Report::Workload { key: what.workload.key.clone(), said }).await?;
    }
}

/// Whether these are the words of SPIRE's agent about the workload, rather than those of a way to it that is broken.
fn is_refusal(status: &Status) -> bool {
    use Code::{InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(status.code(), InvalidArgument | NotFound | PermissionDenied | Unauthenticated | Unimplemented)
}

async fn process_of(reference: &Reference) -> Option<Process> {
    match reference {
        Reference::Pid(pid) => Process::of(*pid),
        Reference::Namespace(namespace) => {
            let namespace = *namespace;
            tokio::task::spawn_blocking(move || Process::in_namespace(namespace)).await.ok()?
        }
        Reference::Caller | Reference::Selectors(_) => None,
    }
}

fn is_still(process: Process, reference: &Reference) -> bool {
    match reference {
        Reference::Namespace(namespace) => process.is_in(*namespace),
        Reference::Pid(_) | Reference::Caller | Reference::Selectors(_) => process.is_alive(),
    }
}

/// Channels to the Broker API, the newest with the newest SVID of ours; none before there is one.
pub(super) type Channels = watch::Receiver<Option<Channel>>;

/// `None` when nobody will have an SVID any more.
async fn broker(channels: &mut Channels) -> Option<ApiClient<Channel>> {
    let channel = channels.wait_for(Option::is_some).await.ok()?.clone()?;
    Some(ApiClient::new(channel))
}

/// As the SPIFFE Broker API demands it of every caller.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("broker.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn reference(pid: i32) -> Result<WorkloadReference, Status> {
    const KIND: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";
    let value = prost::Message::encode_to_vec(&WorkloadPidReference { pid });
    let reference = Some(prost_types::Any { type_url: KIND.to_owned(), value });
    Ok(WorkloadReference { reference })
}

/// The IDs in the first answer about a workload.
pub(super) async fn ask_once(channel: Channel, reference: &Reference) -> Result<BTreeSet<String>, String> {
    let mut client = DelegatedIdentityClient::new(channel);
    let answer = client.subscribe_to_x509svi_ds(request(reference)).await;
    let mut stream = answer.map_err(|status| text(&status))?.into_inner();
    let first = stream.message().await.map_err(|status| text(&status))?;
    Ok(first.map(|message| message::ids(&message)).unwrap_or_default())
}

fn request(reference: &Reference) -> SubscribeToX509sviDsRequest {
    match reference {
        Reference::Pid(pid) => SubscribeToX509sviDsRequest { pid: *pid, ..Default::default() },
        Reference::Selectors(all) => {
            let selector =
                |(kind, value): &(String, String)| Selector { r#type: kind.clone(), value: value.clone() };
            SubscribeToX509sviDsRequest { selectors: all.iter().map(selector).collect(), pid: 0 }
        }
        // Asked elsewhere; here it is refused by SPIRE's agent, which wants one or the other.
        Reference::Caller | Reference::Namespace(_) => SubscribeToX509sviDsRequest::default(),
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silence = |_| Status::deadline_exceeded(format!("no answer within {} s", FIRST_ANSWER.as_secs()));
    timeout(FIRST_ANSWER, asked).await.map_err(silence)?
}

/// Takes messages until the stream ends. Returns why it ended.
async fn read<M>(
    answer: Result<Response<Streaming<M>>, Status>,
    backoff: &mut Backoff,
    reports: &Reports,
    understand: impl Fn(M) -> Vec<Report>,
) -> Result<String, Over> {
    let mut stream = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(text(&status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                backoff.reset();
                for report in understand(message) {
                    send(reports, report).await?;
                }
            }
            Ok(None) => return Ok("the stream has ended".to_owned()),
            Err(status) => return Ok(text(&status)),
        }
    }
}

/// In the words of whoever answered; of a connection that failed, its cause.
fn text(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{:?}: {error}", status.code());
        cause = error.source();
    }
    text
}
