//! The client's half: prove a pair to the agent of a node.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use countersign_auth_proto::FailureKind;
use countersign_certs::{SpiffeId, VerifiedPeer};
use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::{Failure, Step};
use super::limits::{Deadlines, MAX_ASSERTIONS, MAX_OUTBOUND};
use super::message::{self, Assertion, Hello, Refusal, Reply};
use super::store::{SharedSvidStore, Snapshot};
use super::tunnel::{Exported, Tunnel};
use super::verify::ServerChain;

/// What is to be proved, and to whom.
#[derive(Clone, Debug)]
pub struct Request {
    /// The identity on this node; its SVID is taken from the store.
    pub local_identity: u32,
    /// The identity on the other node.
    pub remote_identity: u32,
    /// The SPIFFE ID the other side must prove.
    pub remote_id: SpiffeId,
    /// The other node's agent.
    pub addr: SocketAddr,
    /// This node's name.
    pub own_node: String,
    /// The other node's name; this node's own for a pair of the same node, and only then.
    pub remote_node: String,
    /// This node's endpoints of `local_identity`.
    pub assertions: Vec<Assertion>,
    /// Until when the pair may live for this node's part: Unix seconds.
    pub not_after: u64,
    /// Identities that this node speaks for no longer, where `local_identity` is the node ([`super::NODE`]).
    pub disowned: Vec<u32>,
    /// The tunnel that a preshared key is wanted for, likewise.
    pub tunnel: Option<Tunnel>,
    /// The tunnel that this node sends in from now on, likewise.
    pub moved: Option<Tunnel>,
}

/// A proved pair.
#[derive(Debug)]
pub struct Outcome {
    /// The other side's chain, verified, speaking for exactly [`Request::remote_id`].
    pub peer: VerifiedPeer,
    /// Until when the pair may live: the earliest of both SVIDs, both nodes' proposals, and the whole
    /// chain. Unix seconds.
    pub not_after: u64,
    /// The other node's endpoints of the remote identity.
    pub assertions: Vec<Assertion>,
    /// The other node's name as it gave it (the one asked for).
    pub remote_node: String,
    /// The preshared key, where one was asked for.
    pub preshared: Option<Exported>,
    /// How long it took.
    pub duration: Duration,
    /// The peer knew only mutual TLS, and closed properly: no assertions, and it did not say that it
    /// accepted us.
    pub plain: bool,
    /// To be sent once this node's entry is installed.
    pub ack: Ack,
}

/// Tells the server that this node's entry is installed. Dropped unsent, the server sees the handshake
/// as aborted.
#[derive(Debug)]
pub struct Ack {
    stream: Option<Box<Stream>>,
    deadline: Duration,
}

type Stream = TlsStream<TcpStream>;

/// Shakes hands with other agents. One for the whole process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    store: SharedSvidStore,
    deadlines: Deadlines,
    under_way: Arc<Semaphore>,
}

impl Client {
    /// Takes SVIDs and bundles from that store.
    #[must_use]
    pub fn new(store: SharedSvidStore, deadlines: Deadlines) -> Self {
        Self { store, deadlines, under_way: Arc::new(Semaphore::new(MAX_OUTBOUND)) }
    }

    /// Proves one pair. Ends within [`Deadlines::total`]. Beyond [`MAX_OUTBOUND`] at once it fails with
    /// `overload`, without having sent anything.
    pub async fn handshake(&self, request: Request) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let Ok(_under_way) = self.under_way.try_acquire() else {
            return Err(Failure::new(FailureKind::Overload, Step::Prepare, "too many handshakes under way"));
        };
        let attempt = Attempt::prepare(&self.store, request)?;
        let outcome = timeout(self.deadlines.total, attempt.run(self.deadlines)).await;
        let mut outcome = outcome.unwrap_or_else(|_| Err(Failure::timeout(Step::Message)))?;
        outcome.duration = started.elapsed();
        Ok(outcome)
    }
}

