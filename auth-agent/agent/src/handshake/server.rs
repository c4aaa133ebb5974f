//! The server's half: prove local identities to other agents, and learn who asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use countersign_auth_proto::FailureKind;
use countersign_certs::VerifiedPeer;
use rustls::server::{Accepted, Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::failure::{Failure, Step, is_exhaustion};
use super::gate::{Gate, Seat};
use super::limits::{
    ACCEPT_BACKOFF_MAX, ACCEPT_BACKOFF_MIN, CLIENT_HELLO_READ_BYTES, Deadlines, MAX_ASSERTIONS,
};
use super::message::{self, Assertion, Hello, MessageError, Refusal, Reply};
use super::stats::ServerStats;
use super::store::{NODE, SharedSvidStore};
use super::tunnel::{Exported, Tunnel};
use super::unix_now;
use super::verify::ClientChains;

/// What a server says to a name it has no certificate for, whatever is wrong with the name: the very
/// bytes rustls sends for an identity that is not local (a fatal `access_denied` alert).
const NO_SUCH_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31];

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// This node's name.
    pub node: String,
    /// The deadlines; `connect` does not apply.
    pub deadlines: Deadlines,
}

/// An authenticated client, waiting for this agent's node to answer.
#[derive(Debug)]
pub struct Inbound {
    /// The identity it asked for, which was local when it asked.
    pub asked_identity: u32,
    /// The identity it proved: its SVID is that identity's.
    pub remote_identity: u32,
    /// The node it says it is. Nothing proves that but its having the SVID; the node's task compares
    /// `peer_addr` with what it knows of that node.
    pub remote_node: String,
    /// Where it came from.
    pub peer_addr: SocketAddr,
    /// When it connected: before any certificate was chosen or checked.
    pub since: Instant,
    /// Its chain, verified.
    pub peer: VerifiedPeer,
    /// Until when the pair may live: the earliest of both SVIDs, its whole chain, and its proposal. Unix
    /// seconds.
    pub not_after: u64,
    /// Its node's endpoints of `remote_identity`.
    pub assertions: Vec<Assertion>,
    /// Identities that its node speaks for no longer; empty unless it is the node that has proved itself.
    pub disowned: Vec<u32>,
    /// The tunnel that its node wants a preshared key for, and that key; likewise only of a node. To be used when
    /// [`InboundAccept::confirmed`] is told.
    pub tunnel: Option<(Tunnel, Exported)>,
    /// The tunnel that its node sends in from now on; likewise.
    pub moved: Option<Tunnel>,
    /// The answer, to be given once the entry is installed. Dropped, it means `declined`.
    pub respond: oneshot::Sender<Result<InboundAccept, Refusal>>,
}

/// "Installed."
#[derive(Debug, Default)]
pub struct InboundAccept {
    /// This node's endpoints of the identity asked for.
    pub assertions: Vec<Assertion>,
    /// Until when this node lets the pair live: Unix seconds. What is later than [`Inbound::not_after`]
    /// is cut to that.
    pub not_after: u64,
    /// Told when the client has installed its entry too. Dropped unsent if the client went away instead.
    pub confirmed: Option<oneshot::Sender<()>>,
}

