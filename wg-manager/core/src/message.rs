//! The four messages (whitepaper, section 5.4): where their fields are. Numbers are little-endian.

/// Bytes of a handshake initiation.
pub const INITIATION: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY: usize = 64;
/// Bytes before the sealed packet of a data message.
pub const DATA_HEADER: usize = 16;
/// Bytes that a data message has besides its packet and the padding.
pub const DATA_OVERHEAD: usize = DATA_HEADER + crate::crypto::TAG;

/// What a datagram is, by its first four bytes and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first message of a handshake.
    Initiation,
    /// The second one.
    Response,
    /// "I am under load; prove that you hear me."
    CookieReply,
    /// A sealed packet, or an empty one.
    Data,
}

impl Kind {
    /// Nothing, if it is none of them.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let (kind, _) = datagram.split_first_chunk::<4>()?;
        match (u32::from_le_bytes(*kind), datagram.len()) {
            (1, INITIATION) => Some(Self::Initiation),
            (2, RESPONSE) => Some(Self::Response),
            (3, COOKIE_REPLY) => Some(Self::CookieReply),
            (4, DATA_OVERHEAD..) => Some(Self::Data),
            _ => None,
        }
    }

    pub(crate) const fn word(self) -> [u8; 4] {
        match self {
            Self::Initiation => [1, 0, 0, 0],
            Self::Response => [2, 0, 0, 0],
            Self::CookieReply => [3, 0, 0, 0],
            Self::Data => [4, 0, 0, 0],
        }
    }
}

/// The index that the receiver of a message has chosen. An initiation has none.
pub fn receiver(datagram: &[u8]) -> Option<u32> {
    let at = match Kind::of(datagram)? {
        Kind::Initiation => return None,
        Kind::Response => 8,
        Kind::CookieReply | Kind::Data => 4,
    };
    Some(number(datagram, at))
}

/// The index that the sender of a handshake message has chosen.
pub(crate) fn sender(datagram: &[u8]) -> u32 {
    number(datagram, 4)
}

/// `N` bytes from `at` on. Callers know the message to be long enough; what is missing would be zero.
pub(crate) fn field<const N: usize>(datagram: &[u8], at: usize) -> [u8; N] {
    datagram.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn number(datagram: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(datagram, at))
}
