//! The control socket of the agent: what can be asked, what is answered, and how both travel.
//!
//! Promises: one request per connection, one JSON object per line, no line longer than
//! [`limits::MAX_LINE`]; every wait has a deadline; only root (the agent's own user) is served, everyone else
//! gets a polite [`Error`] and is counted. A response the other side does not know all fields of can still be
//! read; a request with an unknown field is refused, because ignoring a filter would mislead.
//!
//! A response is `{"reply":…}`, or any number of `{"item":…}` and then `{"end":{…}}`, or `{"error":{…}}`.
#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod frame;
pub mod limits;
pub mod request;
pub mod server;
pub mod types;

pub use client::{Client, ClientError, ItemStream};
pub use error::{Error, ErrorKind};
pub use request::{EndpointRef, EndpointSpec, ExplainRequest, FlowFilter, ObserveRequest, Request};
pub use server::{Connection, Counters, Listener, Responder};
pub use types::auth::{AuthEntry, AuthFlushed, AuthState};
pub use types::encrypt::{EncryptPeer, EncryptStatus, KeyRotation, PathMtu, PresharedKey, RotationBegun};
pub use types::endpoint::{EndpointAdded, EndpointEntry, IdentityEntry, IpcacheEntry};
pub use types::flow::{Flow, FlowEndpoint, FlowEvent, FlowL4, FlowPolicy};
pub use types::policy::{
    ExplainAccount, ExplainRule, ExplainSide, PolicyCondition, PolicyDocument, PolicyEntry,
    PolicyExplanation, PolicyView,
};
pub use types::spire::{
    EntryTrouble, MissingSvid, RegistrarEntry, RegistrarTurn, SpireConnection, SpireStatus, SvidEntry,
    TrustDomainEntry,
};
pub use types::status::{
    Authentication, ClusterSource, Datapath, EncryptSummary, Health, HealthState, IdentitySource, LastError,
    MapUse, Parking, PolicyCounts, PolicyMode, Problem, SourceState, Status,
};
pub use types::{Done, Metrics};