/// The listening side.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stats: Arc<ServerStats>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens until it is dropped or shut down. A client that has authenticated itself is sent to
    /// `inbound`; if that is full, it is refused with `overload`.
    pub fn spawn(
        listener: TcpListener,
        config: ServerConfig,
        store: SharedSvidStore,
        inbound: mpsc::Sender<Inbound>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stats = Arc::new(ServerStats::default());
        let shared = Shared::new(config, store, inbound, Arc::clone(&stats)).map_err(io::Error::other)?;
        let accepting = tokio::spawn(accept(listener, Arc::new(shared)));
        Ok(Self { address, stats, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<ServerStats> {
        &self.stats
    }

    /// Ends if the accepting task does, which it never should: a supervisor watches this.
    pub async fn ended(&mut self) {
        let _ = (&mut self.accepting).await;
    }

    /// Stops listening. Handshakes under way end by themselves.
    pub fn shutdown(self) {
        self.accepting.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What all connections of a server share.
struct Shared {
    config: ServerConfig,
    tls: Arc<rustls::ServerConfig>,
    clients: Arc<ClientChains>,
    store: SharedSvidStore,
    inbound: mpsc::Sender<Inbound>,
    gate: Arc<Gate>,
    stats: Arc<ServerStats>,
}

impl Shared {
    fn new(
        config: ServerConfig,
        store: SharedSvidStore,
        inbound: mpsc::Sender<Inbound>,
        stats: Arc<ServerStats>,
    ) -> Result<Self, rustls::Error> {
        let clients = Arc::new(ClientChains {
            provider: Arc::clone(&store.tls.provider),
            chains: Arc::clone(&store.tls.chains),
            store: store.clone(),
        });
        let tls = store.tls.server(Arc::new(LocalOnly(store.clone())), Arc::clone(&clients))?;
        Ok(Self { config, tls: Arc::new(tls), clients, store, inbound, gate: Arc::default(), stats })
    }
}

/// Shows the SVID of the identity asked for, if it is local now. Whatever else is asked gets the same
/// answer at the same cost.
#[derive(Debug)]
struct LocalOnly(SharedSvidStore);

impl ResolvesServerCert for LocalOnly {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.0.snapshot();
        let number = snapshot.asked_number(hello.server_name()?)?;
        snapshot.local(number).map(|local| Arc::clone(&local.certified))
    }
}

/// Accepts for ever. Out of descriptors or memory it waits a little; everything else that `accept`
/// reports concerns the one connection that failed.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut pause = ACCEPT_BACKOFF_MIN;
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                pause = ACCEPT_BACKOFF_MIN;
                shared.stats.count_accepted();
                start(&shared, tcp, peer);
            }
            Err(error) => {
                shared.stats.count_accept_error();
                tracing::debug!(%error, "accepting a handshake failed");
                if is_exhaustion(&error) {
                    sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_BACKOFF_MAX);
                }
            }
        }
    }
}

fn start(shared: &Arc<Shared>, tcp: TcpStream, peer: SocketAddr) {
    let (seat, evicted) = shared.gate.enter(peer.ip());
    if let Some(oldest) = evicted {
        shared.stats.count_evicted();
        oldest.abort();
    }
    let key = seat.key();
    let connection = Connection { shared: Arc::clone(shared), peer, started: Instant::now() };
    let task = tokio::spawn(connection.serve(tcp, seat));
    shared.gate.arm(key, task.abort_handle());
}

/// How a connection ended well.
enum Ended {
    /// The client acknowledged.
    Completed,
    /// It knew only mutual TLS.
    Plain,
}

/// One client.
struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    started: Instant,
}

impl Connection {
    async fn serve(self, tcp: TcpStream, _seat: Seat) {
        let stats = Arc::clone(&self.shared.stats);
        let peer = self.peer;
        match self.handshake(tcp).await {
            Ok(Ended::Completed) => stats.count_completed(),
            Ok(Ended::Plain) => stats.count_plain(),
            Err(failure) => {
                stats.count_failure(failure.kind);
                tracing::debug!(%peer, %failure, "inbound handshake failed");
            }
        }
    }

    async fn handshake(self, tcp: TcpStream) -> Result<Ended, Failure> {
        let local = tcp.local_addr().map_err(|error| Failure::from_io(Step::Connect, &error))?.ip();
        let _ = tcp.set_nodelay(true);
        let mut stream = within(self.exchange_ends(), Step::Tls, self.tls(tcp)).await?;
        let read = within(self.exchange_ends(), Step::Message, read(&mut stream)).await?;
        let Some(message) = read else { return Ok(Ended::Plain) };
        let decoded = Hello::decode(&message);
        let asked = match decoded {
            Ok(hello) => self.check(&stream, hello, local),
            Err(MessageError::Version(_)) => Err(Refusal::Version),
            Err(error) => return Err(Failure::new(FailureKind::Malformed, Step::Message, error)),
        };
        match asked {
            Ok(asked) => self.answer(stream, asked).await,
            Err(refusal) => self.refuse(stream, refusal).await,
        }
    }

