//! The messages inside TLS: a four-byte length (big endian) and a protobuf message, once each way, and
//! an acknowledgement.
//!
//! What the wire carries is in [`wire`]; everything else sees only the validated forms.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::limits::{MAX_ASSERTIONS, MAX_DISOWNED, MAX_MESSAGE_BYTES, MAX_NODE_NAME_BYTES, PROTOCOL_VERSION};
use super::tunnel::Tunnel;

/// The messages as they are on the wire. Field numbers are the protocol: never reuse one.
pub mod wire {
    /// "This address is an endpoint of mine with that identity."
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Assertion {
        /// Four or sixteen bytes.
        #[prost(bytes = "vec", tag = "1")]
        pub ip: Vec<u8>,
        /// Changes whenever the address passes to another endpoint.
        #[prost(uint32, tag = "2")]
        pub generation: u32,
    }

    /// The client's message.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Hello {
        /// The protocol's version.
        #[prost(uint32, tag = "1")]
        pub version: u32,
        /// The client's node.
        #[prost(string, tag = "2")]
        pub node: String,
        /// The node it means to talk to.
        #[prost(string, tag = "3")]
        pub to_node: String,
        /// The identity its SVID speaks for.
        #[prost(uint32, tag = "4")]
        pub identity: u32,
        /// The identity it asked for.
        #[prost(uint32, tag = "5")]
        pub asked_identity: u32,
        /// Its endpoints of `identity`.
        #[prost(message, repeated, tag = "6")]
        pub assertions: Vec<Assertion>,
        /// Until when it would let the pair live: Unix seconds.
        #[prost(uint64, tag = "7")]
        pub not_after: u64,
        /// Identities that the client's node speaks for no longer. Heeded if `identity` is 0, the node itself.
        #[prost(uint32, repeated, tag = "8")]
        pub disowned: Vec<u32>,
        /// The tunnel that a preshared key is wanted for. Heeded if `identity` is 0.
        #[prost(message, optional, tag = "9")]
        pub tunnel: Option<Tunnel>,
        /// The tunnel that the client's node sends in from now on. Heeded if `identity` is 0.
        #[prost(message, optional, tag = "10")]
        pub moved: Option<Tunnel>,
    }

    /// A WireGuard tunnel between the two nodes, as the client knows it.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Tunnel {
        /// The client's public key, 32 bytes.
        #[prost(bytes = "vec", tag = "1")]
        pub client_key: Vec<u8>,
        /// Its epoch.
        #[prost(uint64, tag = "2")]
        pub client_epoch: u64,
        /// The server's public key, 32 bytes.
        #[prost(bytes = "vec", tag = "3")]
        pub server_key: Vec<u8>,
        /// Its epoch.
        #[prost(uint64, tag = "4")]
        pub server_epoch: u64,
    }

    /// The server's answer.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Reply {
        /// The protocol's version.
        #[prost(uint32, tag = "1")]
        pub version: u32,
        /// The server's node.
        #[prost(string, tag = "2")]
        pub node: String,
        /// 0 if accepted, else the number of a refusal.
        #[prost(uint32, tag = "3")]
        pub refusal: u32,
        /// Its endpoints of the identity asked for.
        #[prost(message, repeated, tag = "4")]
        pub assertions: Vec<Assertion>,
        /// Until when both let the pair live: Unix seconds.
        #[prost(uint64, tag = "5")]
        pub not_after: u64,
    }

    /// The client's last word: its entry is installed.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Ack {
        /// Always true; an aborted handshake is a closed connection.
        #[prost(bool, tag = "1")]
        pub installed: bool,
    }
}

/// An address of an endpoint that has the identity in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assertion {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// Changes whenever the address passes to another endpoint.
    pub generation: u32,
}

/// Why a server did not accept a client that had authenticated itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No local endpoint has the identity any more.
    NotLocal,
    /// The node has too much to do.
    Overload,
    /// The client's SVID is not that of the identity it names.
    WrongIdentity,
    /// The message's version is not spoken here.
    Version,
    /// It was meant for another node, or came from this one.
    WrongNode,
    /// The node does not want it, for a reason of its own.
    Declined,
}

impl Refusal {
    const ALL: [Self; 6] =
        [Self::NotLocal, Self::Overload, Self::WrongIdentity, Self::Version, Self::WrongNode, Self::Declined];

    fn code(self) -> u32 {
        match self {
            Self::NotLocal => 1,
            Self::Overload => 2,
            Self::WrongIdentity => 3,
            Self::Version => 4,
            Self::WrongNode => 5,
            Self::Declined => 6,
        }
    }

    /// A number from a newer peer is a refusal all the same.
    fn from_code(code: u32) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code).unwrap_or(Self::Declined)
    }
}

/// Why a message was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Larger than [`MAX_MESSAGE_BYTES`].
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
    /// Not the protobuf it should be.
    #[error("not the message expected: {0}")]
    Protobuf(String),
    /// More than [`MAX_ASSERTIONS`].
    #[error("{0} assertions are too many")]
    TooManyAssertions(usize),
    /// More than [`MAX_DISOWNED`].
    #[error("{0} identities are too many to disown at once")]
    TooManyDisowned(usize),
    /// An address of neither four nor sixteen bytes, or one no endpoint can have.
    #[error("an assertion's address cannot be an endpoint's")]
    Address,
    /// A WireGuard key of other than 32 bytes.
    #[error("a WireGuard key is 32 bytes")]
    WireguardKey,
    /// A node name that is empty, too long, or holds other than letters, digits, `.`, `-` and `_`.
    #[error("not a node name")]
    NodeName,
    /// A version that is not spoken here.
    #[error("version {0} is not spoken here")]
    Version(u32),
}

