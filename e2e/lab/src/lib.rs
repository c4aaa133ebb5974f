//! The lab: nodes, pods and the wire between them, made of network namespaces on one machine, with the real
//! agents and the real packets. What `countersign lab` is made of, and what end-to-end tests and benchmarks use.
//!
//! Promises: bringing a lab up twice repairs it; taking it down leaves nothing, whoever was killed before; labs
//! of different names never meet; manifests take effect within a second; no process of a lab is ever outside of
//! its namespace. Root is needed.

mod agent;
mod backoff;
pub mod cli;
pub mod config;
pub mod demo;
pub mod down;
mod ip;
pub mod lab;
pub mod limits;
pub mod logs;
mod mounts;
pub mod names;
pub mod ns;
pub mod paths;
pub mod plan;
pub mod pod;
pub mod podnet;
pub mod process;
pub mod ps;
pub mod run;
pub mod scan;
pub mod serve;
pub mod spire;
mod supervisor;
pub mod up;
mod wire;

pub use cli::{LabCommand, run};
pub use config::{AgentMode, IdentitySource, LabConfig, LabOptions, Parking};
pub use lab::{Lab, Node, Target};
pub use names::{LabName, PodKey};
pub use pod::{Phase, PodState};
