//! Endpoints: what the programs know of the pod behind an interface.

use crate::addr::{Addr, V4};
use crate::limits;

/// Value of `cs_endpoints`, keyed by the interface index of the pod's host-side device (and, for the return
/// from parking, the element of `cs_slots` at the endpoint's slot).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// Security identity of the endpoint.
    pub identity: u32,
    /// Interface index of the host-side device; 0 where the slot is free.
    pub ifindex: u32,
    /// IPv4 address in the order of the wire; 0 where it has none.
    pub ip4: u32,
    /// Slot of the endpoint, in 1 .. [`crate::limits::SLOTS`].
    pub slot: u16,
    /// Bit set of [`flag`].
    pub flags: u16,
    /// IPv6 address; all zero where it has none.
    pub ip6: Addr,
    /// MAC of the pod's device.
    pub mac: [u8; 6],
    /// MAC of the host-side device.
    pub host_mac: [u8; 6],
    /// Slot of the policy map that says what policies in audit mode would do; 0 where none is. See [`audit_slot`].
    pub audit_slot: u16,
    /// Always zero.
    pub pad: u16,
}

/// Where the second verdict of the endpoint in a slot has its policy entries: behind those of all endpoints.
#[must_use]
#[inline(always)]
pub const fn audit_slot(slot: u16) -> u16 {
    slot.wrapping_add(limits::SLOTS as u16)
}

/// The endpoint's slot, of its own or of that of its second verdict.
#[must_use]
pub const fn owner(policy_slot: u16) -> u16 {
    policy_slot % limits::SLOTS as u16
}

/// Bits of [`Endpoint::flags`].
pub mod flag {
    /// Everything is attached; without it every packet is dropped.
    pub const READY: u16 = 1;
}

/// Element of `cs_epochs` at the endpoint's slot. A verdict cached under other epochs does not count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Epochs {
    /// Raised whenever the endpoint's policy, its identity, or the identity of an address changed.
    pub policy: u32,
    /// Raised whenever a proof of the endpoint was withdrawn.
    pub auth: u32,
    /// The policy epoch in which the slot was given to this endpoint: flows of older ones were its
    /// predecessor's and are nobody's now.
    pub birth: u32,
    /// Always zero.
    pub pad: u32,
}

impl Endpoint {
    /// Whether the address is the endpoint's own. No address is nobody's.
    #[must_use]
    #[inline(always)]
    pub fn owns(&self, family: u8, address: &Addr) -> bool {
        if family == V4 {
            return self.ip4 != 0 && self.ip4 == address.words[0];
        }
        !self.ip6.is_unspecified() && self.ip6 == *address
    }

    /// The link-local address that the pod's MAC gives it (RFC 4291, appendix A).
    #[must_use]
    #[inline(always)]
    pub const fn link_local(&self) -> Addr {
        let [a, b, c, d, e, f] = self.mac;
        Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

const _: () = assert!(size_of::<Endpoint>() == 48);
const _: () = assert!(core::mem::offset_of!(Endpoint, ip6) == 16);
const _: () = assert!(core::mem::offset_of!(Endpoint, mac) == 32);
const _: () = assert!(core::mem::offset_of!(Endpoint, audit_slot) == 44);
const _: () = assert!(size_of::<Epochs>() == 16);
