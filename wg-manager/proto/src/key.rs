//! Keys: 32 bytes each, told apart by type.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither 44 characters of base64 nor 64 hexadecimal digits.
    #[error("a key is 44 characters of base64 (or 64 hexadecimal digits)")]
    Malformed,
}

/// A Curve25519 public key: the name of a WireGuard peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// True for the all-zero key, which no private key has, and which some tools use as a dummy.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }

    /// 64 lowercase hexadecimal digits, as the UAPI wants it.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        unhex(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        unbase64(text).map(|bytes| Self(*bytes))
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The bytes, to be handed to whoever needs them.
            pub const fn expose(&self) -> &[u8; 32] {
                &self.0
            }

            /// 64 lowercase hexadecimal digits, wiped when dropped.
            pub fn to_hex(&self) -> Zeroizing<String> {
                Zeroizing::new(hex(&self.0))
            }

            /// From 64 hexadecimal digits.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                unhex(text).map(|bytes| Self::from_bytes(*bytes))
            }

            /// 44 characters of base64, wiped when dropped.
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(STANDARD.encode(self.0))
            }

            /// From 44 characters of base64.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                unbase64(text).map(|bytes| Self::from_bytes(*bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }

        /// In constant time.
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.iter().zip(&other.0).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
            }
        }

        impl Eq for $name {}
    };
}

secret! {
    /// A Curve25519 private key, clamped (RFC 7748, section 5) as `wg` shows it.
    PrivateKey
}

secret! {
    /// A preshared key, mixed into the handshake. All zero means "none" to WireGuard.
    PresharedKey
}

impl PrivateKey {
    /// The key made of 32 random bytes of the caller's.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl PresharedKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// True for the all-zero key: WireGuard's way of saying "none".
    pub fn is_zero(&self) -> bool {
        *self == Self([0; 32])
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    let mut text = String::with_capacity(64);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(*byte));
    }
    text
}

fn unhex(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(KeyError::Malformed);
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return Err(KeyError::Malformed) };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Result<u8, KeyError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(KeyError::Malformed),
    }
}

fn unbase64(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    if text.len() != 44 {
        return Err(KeyError::Malformed);
    }
    let decoded = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError::Malformed)?);
    let bytes = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| KeyError::Malformed)?;
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_is_the_one_wg_computes() {
        // `echo AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2A= | wg pubkey` (wireguard-tools 1.0.20210914)
        let private = PrivateKey::from_base64("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2A=").unwrap();
        assert_eq!(private.public().to_string(), "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=");
        assert_eq!(PrivateKey::from_base64(&private.to_base64()).unwrap(), private);
    }

    #[test]
    fn texts_that_are_no_keys() {
        for text in ["", "x", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(PublicKey::from_hex(text), Err(KeyError::Malformed), "{text}");
        }
        for text in ["", "AA==", &"A".repeat(44), &"A".repeat(43), &"!".repeat(44)] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Malformed), "{text}");
        }
    }

    #[test]
    fn text_and_back() {
        let key = PublicKey::from_bytes(std::array::from_fn(|i| i as u8));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(PublicKey::from_hex(&key.to_hex()), Ok(key));
        assert_eq!(PublicKey::from_hex(&key.to_hex().to_uppercase()), Ok(key));
    }

    #[test]
    fn secrets_do_not_show() {
        let private = PrivateKey::from_bytes([7; 32]);
        let preshared = PresharedKey::from_bytes([7; 32]);
        assert_eq!(format!("{private:?} {preshared:?}"), "PrivateKey(…) PresharedKey(…)");
    }

    #[test]
    fn zero_is_recognised() {
        assert!(PresharedKey::from_bytes([0; 32]).is_zero());
        assert!(!PresharedKey::from_bytes([1; 32]).is_zero());
        assert!(PublicKey::from_bytes([0; 32]).is_zero());
    }
}
