//! What the node saw: flow records, who may read them, and the numbers.
//!
//! Promises: memory is bounded whatever the traffic ([`limits`]); every event is accounted for exactly, as held,
//! overwritten, or lost with the place where it was lost ([`Store`]); a subscriber that reads slowly loses flows
//! and is told how many, and never holds anybody up; the labels of metrics come from the program's text and never
//! from the network ([`Metrics`]). Nothing here decides about packets.
#![forbid(unsafe_code)]

pub mod convert;
pub mod filter;
pub mod latency;
pub mod limits;
pub mod metrics;
pub mod reason;
pub mod record;
pub mod store;
pub mod time;

pub use convert::{Context, Resolve, to_flow};
pub use filter::{Filter, FilterError, FilterSpec};
pub use latency::LatencyWindow;
pub use metrics::Metrics;
pub use record::{
    Direction, Endpoint, Flow, FlowEvent, L4, LossSource, PolicyName, Protocol, Verdict, Workload,
};
pub use store::{Stats, Store, Subscription, TooManySubscribers};
