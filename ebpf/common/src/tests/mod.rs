//! Tests on the twin. Every packet goes through the very code that runs in the kernel.

mod audit;
mod budget;
mod flows;
mod guard;
mod ladder;
mod layout;
mod oracle;
mod order;
mod parking;
mod parsing;
mod proofs;
mod reports;
mod scene;
mod unknown;
mod wire;
