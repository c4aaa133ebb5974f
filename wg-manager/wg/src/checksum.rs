//! The Internet checksum (RFC 1071).

/// Adds `bytes` to a running sum. All but the last piece must have an even length.
pub fn sum(bytes: &[u8], initial: u64) -> u64 {
    let mut total = u128::from(initial);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        total += u128::from(u64::from_ne_bytes(eight));
    }
    let mut tail = [0; 8];
    let rest = words.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    total += u128::from(u64::from_ne_bytes(tail));
    // 2^64 = 1 in ones' complement of 16 bits.
    let folded = (total >> 64) + (total & u128::from(u64::MAX));
    ((folded >> 64) + folded) as u64
}

/// The checksum: the complement of the sum's 16 bits.
pub fn finish(total: u64) -> u16 {
    let mut folded = (total >> 32) + (total & 0xffff_ffff);
    folded = (folded >> 16) + (folded & 0xffff);
    folded = (folded >> 16) + (folded & 0xffff);
    folded = (folded >> 16) + (folded & 0xffff);
    // Summed in the machine's order; the complement's bytes are those of the packet.
    !u16::from_be_bytes((folded as u16).to_ne_bytes())
}

/// The sum of the pseudo header of `packet` (an IPv4 or IPv6 header): addresses, protocol and length of what
/// follows the IP header.
pub fn pseudo_header(packet: &[u8], protocol: u8, length: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let mut rest = [0; 8];
    rest[..4].copy_from_slice(&(length as u32).to_be_bytes());
    rest[7] = protocol;
    sum(&rest, sum(addresses, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in 0usize..1500) {
            // The two zeros of ones' complement are one number.
            let same = |a: u16, b: u16| a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0);
            prop_assert!(same(finish(sum(&bytes, 0)), naive(&bytes)));
            let cut = (cut * 2).min(bytes.len() & !1);
            let pieces = finish(sum(&bytes[cut..], sum(&bytes[..cut], 0)));
            prop_assert!(same(pieces, naive(&bytes)));
        }
    }

    #[test]
    fn all_ones() {
        assert_eq!(finish(sum(&[0xff; 1500], 0)), 0);
        assert_eq!(finish(sum(&[], 0)), 0xffff);
    }
}
