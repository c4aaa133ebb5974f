//! Certificates one after another in DER, as SPIFFE's APIs hand them over.

/// Why bytes are not certificates one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SplitError {
    /// More than are taken.
    TooMany,
    /// Something that is not a DER sequence, or one that is cut off.
    NotDer,
}

/// Cuts at the outer sequences; what is in them is for others to read. No bytes are no certificates.
pub(crate) fn split(mut rest: &[u8], most: usize) -> Result<Vec<&[u8]>, SplitError> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        if parts.len() == most {
            return Err(SplitError::TooMany);
        }
        let length = sequence_length(rest).ok_or(SplitError::NotDer)?;
        let (part, behind) = rest.split_at_checked(length).ok_or(SplitError::NotDer)?;
        parts.push(part);
        rest = behind;
    }
    Ok(parts)
}

/// Length of the sequence at the front, with its header; of three length bytes at most (16 MiB).
fn sequence_length(bytes: &[u8]) -> Option<usize> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *tag != 0x30 {
        return None;
    }
    if *first < 0x80 {
        return Some(2 + usize::from(*first));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=3).contains(&count) {
        return None;
    }
    let length = rest.get(..count)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    Some(2 + count + length)
}