    async fn tls(&self, mut tcp: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let accepted = client_hello(&mut tcp).await?;
        let accepting = StartHandshake::from_parts(accepted, tcp).into_stream(Arc::clone(&self.shared.tls));
        accepting.await.map_err(|error| Failure::from_io(Step::Tls, &error))
    }

    /// Whether the client is who it says, means this node, and asks in its message for what it asked for
    /// in TLS.
    fn check(&self, stream: &TlsStream<TcpStream>, hello: Hello, local: IpAddr) -> Result<Asked, Refusal> {
        let session = stream.get_ref().1;
        let snapshot = self.shared.store.snapshot();
        let asked = session.server_name().and_then(|name| snapshot.asked_number(name));
        if asked != Some(hello.asked_identity) {
            return Err(Refusal::NotLocal);
        }
        let local_not_after =
            snapshot.local(hello.asked_identity).map(|local| local.not_after).ok_or(Refusal::NotLocal)?;
        // From the cache of verified chains, as a rule: TLS has just been through it.
        let chain = session.peer_certificates().unwrap_or_default();
        let peer = self.shared.clients.verify(chain, unix_now()).map_err(|_| Refusal::WrongIdentity)?;
        if snapshot.name_of(hello.identity, &hello.node).as_ref() != Some(peer.spiffe_id()) {
            return Err(Refusal::WrongIdentity);
        }
        // Nodes speak with nodes and pods' identities with pods': what a node has to say is nobody else's to say.
        let by_nodes = [hello.identity, hello.asked_identity].map(|number| number == NODE);
        if by_nodes == [true, false]
            || by_nodes == [false, true]
            || (!by_nodes[0]
                && (!hello.disowned.is_empty() || hello.tunnel.is_some() || hello.moved.is_some()))
        {
            return Err(Refusal::WrongIdentity);
        }
        self.check_nodes(&hello, local)?;
        let not_after = hello.not_after.min(peer.not_after()).min(local_not_after);
        let tunnel = match &hello.tunnel {
            Some(tunnel) => {
                let key = tunnel.export(session, [&hello.node, &hello.to_node]);
                Some((tunnel.clone(), key.map_err(|_| Refusal::Declined)?))
            }
            None => None,
        };
        Ok(Asked { hello, tunnel, peer, not_after })
    }

    /// A handshake meant for another node, and one of ours that somebody sent back to us, are refused:
    /// what comes from this node comes from the address it was sent to.
    fn check_nodes(&self, hello: &Hello, local: IpAddr) -> Result<(), Refusal> {
        let own = &self.shared.config.node;
        let from_here = self.peer.ip().to_canonical() == local.to_canonical();
        if hello.to_node != *own || (hello.node == *own && !from_here) {
            return Err(Refusal::WrongNode);
        }
        Ok(())
    }

    async fn answer(&self, stream: TlsStream<TcpStream>, asked: Asked) -> Result<Ended, Failure> {
        let (respond, answer) = oneshot::channel();
        let not_after = asked.not_after;
        let inbound = asked.inbound(self.peer, self.started, respond);
        if self.shared.inbound.try_send(inbound).is_err() {
            return self.refuse(stream, Refusal::Overload).await;
        }
        let waiting = timeout_at(self.ends(), answer).await;
        match waiting.map_err(|_| Failure::timeout(Step::Answer))? {
            Ok(Ok(accept)) => self.accept(stream, accept, not_after).await,
            Ok(Err(refusal)) => self.refuse(stream, refusal).await,
            Err(_) => self.refuse(stream, Refusal::Declined).await,
        }
    }

    async fn accept(
        &self,
        mut stream: TlsStream<TcpStream>,
        accept: InboundAccept,
        not_after: u64,
    ) -> Result<Ended, Failure> {
        if accept.assertions.len() > MAX_ASSERTIONS {
            return self.refuse(stream, Refusal::Declined).await;
        }
        let not_after = not_after.min(accept.not_after);
        self.reply(&mut stream, Ok((accept.assertions, not_after))).await?;
        let read = within(self.ends(), Step::Ack, read(&mut stream)).await?;
        let closed = || Failure::new(FailureKind::Closed, Step::Ack, "closed without acknowledgement");
        message::decode_ack(&read.ok_or_else(closed)?)
            .map_err(|error| Failure::new(FailureKind::Malformed, Step::Ack, error))?;
        if let Some(confirmed) = accept.confirmed {
            let _ = confirmed.send(());
        }
        // Everything has arrived on both sides: a reset spares both the minute of TIME_WAIT, which at
        // thousands of handshakes per second would eat all local ports.
        let _ = stream.get_ref().0.set_zero_linger();
        Ok(Ended::Completed)
    }

