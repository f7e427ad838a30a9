//! Protobuf's wire format, as far as the mapping needs it.

use super::JsonError;

pub(crate) const VARINT: u32 = 0;
pub(crate) const FIXED64: u32 = 1;
pub(crate) const BYTES: u32 = 2;
pub(crate) const FIXED32: u32 = 5;

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_tag(number: u32, wire_type: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

pub(crate) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_tag(number, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(crate) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Messages inside messages, as prost allows too; a reader that follows more could be made to exhaust its stack.
const DEPTH: u32 = 100;

/// How deep a reader has gone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Depth(u32);

impl Depth {
    pub(crate) fn deeper(self) -> Result<Self, JsonError> {
        if self.0 < DEPTH {
            Ok(Self(self.0 + 1))
        } else {
            Err(JsonError::new("is nested too deeply"))
        }
    }
}

/// A field's value as it lies on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Reads fields one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'b>(pub(crate) &'b [u8]);

fn cut() -> JsonError {
    JsonError::new("message is cut short")
}

impl<'b> Reader<'b> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn varint(&mut self) -> Result<u64, JsonError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(cut)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(JsonError::new("number is too long"))
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], JsonError> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*bytes)
    }

    /// The next field: number, wire type and value.
    pub(crate) fn field(&mut self) -> Result<(u32, u32, Raw<'b>), JsonError> {
        let tag = self.varint()?;
        let number =
            u32::try_from(tag >> 3).map_err(|_| JsonError::new("field number is too large"))?;
        let wire_type = (tag & 7) as u32;
        let raw = match wire_type {
            VARINT => Raw::Number(self.varint()?),
            FIXED64 => Raw::Number(u64::from_le_bytes(self.fixed()?)),
            FIXED32 => Raw::Number(u64::from(u32::from_le_bytes(self.fixed()?))),
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| cut())?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
                self.0 = rest;
                Raw::Bytes(bytes)
            }
            _ => return Err(JsonError::new("groups are not supported")),
        };
        Ok((number, wire_type, raw))
    }
}
