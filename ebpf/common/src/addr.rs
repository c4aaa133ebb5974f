//! Addresses of both families in one shape that costs nothing to compare or to copy into a key.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP version 4 in a `family` field.
pub const V4: u8 = 4;
/// IP version 6 in a `family` field.
pub const V6: u8 = 6;

/// An IPv4 or IPv6 address as it stands in the packet (network byte order); IPv4 fills the first word only.
/// The family is always carried beside it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    /// The words of the address, each holding four bytes in the order of the wire.
    pub words: [u32; 4],
}

impl Addr {
    /// The address from the four bytes of an IPv4 header.
    #[must_use]
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self { words: [u32::from_ne_bytes(bytes), 0, 0, 0] }
    }

    /// The address from the sixteen bytes of an IPv6 header.
    #[must_use]
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
                u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
                u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
                u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
            ],
        }
    }

    /// The bytes in the order of the wire; IPv4 fills the first four.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        let [a, b, c, d] = self.words;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// The address and its family.
    #[must_use]
    pub const fn from_ip(ip: IpAddr) -> (Self, u8) {
        match ip {
            IpAddr::V4(ip) => (Self::v4(ip.octets()), V4),
            IpAddr::V6(ip) => (Self::v6(ip.octets()), V6),
        }
    }

    /// The address as the standard library knows it.
    #[must_use]
    pub fn to_ip(&self, family: u8) -> IpAddr {
        let bytes = self.bytes();
        if family == V4 {
            let [a, b, c, d, ..] = bytes;
            return IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        }
        IpAddr::V6(Ipv6Addr::from(bytes))
    }

    /// Whether it is an IPv6 address of the link (`fe80::/10`). IPv4's such range has clouds' services in it,
    /// which are not the host.
    #[must_use]
    #[inline(always)]
    pub const fn is_link_local(&self, family: u8) -> bool {
        let [first, second, ..] = self.words[0].to_ne_bytes();
        family == V6 && first == 0xfe && second & 0xc0 == 0x80
    }

    /// Whether every bit is zero.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }
}
