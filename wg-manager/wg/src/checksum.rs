//! The Internet checksum (RFC 1071).
//!
//! Sums are kept in the machine's byte order and in 64 bits, and are folded to 16 only at the end: carries
//! need no care on the way.

/// From here on it pays to sum in lanes.
const WIDE: usize = 128;

/// Adds `bytes` to a running sum. All but the last piece must have an even length.
pub fn sum(bytes: &[u8], initial: u64) -> u64 {
    // However often sums are added to sums, there is room for more.
    let initial = (initial >> 32) + (initial & 0xffff_ffff);
    if bytes.len() < WIDE {
        return initial + words(bytes);
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return initial + unsafe { lanes_avx2(bytes) };
    }
    initial + lanes(bytes)
}

/// The sum in words of 64 bits, each counted as its halves: 2^32 is 1 in ones' complement of 16 bits.
fn words(bytes: &[u8]) -> u64 {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let halves = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        (word >> 32).wrapping_add(word & 0xffff_ffff)
    };
    whole.iter().fold(halves(&tail), |total, word| total.wrapping_add(halves(word)))
}

/// The same for long input, written so that the compiler makes vector instructions of it: two sums of one loop.
#[inline(always)]
fn lanes(bytes: &[u8]) -> u64 {
    let (whole, rest) = bytes.as_chunks::<8>();
    let (mut all, mut high) = (0_u64, 0_u64);
    for word in whole {
        let word = u64::from_ne_bytes(*word);
        all = all.wrapping_add(word);
        high = high.wrapping_add(word >> 32);
    }
    // What is lost at the top of `all` is known from `high`: the low halves alone do not reach 64 bits.
    let low = all.wrapping_sub(high << 32);
    words(rest) + low + high
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn lanes_avx2(bytes: &[u8]) -> u64 {
    lanes(bytes)
}

/// A number of 16 bits as it counts in a sum.
pub fn word(number: u16) -> u64 {
    u64::from(number.to_be())
}

/// The checksum: the complement of the sum's 16 bits.
pub fn finish(total: u64) -> u16 {
    let mut folded = (total >> 32) + (total & 0xffff_ffff);
    folded = (folded >> 16) + (folded & 0xffff);
    folded = (folded >> 16) + (folded & 0xffff);
    folded = (folded >> 16) + (folded & 0xffff);
    // Summed in the machine's order; the complement's bytes are those of the packet.
    !u16::from_be(folded as u16)
}

/// The sum of the pseudo header that belongs to the IP header `ip`: addresses and protocol, and without the
/// length.
pub fn addresses(ip: &[u8], protocol: u8) -> u64 {
    let addresses = if ip[0] >> 4 == 4 { &ip[12..20] } else { &ip[8..40] };
    words(addresses) + word(u16::from(protocol))
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

    /// The two zeros of ones' complement are one number.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in 0usize..1500) {
            prop_assert!(same(finish(sum(&bytes, 0)), naive(&bytes)));
            let cut = (cut * 2).min(bytes.len() & !1);
            let pieces = finish(sum(&bytes[cut..], sum(&bytes[..cut], 0)));
            prop_assert!(same(pieces, naive(&bytes)));
            // Every processor's way is the same number.
            let ways = [finish(lanes(&bytes)), finish(words(&bytes))];
            prop_assert!(ways.into_iter().all(|way| same(way, naive(&bytes))));
        }

        #[test]
        fn a_word_counts_as_its_bytes(number: u16, more: u64) {
            prop_assert_eq!(finish(more / 2 + word(number)), finish(sum(&number.to_be_bytes(), more / 2)));
        }
    }

    #[test]
    fn all_ones() {
        assert_eq!(finish(sum(&[0xff; 1500], 0)), 0);
        assert_eq!(finish(sum(&[0xff; 65_536], u64::MAX)), 0);
        assert_eq!(finish(sum(&[], 0)), 0xffff);
    }
}
