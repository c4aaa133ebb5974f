//! Which peer an address belongs to: the most specific prefix decides.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Prefixes and their owners.
#[derive(Clone)]
pub struct Routes<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<T> Routes<T> {
    /// Gives the prefix to `owner`, whoever had it.
    pub fn insert(&mut self, prefix: &IpNet, owner: T) {
        match prefix {
            IpNet::V4(prefix) => drop(self.v4.insert(prefix.trunc(), owner)),
            IpNet::V6(prefix) => drop(self.v6.insert(prefix.trunc(), owner)),
        }
    }

    /// The owner of the most specific prefix around the address.
    pub fn owner(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(ip) => self.v4.get_lpm(&Ipv4Net::from(ip)).map(|(_, owner)| owner),
            IpAddr::V6(ip) => self.v6.get_lpm(&Ipv6Net::from(ip)).map(|(_, owner)| owner),
        }
    }
}

/// The two ends of an IP packet, and how long it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Bytes with all headers: what comes after them is padding.
    pub length: usize,
}

impl Header {
    /// Nothing, if it is no IP packet, or not all of it is there.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let number =
            |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
        let (source, destination, length) = match packet.first()? >> 4 {
            4 if packet.len() >= 20 => (address::<4>(packet, 12)?, address::<4>(packet, 16)?, number(2)?),
            6 if packet.len() >= 40 => {
                (address::<16>(packet, 8)?, address::<16>(packet, 24)?, number(4)? + 40)
            }
            _ => return None,
        };
        let smallest = if source.is_ipv4() { 20 } else { 40 };
        (smallest..=packet.len()).contains(&length).then_some(Self { source, destination, length })
    }
}

fn address<const N: usize>(packet: &[u8], at: usize) -> Option<IpAddr>
where
    IpAddr: From<[u8; N]>,
{
    packet.get(at..).and_then(|rest| rest.first_chunk::<N>()).map(|bytes| IpAddr::from(*bytes))
}
