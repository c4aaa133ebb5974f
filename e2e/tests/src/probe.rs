//! The datagram that probes send: who, which, when, and a marker that must never be seen on the wire.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// In every probe's payload, and nowhere else.
pub const MARKER: &[u8; 24] = b"countersign-plaintext-85";

/// Length of an encoded probe.
pub const LENGTH: usize = MARKER.len() + 4 + 4 + 8;

/// One numbered datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which flow it belongs to.
    pub flow: u32,
    /// Its number within the flow, from 0.
    pub number: u32,
    /// When it was sent, by this process's clock.
    pub sent: Duration,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the first use of this clock.
#[must_use]
pub fn now() -> Duration {
    START.elapsed()
}

impl Probe {
    /// Number `number` of `flow`, sent now.
    #[must_use]
    pub fn now(flow: u32, number: u32) -> Self {
        Self { flow, number, sent: now() }
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (marker, rest) = bytes.split_at_mut(MARKER.len());
        marker.copy_from_slice(MARKER);
        rest[..4].copy_from_slice(&self.flow.to_be_bytes());
        rest[4..8].copy_from_slice(&self.number.to_be_bytes());
        let nanoseconds = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        rest[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        bytes
    }

    /// From bytes; none if they are not a probe.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MARKER)?;
        let (flow, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (sent, _) = rest.split_first_chunk()?;
        Some(Self {
            flow: u32::from_be_bytes(*flow),
            number: u32::from_be_bytes(*number),
            sent: Duration::from_nanos(u64::from_be_bytes(*sent)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_survives_the_way() {
        let probe = Probe::now(7, 0x0102_0304);
        assert_eq!(Probe::decode(&probe.encode()), Some(probe));
    }

    #[test]
    fn other_bytes_are_no_probe() {
        let bytes = Probe::now(1, 2).encode();
        assert_eq!(Probe::decode(&bytes[..LENGTH - 1]), None);
        assert_eq!(Probe::decode(&bytes[1..]), None);
        assert_eq!(Probe::decode(b""), None);
    }
}
