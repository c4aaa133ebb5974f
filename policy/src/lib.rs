//! Documents and identities in, map entries of each endpoint out.
//!
//! Promises: pure (no clock, no files, no sockets, no environment, no random source, no threads), no panic on
//! any input, the same input gives the same output in the same order. A document is taken whole or refused with
//! the field, its line and what to do; what is not enforced is never silently left out.
#![forbid(unsafe_code)]

mod fields;
pub mod limits;
pub mod objects;
pub mod yaml;

pub use fields::DocumentError;
