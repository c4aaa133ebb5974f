//! Tests of the handshake over loopback, one binary.

mod attacks;
mod failures;
mod hello;
mod messages;
mod success;
mod support;