/// A client's message, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The client's node.
    pub node: String,
    /// The node it means to talk to.
    pub to_node: String,
    /// The identity it says its SVID speaks for.
    pub identity: u32,
    /// The identity it asked for.
    pub asked_identity: u32,
    /// Its endpoints of `identity`.
    pub assertions: Vec<Assertion>,
    /// Until when it would let the pair live: Unix seconds.
    pub not_after: u64,
    /// Identities that its node speaks for no longer, if it is the node that speaks.
    pub disowned: Vec<u32>,
    /// The tunnel that it wants a preshared key for, if it is the node that speaks.
    pub tunnel: Option<Tunnel>,
    /// The tunnel that it sends in from now on, likewise.
    pub moved: Option<Tunnel>,
}

/// A server's message, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The server's node.
    pub node: String,
    /// The server's endpoints of the identity asked for, and until when the pair may live (Unix
    /// seconds); or why not.
    pub verdict: Result<(Vec<Assertion>, u64), Refusal>,
}

impl Hello {
    /// Length and message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame(&wire::Hello {
            version: PROTOCOL_VERSION,
            node: self.node.clone(),
            to_node: self.to_node.clone(),
            identity: self.identity,
            asked_identity: self.asked_identity,
            assertions: to_wire(&self.assertions),
            not_after: self.not_after,
            disowned: self.disowned.clone(),
            tunnel: self.tunnel.as_ref().map(Tunnel::to_wire),
            moved: self.moved.as_ref().map(Tunnel::to_wire),
        })
    }

    /// Takes a message without its length.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let wire: wire::Hello = decode(bytes)?;
        check_version(wire.version)?;
        Ok(Self {
            node: node_name(wire.node)?,
            to_node: node_name(wire.to_node)?,
            identity: wire.identity,
            asked_identity: wire.asked_identity,
            assertions: from_wire(&wire.assertions)?,
            not_after: wire.not_after,
            disowned: few(wire.disowned)?,
            tunnel: wire.tunnel.as_ref().map(Tunnel::from_wire).transpose()?,
            moved: wire.moved.as_ref().map(Tunnel::from_wire).transpose()?,
        })
    }
}

impl Reply {
    /// Length and message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (refusal, assertions, not_after) = match &self.verdict {
            Ok((assertions, not_after)) => (0, to_wire(assertions), *not_after),
            Err(refusal) => (refusal.code(), Vec::new(), 0),
        };
        let node = self.node.clone();
        frame(&wire::Reply { version: PROTOCOL_VERSION, node, refusal, assertions, not_after })
    }

    /// Takes a message without its length.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let wire: wire::Reply = decode(bytes)?;
        let node = node_name(wire.node)?;
        if wire.refusal != 0 {
            return Ok(Self { node, verdict: Err(Refusal::from_code(wire.refusal)) });
        }
        check_version(wire.version)?;
        Ok(Self { node, verdict: Ok((from_wire(&wire.assertions)?, wire.not_after)) })
    }
}

/// The acknowledgement, with its length.
#[must_use]
pub fn encode_ack() -> Vec<u8> {
    frame(&wire::Ack { installed: true })
}

/// Takes an acknowledgement without its length.
pub fn decode_ack(bytes: &[u8]) -> Result<(), MessageError> {
    match decode::<wire::Ack>(bytes)? {
        wire::Ack { installed: true } => Ok(()),
        wire::Ack { installed: false } => Err(MessageError::Protobuf("not installed".to_owned())),
    }
}

/// Reads one message, without its length; `None` if the peer closed properly before it began. (A
/// connection cut without a TLS close is an error: nobody in between can fake the end.)
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    let got = stream.read(&mut head).await?;
    if got == 0 {
        return Ok(None);
    }
    if let Some(rest) = head.get_mut(got..) {
        stream.read_exact(rest).await?;
    }
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, MessageError::TooLarge(length)));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Whether some text can be a node's name.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_NODE_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

fn frame(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut framed = Vec::with_capacity(body.len() + 4);
    framed.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, MessageError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(MessageError::TooLarge(bytes.len()));
    }
    M::decode(bytes).map_err(|error| MessageError::Protobuf(error.to_string()))
}

fn check_version(version: u32) -> Result<(), MessageError> {
    if version == PROTOCOL_VERSION { Ok(()) } else { Err(MessageError::Version(version)) }
}

fn few(disowned: Vec<u32>) -> Result<Vec<u32>, MessageError> {
    if disowned.len() > MAX_DISOWNED {
        return Err(MessageError::TooManyDisowned(disowned.len()));
    }
    Ok(disowned)
}

fn node_name(name: String) -> Result<String, MessageError> {
    if is_node_name(&name) { Ok(name) } else { Err(MessageError::NodeName) }
}

fn to_wire(assertions: &[Assertion]) -> Vec<wire::Assertion> {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // Whoever asserts more than fits is refused before ([`super::Client::handshake`], the server's answer).
    let fitting = assertions.iter().take(MAX_ASSERTIONS);
    fitting.map(|one| wire::Assertion { ip: bytes(one.ip), generation: one.generation }).collect()
}

fn from_wire(assertions: &[wire::Assertion]) -> Result<Vec<Assertion>, MessageError> {
    if assertions.len() > MAX_ASSERTIONS {
        return Err(MessageError::TooManyAssertions(assertions.len()));
    }
    let one = |wire: &wire::Assertion| Ok(Assertion { ip: address(&wire.ip)?, generation: wire.generation });
    assertions.iter().map(one).collect()
}

fn address(bytes: &[u8]) -> Result<IpAddr, MessageError> {
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        return Err(MessageError::Address);
    };
    let mapped = ip.to_canonical() != ip;
    if mapped || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        return Err(MessageError::Address);
    }
    Ok(ip)
}
