//! What is done with a packet. Nothing else is ever done.

/// The programs' answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Goes its way.
    Pass,
    /// Is dropped.
    Drop,
    /// Goes to the parking device, as the errand says.
    Park,
    /// Comes back from parking to its endpoint's device, to be sent there.
    ReleaseOut,
    /// Comes back from parking to its endpoint's device, as if it were received there (from the pod).
    ReleaseIn,
}

/// What a program knows of a packet beside its bytes, and where it sends it. (Not part of [`Action`]: the
/// verifier wants every byte of what is returned to have been written.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Errand {
    /// Interface the packet is on; after [`Action::Park`] and the releases, the one it goes to.
    pub ifindex: u32,
    /// Mark it carries there, after a release.
    pub mark: u32,
    /// Destination and source MAC that it goes there with.
    pub macs: [u8; 12],
    /// How many times it has been parked before, and in which kind of line last, see
    /// [`crate::park::Parked::comes_back`].
    pub round: u8,
}
