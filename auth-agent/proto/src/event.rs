//! What the shell tells the machine.

use std::net::IpAddr;
use std::sync::Arc;

use crate::pair::Pair;
use crate::reason::FailureKind;
use crate::required::Required;

/// Something that happened. Times are nanoseconds of the boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The datapath met a packet without a live entry, or without a binding of its remote address.
    /// For frames at hand use [`crate::Machine::admit`], which also says what to do with the frame.
    Missing {
        /// The pair as the datapath names it.
        pair: Pair,
        /// The remote pod's address, where the datapath asks for a binding.
        remote_ip: Option<IpAddr>,
    },
    /// A handshake succeeded: the peer is verified, and both sides have acknowledged.
    HandshakeDone {
        /// The pair; the assertions are about its `remote` identity on its `node`.
        pair: Pair,
        /// Who dialled.
        via: Via,
        /// When the handshake began, before any certificate of it was chosen or checked.
        started_at: u64,
        /// The earlier end of both leaf certificates.
        not_after: u64,
        /// What the peer says about its endpoints of the remote identity.
        assertions: Vec<Assertion>,
    },
    /// A handshake that the machine had started failed.
    HandshakeFailed {
        /// The pair of the [`crate::Action::Start`].
        pair: Pair,
        /// The attempt of the [`crate::Action::Start`].
        attempt: u64,
        /// Why.
        why: FailureKind,
    },
    /// The identity has a new SVID, or has one again: what failed for want of it is tried again.
    SvidRotated {
        /// The identity.
        identity: u32,
    },
    /// The identity's SVID was revoked: its entries go at once, and handshakes under way count for nothing.
    SvidRevoked {
        /// The identity.
        identity: u32,
    },
    /// The node has said that it speaks for the identity no longer: what that identity has proved from there goes.
    Disowned {
        /// The identity.
        identity: u32,
        /// The node that said so.
        node: u16,
    },
    /// The identity exists nowhere any more.
    IdentityGone {
        /// The identity.
        identity: u32,
    },
    /// The last endpoint of the identity on this node is gone; on other nodes the identity may live on.
    EndpointsGone {
        /// The identity.
        identity: u32,
    },
    /// The remote address has no owner any more (its pod was deleted): it is unbound at once.
    AddressGone {
        /// The address.
        ip: IpAddr,
    },
    /// The node has left.
    NodeGone {
        /// The node.
        node: u16,
    },
    /// What policy requires to be authenticated now. Until the first such event, everything is.
    PolicyChanged {
        /// The pairs.
        required: Arc<Required>,
    },
    /// The packets of the pair are being let through (a hint for [`crate::Config::renew_unused`]).
    Used {
        /// The pair.
        pair: Pair,
    },
    /// The identity source is away: nothing is renewed or extended until it is back.
    SourceDown,
    /// The identity source is back.
    SourceUp,
    /// A trust bundle changed: every live entry must be proved again within `within` or it goes.
    Revalidate {
        /// How long the entries that are not proved again may stay.
        within: u64,
    },
    /// An entry found in the pinned map at the start of the agent.
    Restored {
        /// The pair as in the map.
        pair: Pair,
        /// Its end.
        expires_at: u64,
        /// Its epoch.
        epoch: u32,
        /// Its generation.
        generation: u32,
    },
    /// A binding found in the pinned map at the start of the agent; after the pairs that hold it.
    RestoredBinding {
        /// The remote address.
        ip: IpAddr,
        /// Its identity.
        identity: u32,
        /// Its node.
        node: u16,
        /// Its generation.
        generation: u32,
    },
    /// Forget all proofs and failures. Pairs with packets waiting are proved again.
    Flush,
    /// Nothing happened but time.
    Tick,
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// This agent, for the [`crate::Action::Start`] with this attempt.
    Dialled {
        /// The attempt.
        attempt: u64,
    },
    /// The peer.
    Inbound,
}

/// The owning node's word that an endpoint with this address has the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assertion {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The endpoint's generation at its owner; another endpoint with the same address has another one.
    pub generation: u32,
}
