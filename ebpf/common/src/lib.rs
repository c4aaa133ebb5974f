//! What the kernel programs and user space agree on: identifiers, map keys and values, events, and the whole
//! way from a packet to its verdict.
//!
//! Promises: `no_std`, no dependencies, no `unsafe`; every shared struct is `repr(C)` without implicit
//! padding, and its size is asserted; the code that decides runs in the kernel and in host tests alike.
//! Nothing here panics, allocates, or reads a clock of its own.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "twin"))]
extern crate std;

pub mod action;
pub mod addr;
pub mod at;
pub mod auth;
pub mod budget;
pub mod config;
#[cfg(any(test, feature = "twin"))]
pub mod craft;
pub mod ct;
pub mod decide;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod frag;
pub mod fragment;
pub mod frame;
pub mod guard;
pub mod identity;
pub mod ipcache;
pub mod ladder;
pub mod layout;
pub mod limits;
pub mod maps;
pub mod metrics;
pub mod packet;
pub mod park;
pub mod parse;
pub mod pod;
pub mod policy;
pub mod proto;
pub mod reason;
pub mod related;
pub mod report;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "twin"))]
pub mod twin;
pub mod wait;
pub mod wire;
