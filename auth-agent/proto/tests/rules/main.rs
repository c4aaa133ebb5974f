//! One rule, one test: the state machine and the parking queue against small stories with exact times.

mod backoff;
mod bindings;
mod fairness;
mod frames;
mod handshakes;
mod node;
mod parking;
mod policy;
mod renewal;
mod restart;
mod revocation;
