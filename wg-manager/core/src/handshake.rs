//! The handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (whitepaper, section 5.4). No state but what is
//! returned; when to do it, and with whom, is [`crate::Peer`]'s business.

use countersign_wg_proto::{PrivateKey, PublicKey};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::{Cipher, Forged, Key, TAG, hash, kdf};
use crate::message::{INITIATION, Kind, RESPONSE, field, sender};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Bytes of a timestamp.
pub const STAMP: usize = 12;
/// Bytes of the two MACs at the end of a handshake message.
const MACS: usize = 32;

/// A device's own key.
pub struct Identity {
    private: StaticSecret,
    public: PublicKey,
}

impl Identity {
    /// The device with this key.
    pub fn new(key: &PrivateKey) -> Self {
        Self { private: StaticSecret::from(*key.expose()), public: key.public() }
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What this device and the other one share for ever. An error for keys that share something with nobody:
    /// points of low order.
    pub(crate) fn shared(&self, other: &PublicKey) -> Result<Key, Forged> {
        shared(&self.private, other.as_bytes())
    }
}

fn shared(private: &StaticSecret, public: &[u8; 32]) -> Result<Key, Forged> {
    let made = private.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    if made.was_contributory() { Ok(Zeroizing::new(made.to_bytes())) } else { Err(Forged) }
}

/// Both keys of a new session.
pub struct SessionKeys {
    /// To seal with.
    pub send: Key,
    /// To open with.
    pub receive: Key,
}

/// The chaining key and the hash of all that was said.
struct Chain {
    key: Key,
    hash: [u8; 32],
}

impl Chain {
    fn new(responder: &PublicKey) -> Self {
        let key = hash(&[CONSTRUCTION]);
        let hash = hash(&[&hash(&[&key, IDENTIFIER]), responder.as_bytes()]);
        Self { key: Zeroizing::new(key), hash }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [key] = kdf::<1>(&self.key, input);
        self.key = key;
    }

    /// Mixes `input` in, and gives the cipher for what follows.
    fn cipher(&mut self, input: &[u8]) -> Cipher {
        let [key, cipher] = kdf::<2>(&self.key, input);
        self.key = key;
        Cipher::new(&cipher)
    }

    fn public(&mut self, key: &[u8; 32]) {
        self.mix_hash(key);
        self.mix_key(key);
    }

    fn preshared(&mut self, preshared: &Key) -> Cipher {
        let [key, temporary, cipher] = kdf::<3>(&self.key, &**preshared);
        self.key = key;
        self.mix_hash(&*temporary);
        Cipher::new(&cipher)
    }

    /// `text` with room for the tag at its end.
    fn seal(&mut self, cipher: &Cipher, text: &mut [u8]) -> Result<(), Forged> {
        cipher.seal(0, &self.hash, text)?;
        self.mix_hash(text);
        Ok(())
    }

    fn open<const N: usize>(&mut self, cipher: &Cipher, sealed: &[u8]) -> Result<[u8; N], Forged> {
        let mut text = Zeroizing::new(sealed.to_vec());
        let opened = *cipher.open(0, &self.hash, &mut text)?.first_chunk().ok_or(Forged)?;
        self.mix_hash(sealed);
        Ok(opened)
    }

    fn session(&self, initiator: bool) -> SessionKeys {
        let [first, second] = kdf::<2>(&self.key, &[]);
        if initiator {
            SessionKeys { send: first, receive: second }
        } else {
            SessionKeys { send: second, receive: first }
        }
    }
}

/// An initiation that was sent.
pub struct Initiated {
    /// Our index.
    pub index: u32,
    ephemeral: StaticSecret,
    chain: Chain,
}

/// What the sender of an initiation knows of the other side.
pub struct Remote<'a> {
    /// Who.
    pub public: &'a PublicKey,
    /// [`Identity::shared`] with it.
    pub shared: &'a Key,
}

