//! Probes: what tests of the whole and benchmarks do inside pods and on the wire of a real lab.
//!
//! Promises: nothing is measured by another program's clock; a probe's socket lives in its pod's namespace and
//! its thread outside, so that a hundred pods need no hundred processes; a lab that was made is taken down,
//! whatever happened in it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod flow;
pub mod http;
pub mod manifests;
pub mod matrix;
pub mod news;
pub mod probe;
pub mod process;
pub mod sequence;
pub mod spire;
pub mod stats;
pub mod suite;
pub mod tcp;
pub mod udp;
pub mod wire;
pub mod world;
