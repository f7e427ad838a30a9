//! The preamble of Istio's TCP metadata exchange: what two sidecars tell each other before the first byte of a connection.
//!
//! A magic number and a length, both 32 bits in network order, then a message of that length (Istio's
//! `metadata_exchange_initial_header.h`). Each side sends one; nothing follows it but the connection's own bytes.

/// What a preamble starts with.
pub const MAGIC: u32 = 0x3D23_0467;
/// Bytes before the message.
pub const HEADER: usize = 8;
/// Longest message that is taken. Node metadata is some hundred bytes; Istio sets no limit.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Result of looking at the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Undecided: read more.
    NeedMore,
    /// The peer has nothing to tell: these are the connection's own bytes.
    Absent,
    /// A message of this length after the header.
    Message(usize),
    /// A message longer than [`MAX_MESSAGE`].
    TooLong,
}

/// Looks at the first bytes that a peer sent.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Found {
    let magic = MAGIC.to_be_bytes();
    let compared = bytes.len().min(magic.len());
    if bytes[..compared] != magic[..compared] {
        return Found::Absent;
    }
    let Some(length) = bytes[compared..].first_chunk::<4>() else {
        return Found::NeedMore;
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_MESSAGE {
        Found::TooLong
    } else if bytes.len() < HEADER + length {
        Found::NeedMore
    } else {
        Found::Message(length)
    }
}

/// A message with its header; nothing when it is longer than any peer may take.
#[must_use]
pub fn frame(message: &[u8]) -> Vec<u8> {
    if message.len() > MAX_MESSAGE {
        return Vec::new();
    }
    let length = u32::try_from(message.len()).unwrap_or_default();
    let mut out = Vec::with_capacity(HEADER + message.len());
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_read_once_it_is_whole() {
        let mut bytes = frame(b"who I am");
        for end in 0..bytes.len() {
            assert_eq!(inspect(&bytes[..end]), Found::NeedMore, "{end} bytes");
        }
        assert_eq!(inspect(&bytes), Found::Message(8));
        bytes.extend_from_slice(b"and the rest");
        assert_eq!(inspect(&bytes), Found::Message(8));
    }

    #[test]
    fn other_bytes_are_told_by_the_first_that_differs() {
        assert_eq!(inspect(b"G"), Found::Absent);
        assert_eq!(inspect(&[0x3D, 0x23, 0]), Found::Absent);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(inspect(&bytes), Found::TooLong);
    }
}
