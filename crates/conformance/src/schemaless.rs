//! Protobuf without its schema: field numbers instead of names. For services whose messages our own code does not know.

use serde_json::{Map, Value, json};

use crate::bytes_spec::observed;

/// Messages inside messages are followed so deep.
const DEEPEST: usize = 16;

/// The fields of a message, each number with the list of its values; `None` when the bytes are no message. A value
/// with a length is text when it is printable, else a message when it can be one.
pub(crate) fn decode(bytes: &[u8]) -> Option<Value> {
    fields(bytes, 0)
}

fn fields(mut bytes: &[u8], depth: usize) -> Option<Value> {
    if depth > DEEPEST {
        return None;
    }
    let mut map = Map::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => json!(varint(&mut bytes)?),
            1 => json!(u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?)),
            5 => json!(u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                with_length(take(&mut bytes, length)?, depth)
            }
            _ => return None,
        };
        let number = (key >> 3).to_string();
        if number == "0" {
            return None;
        }
        let list = map.entry(number).or_insert_with(|| json!([]));
        list.as_array_mut()?.push(value);
    }
    Some(Value::Object(map))
}

fn with_length(bytes: &[u8], depth: usize) -> Value {
    let is_text =
        std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(|one| !one.is_control()));
    if is_text {
        return observed(bytes);
    }
    fields(bytes, depth + 1).unwrap_or_else(|| observed(bytes))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 127).checked_shl(shift)?;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_messages_are_told_apart() {
        let bytes = [8, 150, 1, 18, 2, b'h', b'i', 26, 2, 8, 1, 26, 2, 8, 2];
        assert_eq!(
            decode(&bytes),
            Some(json!({"1": [150], "2": ["hi"], "3": [{"1": [1]}, {"1": [2]}]}))
        );
        assert_eq!(decode(&[8]), None);
        assert_eq!(decode(b"plain text"), None);
    }
}