    async fn refuse(&self, mut stream: TlsStream<TcpStream>, refusal: Refusal) -> Result<Ended, Failure> {
        self.reply(&mut stream, Err(refusal)).await?;
        let _ = timeout_at(self.ends(), stream.shutdown()).await;
        let kind = match refusal {
            Refusal::NotLocal => FailureKind::NotLocal,
            Refusal::Overload => FailureKind::Overload,
            Refusal::WrongIdentity | Refusal::WrongNode => FailureKind::WrongIdentity,
            Refusal::Version => FailureKind::Malformed,
            Refusal::Declined => FailureKind::Refused,
        };
        Err(Failure::new(kind, Step::Message, format_args!("refused it: {refusal:?}")))
    }

    async fn reply(
        &self,
        stream: &mut TlsStream<TcpStream>,
        verdict: Result<(Vec<Assertion>, u64), Refusal>,
    ) -> Result<(), Failure> {
        let bytes = Reply { node: self.shared.config.node.clone(), verdict }.encode();
        let writing =
            async { stream.write_all(&bytes).await.map_err(|error| Failure::from_io(Step::Message, &error)) };
        within(self.ends(), Step::Message, writing).await
    }

    fn exchange_ends(&self) -> Instant {
        self.after(self.shared.config.deadlines.exchange)
    }

    fn ends(&self) -> Instant {
        self.after(self.shared.config.deadlines.total)
    }

    fn after(&self, span: Duration) -> Instant {
        self.started + span
    }
}

/// A client that may be asked for on the node.
struct Asked {
    hello: Hello,
    tunnel: Option<(Tunnel, Exported)>,
    peer: VerifiedPeer,
    not_after: u64,
}

impl Asked {
    fn inbound(
        self,
        peer_addr: SocketAddr,
        since: Instant,
        respond: oneshot::Sender<Result<InboundAccept, Refusal>>,
    ) -> Inbound {
        Inbound {
            asked_identity: self.hello.asked_identity,
            remote_identity: self.hello.identity,
            remote_node: self.hello.node,
            peer_addr,
            since,
            peer: self.peer,
            not_after: self.not_after,
            assertions: self.hello.assertions,
            disowned: self.hello.disowned,
            tunnel: self.tunnel,
            moved: self.hello.moved,
            respond,
        }
    }
}

/// Reads the ClientHello, in however many records it comes.
async fn client_hello(tcp: &mut TcpStream) -> Result<Accepted, Failure> {
    let failed = |error: &io::Error| Failure::from_io(Step::Tls, error);
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; CLIENT_HELLO_READ_BYTES];
    loop {
        let got = tcp.read(&mut buffer).await.map_err(|error| failed(&error))?;
        if got == 0 {
            return Err(failed(&io::ErrorKind::UnexpectedEof.into()));
        }
        let mut fresh = buffer.get(..got).unwrap_or_default();
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh).map_err(|error| failed(&error))?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    let _ = alert.write_all(&mut bytes);
                    let bytes = if is_about_the_name(&error) { NO_SUCH_NAME.to_vec() } else { bytes };
                    let _ = tcp.write_all(&bytes).await;
                    return Err(Failure::from_tls(Step::Tls, &error));
                }
            }
        }
    }
}

fn is_about_the_name(error: &rustls::Error) -> bool {
    use rustls::{Error, InvalidMessage, PeerMisbehaved};
    matches!(
        error,
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName)
            | Error::InvalidMessage(InvalidMessage::InvalidServerName)
    )
}

async fn read(stream: &mut TlsStream<TcpStream>) -> Result<Option<Vec<u8>>, Failure> {
    message::read(stream).await.map_err(|error| Failure::from_io(Step::Message, &error))
}

async fn within<T>(
    deadline: Instant,
    step: Step,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Failure::timeout(step)))
}
