//! `cs_events`: what the programs report.

/// One record of the ring. Addresses and ports are those of the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Event {
    /// When, in nanoseconds of the boot clock.
    pub time: u64,
    /// Source address; IPv4 fills the first four bytes.
    pub source: [u8; 16],
    /// Destination address; IPv4 fills the first four bytes.
    pub destination: [u8; 16],
    /// Identity of the endpoint.
    pub local_identity: u32,
    /// Identity of the peer.
    pub remote_identity: u32,
    /// The rule that decided; 0 is none.
    pub rule_id: u32,
    /// Length of the frame.
    pub length: u32,
    /// Packets of this very flow and reason that were not reported since the last event about them.
    pub suppressed: u32,
    /// Packets of other flows that were not reported and share the memory cell with this one.
    pub suppressed_other: u32,
    /// Source port, host byte order; for ICMP 0.
    pub source_port: u16,
    /// Destination port, host byte order; for ICMP the type.
    pub destination_port: u16,
    /// Slot of the endpoint; 0 where there is none (the wire).
    pub slot: u16,
    /// Node of the peer.
    pub node: u16,
    /// One of [`kind`].
    pub kind: u8,
    /// The field's number of the reason, see [`crate::reason::field_number`].
    pub reason: u8,
    /// Our own, more exact reason; equals `reason` where there is none.
    pub detail: u8,
    /// Direction, one of [`crate::policy::direction`], or [`crate::metrics::WIRE`].
    pub direction: u8,
    /// 4, 6, or 0 for what is not IP.
    pub family: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Authentication that the verdict rests on or asks for.
    pub auth_type: u8,
    /// TCP flags of the packet.
    pub tcp_flags: u8,
}

/// Values of [`Event::kind`].
pub mod kind {
    /// A packet was dropped.
    pub const DROP: u8 = 1;
    /// A packet needs a proof that is not there (at most one event per pair and 100 ms).
    pub const AUTH_REQUIRED: u8 = 2;
    /// A new flow was allowed.
    pub const VERDICT: u8 = 3;
    /// A live flow was cut or parked because its proof ended.
    pub const PROOF_ENDED: u8 = 4;
    /// A flow was allowed that would be dropped if policies in audit mode were enforced; reason and rule are those
    /// of that drop.
    pub const AUDIT: u8 = 5;
    /// A packet's peer has an address of which it is not known yet whose it is (at most one event per address and
    /// 100 ms).
    pub const ADDRESS_UNKNOWN: u8 = 6;
}

const _: () = assert!(size_of::<Event>() == 80);
const _: () = assert!(core::mem::offset_of!(Event, source_port) == 64);
const _: () = assert!(core::mem::offset_of!(Event, kind) == 72);
