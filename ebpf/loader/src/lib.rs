//! Loads, pins and attaches the eBPF programs, and is the only way from user space to their maps.
//!
//! Promises:
//! * What is attached stays attached when the process ends, and a process that starts again takes over
//!   without a packet going unexamined: links and maps are pinned, links are updated atomically.
//! * An interface is closed before it is open: an endpoint passes packets only when all of its programs are
//!   attached and its record is in the map.
//! * Keys and values are checked types; a table that is full says so ([`Error::Full`]).
//! * One writer: the process that holds the [`Datapath`] writes `cs_config`, `cs_endpoints`, `cs_slots`,
//!   `cs_epochs`, `cs_ip*`, `cs_cidr*`, `cs_policy*`, `cs_auth`, `cs_bound*`, `cs_backoff`, `cs_returned`. The programs
//!   write `cs_ct*`, `cs_frag*`, `cs_pending`, `cs_budgets`, `cs_dedup`, `cs_metrics`, `cs_events`, and
//!   nobody else does.
//!
//! Needs root (`CAP_BPF`, `CAP_NET_ADMIN`) and a bpffs.

mod datapath;
mod device;
mod error;
mod events;
mod links;
mod open;
mod plain;
mod policy;
mod qdisc;
mod tables;
mod test_run;

pub use countersign_ebpf_common as common;
pub use countersign_ebpf_common::twin;
pub use datapath::{Datapath, EndpointConfig};
pub use error::{Error, LoadError};
pub use events::Events;
pub use links::AttachMode;
pub use open::{MapSizes, OpenConfig};
pub use policy::{PolicyOp, PolicyTable};
pub use tables::{Connection, MetricRow, Usage};
pub use test_run::{Skb, TestRun};
