//! BSON documents, checked whole and then searched.

use super::{Malformed, Reader};

/// A document whose bytes are in order.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// Its elements, without length and final zero.
    elements: &'a [u8],
}

/// The value of an element, as far as anybody asks.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// A text.
    Text(&'a str),
    /// A document.
    Document(Document<'a>),
    /// A list.
    Array,
    /// An integer of 32 or 64 bits.
    Int(i64),
    /// Any other.
    Other,
}

impl<'a> Document<'a> {
    /// Takes a document off the front; one nested deeper than `depth` is malformed.
    pub(super) fn read(reader: &mut Reader<'a>, depth: u32) -> Result<Self, Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        let mut head = *reader;
        let length = usize::try_from(head.int32()?).map_err(|_| Malformed)?;
        let whole = reader.bytes(length)?;
        let Some((0, elements)) = whole.get(4..).and_then(<[u8]>::split_last) else {
            return Err(Malformed);
        };
        let mut rest = Reader(elements);
        while !rest.0.is_empty() {
            element(&mut rest, depth)?;
        }
        Ok(Self { elements })
    }

    /// The elements in order. Documents below are not checked again.
    fn fields(&self) -> impl Iterator<Item = (&'a [u8], Field<'a>)> + use<'a> {
        let mut rest = Reader(self.elements);
        std::iter::from_fn(move || {
            if rest.0.is_empty() {
                return None;
            }
            element(&mut rest, u32::MAX).ok()
        })
    }

    /// The first element.
    #[must_use]
    pub fn first(&self) -> Option<(&'a [u8], Field<'a>)> {
        self.fields().next()
    }

    /// The first element of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Field<'a>> {
        let mut fields = self.fields();
        fields
            .find(|(have, _)| *have == name.as_bytes())
            .map(|(_, value)| value)
    }
}

fn element<'a>(reader: &mut Reader<'a>, depth: u32) -> Result<(&'a [u8], Field<'a>), Malformed> {
    let [kind] = reader.array()?;
    let name = reader.zero_ended()?;
    // Double, date, timestamp; object id; boolean; null.
    let fixed = match kind {
        0x01 | 0x09 | 0x11 => Some(8),
        0x07 => Some(12),
        0x08 => Some(1),
        0x0A => Some(0),
        _ => None,
    };
    if let Some(length) = fixed {
        reader.bytes(length)?;
        return Ok((name, Field::Other));
    }
    let value = match kind {
        0x02 | 0x0E => {
            let length = usize::try_from(reader.int32()?).map_err(|_| Malformed)?;
            let bytes = reader.bytes(length)?;
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            Field::Text(std::str::from_utf8(text).map_err(|_| Malformed)?)
        }
        0x03 => Field::Document(Document::read(reader, depth)?),
        0x04 => {
            Document::read(reader, depth)?;
            Field::Array
        }
        0x05 => {
            let length = usize::try_from(reader.int32()?).map_err(|_| Malformed)?;
            reader.bytes(1)?;
            reader.bytes(length)?;
            Field::Other
        }
        0x0B => {
            reader.zero_ended()?;
            reader.zero_ended()?;
            Field::Other
        }
        0x10 => Field::Int(reader.int32()?.into()),
        0x12 => Field::Int(reader.int64()?),
        _ => return Err(Malformed),
    };
    Ok((name, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn nested(levels: u32) -> Vec<u8> {
        let mut document = vec![5, 0, 0, 0, 0];
        for _ in 1..levels {
            let length = i32::try_from(document.len() + 8).unwrap();
            let mut outer = length.to_le_bytes().to_vec();
            outer.extend_from_slice(b"\x03a\0");
            outer.extend_from_slice(&document);
            outer.push(0);
            document = outer;
        }
        document
    }

    #[test]
    fn depth_has_a_limit() {
        let bytes = nested(5);
        assert!(Document::read(&mut Reader(&bytes), 5).is_ok());
        assert!(Document::read(&mut Reader(&bytes), 4).is_err());
    }

    #[test]
    fn lengths_that_reach_too_far_are_refused() {
        assert!(Document::read(&mut Reader(&[6, 0, 0, 0, 0]), 5).is_err());
        assert!(Document::read(&mut Reader(&[4, 0, 0, 0]), 5).is_err());
        assert!(Document::read(&mut Reader(b"\x10\0\0\0\x02a\0\xFF\0\0\0\0\0\0\0\0"), 5).is_err());
    }
}
