//! Where and when a packet is seen.

use crate::config::Config;
use crate::endpoint::Endpoint;

/// A packet's program: what all steps need to know beside the packet.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Settings.
    pub config: &'a Config,
    /// The endpoint that it leaves or reaches.
    pub endpoint: &'a Endpoint,
    /// The coarse clock.
    pub now: u64,
    /// Bytes of the frame.
    pub length: u32,
    /// Direction of the packet, see [`crate::policy::direction`].
    pub direction: u8,
}
