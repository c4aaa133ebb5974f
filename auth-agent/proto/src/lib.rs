//! Who must prove what to whom, and until when: the authentication state machine and the parking queue.
//!
//! Promises:
//! - Pure. No clock, no socket, no thread, no global random source: time is an argument, randomness comes
//!   from a seed, and the same events give the same actions.
//! - One handshake at a time for a pair of identities, whatever the number of its packets; failures are
//!   remembered and back off, so a pair that cannot authenticate costs a look-up and not a dial.
//! - A proof counts only if its handshake began after the last revocation that touches it, and an entry
//!   never outlives a certificate it rests on.
//! - Live entries are renewed before they expire, and are not dropped because a renewal fails or because
//!   somebody else makes noise.
//! - Everything is bounded ([`limits`]), fair between local identities and between nodes, and what does not
//!   fit is counted.
//! - Every parked frame leaves exactly once: released in the order of arrival, or discarded with a reason,
//!   at the latest at its deadline.
//!
//! The shell owns one [`Machine`] and one [`Parking`], feeds events with the time of the boot clock in
//! nanoseconds, and does what the actions say:
//!
//! ```
//! use countersign_auth_proto::{Action, Admission, Config, Machine, Pair, ParkLimits, Parking, Source};
//!
//! let mut machine = Machine::new(Config::default(), 7);
//! let mut parking: Parking<Vec<u8>> = Parking::new(ParkLimits::default());
//! let pair = Pair::new(1000, 2000, 1);
//! let now = 1;
//! match machine.admit(pair, None, now) {
//!     Admission::Park => drop(parking.push(pair, Source::Pod(3), vec![0; 60], 60, now)),
//!     Admission::Pass => {} // write the frame back
//!     Admission::Drop(_why) => {}
//! }
//! while let Some(action) = machine.poll_action() {
//!     match action {
//!         Action::Start { .. } => {} // dial; report HandshakeDone or HandshakeFailed with the same attempt
//!         Action::Release { pair } => drop(parking.release(pair)), // write these back, in this order
//!         Action::Discard { pair, .. } => drop(parking.discard(pair)),
//!         _ => {}
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

mod action;
mod agenda;
mod backoff;
mod bindings;
mod config;
mod counters;
mod event;
pub mod limits;
mod machine;
mod pair;
mod park;
mod queue;
mod reason;
mod record;
mod required;
mod rng;
mod status;
mod table;
mod tombs;

pub use action::{Action, Change, Notice};
pub use config::Config;
pub use counters::Counters;
pub use event::{Assertion, Event, Via};
pub use machine::{Admission, Machine};
pub use pair::Pair;
pub use park::{Full, ParkCounters, ParkLimits, Parked, Parking, Source, Tally};
pub use reason::{DiscardReason, FailureKind, Overload, RemoveReason};
pub use required::{Remotes, Required};
pub use status::{PairState, PairStatus, Summary};
