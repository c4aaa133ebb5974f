//! The primitives under their names in the whitepaper (section 5.4), each from a library.

use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, KeyInit, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

/// Bytes that an AEAD adds.
pub const TAG: usize = 16;

/// Something did not authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged;

pub type Key = Zeroizing<[u8; 32]>;

/// `HASH` of all parts, one after the other.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    parts.iter().for_each(|part| state.update(part));
    state.finalize().into()
}

/// `MAC`: keyed BLAKE2s with 16 bytes of output. `key` has 16 or 32 bytes.
pub fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    // No key of this crate is longer than the 32 bytes that the hash takes.
    let Ok(mut state) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; 16] };
    parts.iter().for_each(|part| state.update(part));
    state.finalize().into_bytes().into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // HMAC takes keys of any length.
    let Ok(mut state) = <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key) else {
        return Zeroizing::new([0; 32]);
    };
    parts.iter().for_each(|part| state.update(part));
    Zeroizing::new(state.finalize().into_bytes().into())
}

/// `KDF` with as many outputs as asked for, at most three.
pub fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Key; N] {
    let secret = hmac(key, &[input]);
    let mut last: Option<Key> = None;
    std::array::from_fn(|index| {
        let number = [index as u8 + 1];
        let next = match &last {
            Some(before) => hmac(&*secret, &[&**before, &number]),
            None => hmac(&*secret, &[&number]),
        };
        last = Some(next.clone());
        next
    })
}

/// A ChaCha20-Poly1305 key that is used for many messages.
pub struct Cipher(Option<LessSafeKey>);

impl Cipher {
    pub fn new(key: &[u8; 32]) -> Self {
        // The library refuses keys of another length only. Should it refuse this one, nothing is sealed or opened.
        Self(UnboundKey::new(&aead::CHACHA20_POLY1305, key).ok().map(LessSafeKey::new))
    }

    /// Four zero bytes and the counter, little-endian.
    fn nonce(counter: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    /// Seals all but the last [`TAG`] bytes of `text` in place, and writes the tag there.
    pub fn seal(&self, counter: u64, ad: &[u8], text: &mut [u8]) -> Result<(), Forged> {
        let end = text.len().checked_sub(TAG).ok_or(Forged)?;
        let (plain, tag) = text.split_at_mut(end);
        let key = self.0.as_ref().ok_or(Forged)?;
        let made = key.seal_in_place_separate_tag(Self::nonce(counter), aead::Aad::from(ad), plain);
        tag.copy_from_slice(made.map_err(|_| Forged)?.as_ref());
        Ok(())
    }

    /// Opens `text`, whose last bytes are the tag, in place.
    pub fn open<'a>(&self, counter: u64, ad: &[u8], text: &'a mut [u8]) -> Result<&'a mut [u8], Forged> {
        let key = self.0.as_ref().ok_or(Forged)?;
        key.open_in_place(Self::nonce(counter), aead::Aad::from(ad), text).map_err(|_| Forged)
    }
}

/// The cookie's cipher: a key that lives long, and a random nonce of 24 bytes.
pub fn seal_cookie(key: &[u8; 32], nonce: &[u8; 24], ad: &[u8], cookie: &[u8; 16]) -> Option<[u8; 32]> {
    let mut sealed = [0; 32];
    let (text, tag) = sealed.split_at_mut(16);
    text.copy_from_slice(cookie);
    let cipher = XChaCha20Poly1305::new(key.into());
    let made = cipher.encrypt_in_place_detached(XNonce::from_slice(nonce), ad, text).ok()?;
    tag.copy_from_slice(&made);
    Some(sealed)
}

/// See [`seal_cookie`].
pub fn open_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    ad: &[u8],
    sealed: &[u8; 32],
) -> Result<[u8; 16], Forged> {
    let mut cookie = [0; 16];
    let (text, tag) = sealed.split_at(16);
    cookie.copy_from_slice(text);
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher
        .decrypt_in_place_detached(XNonce::from_slice(nonce), ad, &mut cookie, tag.into())
        .map_err(|_| Forged)?;
    Ok(cookie)
}

/// Equal, in a time that does not depend on where they differ.
pub fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b))) == 0
}
