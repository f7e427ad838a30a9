//! Netlink message layout: headers, attributes, alignment. Pure; no sockets.

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_EXCL`.
pub(crate) const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// Bytes of a netlink header.
pub(crate) const HEADER: usize = 16;
/// Set on the type of an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// The type bits of an attribute.
const TYPE_MASK: u16 = 0x3fff;

/// A sequence of netlink messages under construction.
#[derive(Debug, Default, Clone)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// An empty buffer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes so far, to patch headers.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Writes one message: a header, then what `body` writes. The sequence number stays 0 until
    /// the socket sets it.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(&0u32.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(&flags.to_ne_bytes());
        self.put(&[0; 8]);
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.align();
    }

    /// Appends bytes as they are.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// One attribute.
    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let length = (payload.len() + 4) as u16;
        self.put(&length.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(payload);
        self.align();
    }

    /// An attribute with a zero-terminated string.
    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        let mut payload = Vec::with_capacity(text.len() + 1);
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
        self.attribute(kind, &payload);
    }

    /// An attribute with a big-endian 32-bit number (nf_tables).
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// An attribute with a host-order 32-bit number (rtnetlink).
    pub(crate) fn ne32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// An attribute that holds what `body` writes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(&[0; 2]);
        self.put(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn align(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message of a reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// The message type.
    pub(crate) kind: u16,
    /// Header flags.
    pub(crate) flags: u16,
    /// The request's sequence number.
    pub(crate) sequence: u32,
    /// Everything after the header.
    pub(crate) body: &'a [u8],
}

/// Splits a datagram into its messages; stops at the first malformed one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let body = bytes.get(HEADER..length)?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Walks the attributes in `bytes`; stops at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16_at(bytes, 0)? as usize;
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A host-order 32-bit number inside `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_walked_again() {
        let mut buffer = Buffer::new();
        buffer.message(7, REQUEST, |b| {
            b.string(1, "lo");
            b.nest(2, |b| b.be32(3, 5));
        });
        buffer.message(8, ACK, |b| b.put(&[1, 2, 3]));
        let all: Vec<_> = messages(buffer.bytes()).collect();
        assert_eq!(all.len(), 2);
        let attrs: Vec<_> = attributes(all[0].body).collect();
        assert_eq!(attrs[0], (1, b"lo\0".as_slice()));
        assert_eq!(
            attributes(attrs[1].1).next(),
            Some((3, [0, 0, 0, 5].as_slice()))
        );
        assert_eq!((all[1].kind, all[1].body), (8, [1, 2, 3].as_slice()));
    }

    #[test]
    fn truncated_input_ends_the_walk() {
        assert_eq!(messages(&[16, 0, 0, 0, 1]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
