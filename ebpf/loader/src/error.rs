//! What can go wrong, by who is to blame.

use std::path::PathBuf;

/// Why the programs could not be loaded. Nothing has been changed on any interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The directory for pins cannot be made or read: no bpffs there, or no rights.
    #[error("pin directory {path}: {source} (is a bpffs mounted there?)")]
    PinDir {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The kernel refused the object, a map or a program.
    #[error("loading the eBPF object: {0}")]
    Object(#[from] aya::EbpfError),
    /// A program did not pass the verifier, or could not be attached again.
    #[error("program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel says.
        source: Box<aya::programs::ProgramError>,
    },
    /// A pinned map has not the shape of ours. The version in its path should have prevented it.
    #[error(
        "pinned map {map} has keys of {key} and values of {value} bytes, expected {want_key} and {want_value}"
    )]
    Shape {
        /// Its name.
        map: String,
        /// Bytes of a key found.
        key: u32,
        /// Bytes of a value found.
        value: u32,
        /// Bytes of a key expected.
        want_key: u32,
        /// Bytes of a value expected.
        want_value: u32,
    },
    /// The embedded object and this crate were not built together.
    #[error("the embedded object has no {0}: build it again with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// A map could not be opened.
    #[error("map: {0}")]
    Map(#[from] aya::maps::MapError),
    /// What was found pinned could not be taken over.
    #[error(transparent)]
    Takeover(#[from] Error),
}

/// Why an operation on the loaded datapath failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The table has no room left; nothing was changed.
    #[error("{0} is full")]
    Full(&'static str),
    /// The kernel refused an operation on a map.
    #[error("{map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel says.
        source: Box<aya::maps::MapError>,
    },
    /// A program could not be attached. The interface has been taken down, so that nothing passes it.
    #[error("attaching {program} to interface {ifindex}: {reason}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        ifindex: u32,
        /// What the kernel says.
        reason: String,
    },
    /// There is no such interface in this network namespace.
    #[error("no interface {0} in this network namespace")]
    NoInterface(u32),
    /// A slot outside of 1 .. [`crate::common::limits::SLOTS`].
    #[error("endpoint slot {0} is out of range")]
    BadSlot(u16),
    /// No endpoint has the slot.
    #[error("no endpoint in slot {0}")]
    NoEndpoint(u16),
    /// Running a program on a packet failed.
    #[error("test run of {program}: {reason}")]
    TestRun {
        /// The program.
        program: &'static str,
        /// What the kernel says.
        reason: String,
    },
}
