//! The one way to look at a packet's bytes.

/// A frame: bounds-checked, whatever is behind it.
pub trait Frame {
    /// Bytes of the frame.
    fn len(&self) -> u32;
    /// Whether it carries a VLAN tag outside of its bytes.
    fn vlan(&self) -> bool;
    /// `N` bytes from `offset`; `None` where the frame ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Frame for [u8] {
    fn len(&self) -> u32 {
        self.len() as u32
    }

    fn vlan(&self) -> bool {
        false
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

/// Two bytes in the order of the wire, as a number.
#[inline(always)]
pub(crate) const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// Two bytes as they stand, for keys that keep the order of the wire.
#[inline(always)]
pub(crate) const fn raw16(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}
