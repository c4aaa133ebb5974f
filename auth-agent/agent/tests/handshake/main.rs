//! Tests of the handshake over loopback, one binary.

mod attacks;
mod failures;
mod hello;
mod messages;
mod nodes;
mod success;
mod support;
mod trust;
