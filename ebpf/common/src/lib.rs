//! What the kernel programs and user space agree on: identifiers, map keys and values, events, and the
//! verdict ladder.
//!
//! Promises: `no_std`, no dependencies; every shared struct is `repr(C)` without implicit padding, and its
//! size and offsets are asserted; one ladder ([`ladder`]) decides in the kernel and in host tests alike.
#![no_std]
#![forbid(unsafe_code)]

pub mod ladder;
pub mod policy;