impl Ack {
    /// Sends it. Errors are not reported: the entry is installed on both sides by now, and the server
    /// notices on its own that the acknowledgement did not come.
    pub async fn send(self) {
        let Some(mut stream) = self.stream else { return };
        // It and the end of the TLS session leave as one packet.
        let session = stream.get_mut().1;
        let _ = std::io::Write::write_all(&mut session.writer(), &message::encode_ack());
        session.send_close_notify();
        let _ = timeout(self.deadline, stream.flush()).await;
    }
}

/// One handshake, with everything it needs looked up.
struct Attempt {
    request: Request,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    chain: Arc<ServerChain>,
    local_not_after: u64,
}

impl Attempt {
    fn prepare(store: &SharedSvidStore, request: Request) -> Result<Self, Failure> {
        let snapshot = store.snapshot();
        check(&request)?;
        let no_svid = |detail: &str| Failure::new(FailureKind::NoSvid, Step::Prepare, detail);
        let local = snapshot.local(request.local_identity);
        let local = local.ok_or_else(|| no_svid("the local identity has no SVID"))?;
        let chain = Arc::new(ServerChain {
            provider: Arc::clone(&store.tls.provider),
            chains: Arc::clone(&store.tls.chains),
            bundle: bundle(&snapshot, &request.remote_id)?,
            expected: request.remote_id.clone(),
            result: OnceLock::new(),
        });
        // A copy of a few pointers; everything expensive in it is shared and was prepared with the SVID.
        let mut config = local.client.clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&chain) as _);
        let name = server_name(&request)?;
        let config = Arc::new(config);
        Ok(Self { request, name, config, chain, local_not_after: local.not_after })
    }

    async fn run(self, deadlines: Deadlines) -> Result<Outcome, Failure> {
        let connected = timeout(deadlines.connect, TcpStream::connect(self.request.addr)).await;
        let tcp = connected
            .map_err(|_| Failure::timeout(Step::Connect))?
            .map_err(|error| Failure::from_io(Step::Connect, &error))?;
        // The messages are small and each waits for the other side's: nothing to gain from waiting.
        let _ = tcp.set_nodelay(true);
        let mut step = Step::Tls;
        let exchanged = timeout(deadlines.exchange, self.exchange(tcp, &mut step)).await;
        let (stream, reply) = exchanged.map_err(|_| Failure::timeout(step))??;
        self.conclude(stream, reply, deadlines)
    }

    /// TLS with the Hello in the client's last flight, and the server's message, if it has one.
    async fn exchange(&self, tcp: TcpStream, step: &mut Step) -> Result<(Stream, Option<Reply>), Failure> {
        let hello = self.hello();
        let connector = TlsConnector::from(Arc::clone(&self.config));
        // rustls keeps it back until the server is verified, and sends it together with the certificate.
        let connecting = connector.connect_with(self.name.clone(), tcp, |connection| {
            let _ = std::io::Write::write_all(&mut connection.writer(), &hello);
        });
        let mut stream = connecting.await.map_err(|error| self.tls_failure(&error))?;
        *step = Step::Message;
        let failed = |error| Failure::from_io(Step::Message, &error);
        let Some(bytes) = message::read(&mut stream).await.map_err(failed)? else {
            return Ok((stream, None));
        };
        let reply = Reply::decode(&bytes)
            .map_err(|error| Failure::new(FailureKind::Malformed, Step::Message, error))?;
        Ok((stream, Some(reply)))
    }

    fn conclude(
        self,
        stream: Stream,
        reply: Option<Reply>,
        deadlines: Deadlines,
    ) -> Result<Outcome, Failure> {
        let Some(Ok(peer)) = self.chain.result.get().cloned() else {
            return Err(Failure::new(FailureKind::Untrusted, Step::Tls, "the server showed no chain"));
        };
        let plain = reply.is_none();
        let (assertions, replied) = match reply {
            Some(reply) => self.accepted(reply)?,
            None => (Vec::new(), u64::MAX),
        };
        let limits = [replied, self.request.not_after, self.local_not_after, peer.not_after()];
        let tunnel = self.request.tunnel.as_ref().filter(|_| !plain);
        let nodes = [&*self.request.own_node, &*self.request.remote_node];
        let preshared = tunnel
            .map(|tunnel| tunnel.export(stream.get_ref().1, nodes))
            .transpose()
            .map_err(|error| Failure::from_tls(Step::Message, &error))?;
        let stream = (!plain).then(|| Box::new(stream));
        Ok(Outcome {
            preshared,
            not_after: limits.into_iter().min().unwrap_or(0),
            peer,
            assertions,
            remote_node: self.request.remote_node,
            duration: Duration::ZERO,
            plain,
            ack: Ack { stream, deadline: deadlines.exchange },
        })
    }

    /// What the server's message says, if it comes from the node asked for. A handshake that was sent
    /// back to this node, or on to a third one that has the identity too, ends here.
    fn accepted(&self, reply: Reply) -> Result<(Vec<Assertion>, u64), Failure> {
        let failed = |kind, detail: &str| Failure::new(kind, Step::Message, detail);
        if reply.node != self.request.remote_node {
            return Err(failed(FailureKind::WrongIdentity, "answered by another node than the one asked"));
        }
        reply.verdict.map_err(|refusal| match refusal {
            Refusal::NotLocal => failed(FailureKind::NotLocal, "the identity has just left the node"),
            Refusal::Overload => failed(FailureKind::Overload, "the peer has too much to do"),
            Refusal::WrongIdentity => failed(FailureKind::Refused, "our SVID is not our identity's"),
            Refusal::Version => failed(FailureKind::Refused, "our version is not spoken there"),
            Refusal::WrongNode => failed(FailureKind::Refused, "the peer is not the node we mean"),
            Refusal::Declined => failed(FailureKind::Refused, "the peer's node declined"),
        })
    }

    fn hello(&self) -> Vec<u8> {
        let hello = Hello {
            node: self.request.own_node.clone(),
            to_node: self.request.remote_node.clone(),
            identity: self.request.local_identity,
            asked_identity: self.request.remote_identity,
            assertions: self.request.assertions.clone(),
            not_after: self.request.not_after.min(self.local_not_after),
            disowned: self.request.disowned.clone(),
            tunnel: self.request.tunnel.clone(),
            moved: self.request.moved.clone(),
        };
        hello.encode()
    }

    /// What our verifier found wrong says more than the error that rustls made of it.
    fn tls_failure(&self, error: &std::io::Error) -> Failure {
        match self.chain.result.get() {
            Some(Err(verify)) => Failure::from_verify(verify),
            _ => Failure::from_io(Step::Tls, error),
        }
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    let malformed = |detail: &str| Err(Failure::new(FailureKind::Malformed, Step::Prepare, detail));
    if request.assertions.len() > MAX_ASSERTIONS {
        return malformed("more assertions than a message holds");
    }
    if !message::is_node_name(&request.own_node) || !message::is_node_name(&request.remote_node) {
        return malformed("not a node name");
    }
    Ok(())
}

fn bundle(snapshot: &Snapshot, id: &SpiffeId) -> Result<Arc<countersign_certs::Bundle>, Failure> {
    snapshot.bundle_of(id).cloned().ok_or_else(|| {
        Failure::new(FailureKind::NoSvid, Step::Prepare, format!("no bundle of {}", id.trust_domain()))
    })
}

fn server_name(request: &Request) -> Result<ServerName<'static>, Failure> {
    let name = format!("{}.{}", request.remote_identity, request.remote_id.trust_domain_name());
    let name = ServerName::try_from(name);
    name.map_err(|_| Failure::new(FailureKind::Malformed, Step::Prepare, "the trust domain is no DNS name"))
}