/// Writes the first message, but for its MACs. `ephemeral` is 32 random bytes.
pub fn initiate(
    own: &Identity,
    remote: &Remote<'_>,
    index: u32,
    mut ephemeral: [u8; 32],
    stamp: [u8; STAMP],
) -> Result<([u8; INITIATION], Initiated), Forged> {
    let secret = StaticSecret::from(ephemeral);
    ephemeral.zeroize();
    let mut message = [0; INITIATION];
    let mut chain = Chain::new(remote.public);
    message[..4].copy_from_slice(&Kind::Initiation.word());
    message[4..8].copy_from_slice(&index.to_le_bytes());
    let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
    message[8..40].copy_from_slice(&public);
    chain.public(&public);
    let cipher = chain.cipher(&*shared(&secret, remote.public.as_bytes())?);
    message[40..72].copy_from_slice(own.public.as_bytes());
    chain.seal(&cipher, &mut message[40..88])?;
    let cipher = chain.cipher(&**remote.shared);
    message[88..100].copy_from_slice(&stamp);
    chain.seal(&cipher, &mut message[88..INITIATION - MACS])?;
    Ok((message, Initiated { index, ephemeral: secret, chain }))
}

/// A first message that was received; its sender is known, but has not proved anything but to know its own name.
pub struct Received {
    /// Who it says it is: only whoever knows the private key could seal that for us.
    pub public: PublicKey,
    sender: u32,
    ephemeral: [u8; 32],
    chain: Chain,
}

/// Reads who sends it.
pub fn receive(own: &Identity, message: &[u8; INITIATION]) -> Result<Received, Forged> {
    let mut chain = Chain::new(&own.public);
    let ephemeral = field(message, 8);
    chain.public(&ephemeral);
    let cipher = chain.cipher(&*shared(&own.private, &ephemeral)?);
    let public = PublicKey::from_bytes(chain.open(&cipher, &message[40..88])?);
    Ok(Received { public, sender: sender(message), ephemeral, chain })
}

impl Received {
    /// The timestamp: now the sender is proved. The message may be an old one.
    pub fn stamp(&mut self, shared: &Key, message: &[u8; INITIATION]) -> Result<[u8; STAMP], Forged> {
        let cipher = self.chain.cipher(&**shared);
        self.chain.open(&cipher, &message[88..INITIATION - MACS])
    }

    /// Writes the second message, but for its MACs: from here on there is a session.
    pub fn respond(
        mut self,
        preshared: &Key,
        index: u32,
        mut ephemeral: [u8; 32],
    ) -> Result<([u8; RESPONSE], u32, SessionKeys), Forged> {
        let secret = StaticSecret::from(ephemeral);
        ephemeral.zeroize();
        let mut message = [0; RESPONSE];
        message[..4].copy_from_slice(&Kind::Response.word());
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..12].copy_from_slice(&self.sender.to_le_bytes());
        let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
        message[12..44].copy_from_slice(&public);
        let chain = &mut self.chain;
        chain.public(&public);
        chain.mix_key(&*shared(&secret, &self.ephemeral)?);
        chain.mix_key(&*shared(&secret, self.public.as_bytes())?);
        let cipher = chain.preshared(preshared);
        chain.seal(&cipher, &mut message[44..RESPONSE - MACS])?;
        Ok((message, self.sender, chain.session(false)))
    }
}

impl Initiated {
    /// The second message is the answer to ours: the other side's index, and the session.
    pub fn finish(
        &self,
        own: &Identity,
        preshared: &Key,
        message: &[u8; RESPONSE],
    ) -> Result<(u32, SessionKeys), Forged> {
        let mut chain = Chain { key: self.chain.key.clone(), hash: self.chain.hash };
        let ephemeral = field(message, 12);
        chain.public(&ephemeral);
        chain.mix_key(&*shared(&self.ephemeral, &ephemeral)?);
        chain.mix_key(&*shared(&own.private, &ephemeral)?);
        let cipher = chain.preshared(preshared);
        let empty: [u8; 0] = chain.open(&cipher, &message[44..44 + TAG])?;
        let [] = empty;
        Ok((sender(message), chain.session(true)))
    }
}
