//! Why things failed, were removed or were discarded. Names are those of the metrics.

/// Why a handshake failed, told apart by who has to do something about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailureKind {
    /// A deadline passed.
    Timeout,
    /// The peer refused: no listener, or it did not accept our SVID or our message.
    Refused,
    /// The peer's chain does not lead to the trust bundle of its domain.
    Untrusted,
    /// The peer proved another identity, or is another node, than expected.
    WrongIdentity,
    /// A certificate is expired or not valid yet.
    Expired,
    /// The peer says that no endpoint of its node has this identity.
    NotLocal,
    /// The peer, or this agent, has too much to do.
    Overload,
    /// There is no route, or no known address of the node.
    Unreachable,
    /// What the peer sent is not the protocol, or its certificate is not an SVID.
    Malformed,
    /// The peer closed or reset the connection in the middle.
    Closed,
    /// The local identity has no SVID (yet).
    NoSvid,
}

impl FailureKind {
    /// All kinds, in the order of [`crate::Counters::failed`].
    pub const ALL: [Self; 11] = [
        Self::Timeout,
        Self::Refused,
        Self::Untrusted,
        Self::WrongIdentity,
        Self::Expired,
        Self::NotLocal,
        Self::Overload,
        Self::Unreachable,
        Self::Malformed,
        Self::Closed,
        Self::NoSvid,
    ];

    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Untrusted => "untrusted",
            Self::WrongIdentity => "wrong_identity",
            Self::Expired => "expired",
            Self::NotLocal => "not_local",
            Self::Overload => "overload",
            Self::Unreachable => "unreachable",
            Self::Malformed => "malformed",
            Self::Closed => "closed",
            Self::NoSvid => "no_svid",
        }
    }

    /// Whether the cause often passes by itself within a second (a pod just placed, an SVID on its way, an
    /// agent restarting): its packets may wait for a few more tries instead of being discarded.
    pub const fn is_passing(self) -> bool {
        match self {
            Self::NotLocal | Self::NoSvid | Self::Overload | Self::Refused => true,
            Self::Timeout | Self::Untrusted | Self::WrongIdentity | Self::Expired => false,
            Self::Unreachable | Self::Malformed | Self::Closed => false,
        }
    }

    /// Whether it says something about the way to the node and not about the pair.
    pub const fn is_network(self) -> bool {
        match self {
            Self::Timeout | Self::Refused | Self::Unreachable => true,
            Self::Untrusted | Self::WrongIdentity | Self::Expired | Self::NotLocal => false,
            Self::Overload | Self::Malformed | Self::Closed | Self::NoSvid => false,
        }
    }
}

/// Which bound was met.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Overload {
    /// The table of pairs is full of entries that may not be evicted.
    Table,
    /// This local identity has used up its share of the table.
    Identity,
    /// The queue of handshakes is full.
    Queue,
}

impl Overload {
    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Identity => "identity",
            Self::Queue => "queue",
        }
    }
}

/// Why frames of a pair are discarded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DiscardReason {
    /// The handshake they waited for failed.
    Failed(FailureKind),
    /// The last handshake failed, and the next is not due yet.
    BackOff(FailureKind),
    /// A bound was met; another try later may succeed.
    Overload(Overload),
    /// The peer did not assert the remote address for this identity.
    NotAsserted,
    /// An identity of the pair was revoked.
    Revoked,
    /// An identity of the pair is gone.
    IdentityGone,
    /// The node is gone.
    NodeGone,
    /// An identity of the pair is reserved or not a pod's, and cannot authenticate.
    Reserved,
}

impl DiscardReason {
    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::BackOff(_) => "backoff",
            Self::Overload(_) => "overload",
            Self::NotAsserted => "not_asserted",
            Self::Revoked => "revoked",
            Self::IdentityGone => "identity_gone",
            Self::NodeGone => "node_gone",
            Self::Reserved => "reserved",
        }
    }
}

/// Why an entry leaves the datapath's map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RemoveReason {
    /// Its time is over.
    Expired,
    /// An identity of the pair was revoked.
    Revoked,
    /// An identity of the pair is gone.
    IdentityGone,
    /// The node is gone.
    NodeGone,
    /// An operator flushed the table.
    Flushed,
    /// A restored entry that does not fit into the table.
    Overload,
}

impl RemoveReason {
    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::IdentityGone => "identity_gone",
            Self::NodeGone => "node_gone",
            Self::Flushed => "flushed",
            Self::Overload => "overload",
        }
    }
}
