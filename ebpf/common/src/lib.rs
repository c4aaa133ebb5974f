//! What the kernel programs and user space agree on: identifiers, map keys and values, events, and the whole
//! way from a packet to its verdict.
//!
//! Promises: `no_std`, no dependencies, no `unsafe`; every shared struct is `repr(C)` without implicit
//! padding, and its size is asserted; the code that decides runs in the kernel and in host tests alike.
//! Nothing here panics, allocates, or reads a clock of its own.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod auth;
pub mod config;
pub mod ct;
pub mod endpoint;
pub mod event;
pub mod frag;
pub mod identity;
pub mod ipcache;
pub mod ladder;
pub mod layout;
pub mod limits;
pub mod metrics;
pub mod park;
pub mod policy;
pub mod reason;
