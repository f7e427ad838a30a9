//! Wire bytes to JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::JsonError;
use super::read::WellKnown;
use super::table::{self, Field, Kind, Message};
use super::wire::{BYTES, Depth, Raw, Reader, unzigzag};
use crate::any::type_name;

const REDACTED: &str = "[redacted]";

/// Whether secrets are hidden, and how deep the writer has gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) redact: bool,
    pub(super) depth: Depth,
}

/// JSON of a message; fields that the table does not know are left out.
pub(super) fn message(message: Message, bytes: &[u8], at: At) -> Result<Value, JsonError> {
    match WellKnown::of(message.name) {
        Some(known) => well_known(known, message, bytes, at),
        None => plain(message, bytes, at).map(Value::Object),
    }
}

fn plain(message: Message, bytes: &[u8], at: At) -> Result<Map<String, Value>, JsonError> {
    let at = At {
        depth: at.depth.deeper()?,
        ..at
    };
    let mut found: Vec<(Field, Value)> = Vec::new();
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        let (number, wire_type, raw) = reader.field()?;
        let Some(field) = message.field(number) else {
            continue;
        };
        let value = field_values(field, wire_type, raw, at).map_err(|e| e.below(field.name))?;
        let present = found
            .iter_mut()
            .find(|(have, _)| have.number == number)
            .map(|(_, value)| value);
        match (present, value) {
            (Some(Value::Array(have)), Value::Array(more)) => have.extend(more),
            (Some(Value::Object(have)), Value::Object(more)) if field.map => have.extend(more),
            (Some(have), value) => *have = value,
            (None, value) => found.push((field, value)),
        }
    }
    found.sort_by_key(|(field, _)| field.number);
    Ok(found
        .into_iter()
        .map(|(field, value)| (field.name.to_owned(), value))
        .collect())
}

fn field_values(field: Field, wire_type: u32, raw: Raw<'_>, at: At) -> Result<Value, JsonError> {
    if field.map {
        let Raw::Bytes(bytes) = raw else {
            return Err(JsonError::new("malformed map entry"));
        };
        let mut entry = plain(field.message(), bytes, at)?;
        let key = match entry.remove("key") {
            Some(Value::String(key)) => key,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let value = match entry.remove("value") {
            Some(value) => value,
            None => default_of(field.message(), at)?,
        };
        return Ok(Value::Object(Map::from_iter([(key, value)])));
    }
    if !field.repeated {
        return single(field, raw, at);
    }
    let packable = !matches!(field.kind, Kind::String | Kind::Bytes | Kind::Message);
    match raw {
        Raw::Bytes(bytes) if packable && wire_type == BYTES => {
            let mut reader = Reader(bytes);
            let mut items = Vec::new();
            while !reader.is_empty() {
                let number = match field.kind {
                    Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                        u64::from_le_bytes(reader.fixed()?)
                    }
                    Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
                        u64::from(u32::from_le_bytes(reader.fixed()?))
                    }
                    _ => reader.varint()?,
                };
                items.push(single(field, Raw::Number(number), at)?);
            }
            Ok(Value::Array(items))
        }
        raw => Ok(Value::Array(vec![single(field, raw, at)?])),
    }
}

/// The value of a map entry that left it out.
fn default_of(entry: Message, at: At) -> Result<Value, JsonError> {
    let Some(field) = entry.field(2) else {
        return Ok(Value::Null);
    };
    match field.kind {
        Kind::Message | Kind::String | Kind::Bytes => single(field, Raw::Bytes(b""), at),
        _ => single(field, Raw::Number(0), at),
    }
}

fn single(field: Field, raw: Raw<'_>, at: At) -> Result<Value, JsonError> {
    let hidden = at.redact && field.sensitive;
    Ok(match (field.kind, raw) {
        (Kind::Message, Raw::Bytes(bytes)) => {
            let value = message(field.message(), bytes, at)?;
            if hidden { hide(value) } else { value }
        }
        (Kind::String, Raw::Bytes(_)) if hidden => REDACTED.into(),
        (Kind::Bytes, Raw::Bytes(_)) if hidden => STANDARD.encode(REDACTED).into(),
        (Kind::String, Raw::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned().into(),
        (Kind::Bytes, Raw::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (kind, Raw::Number(number)) => scalar(field, kind, number),
        _ => return Err(JsonError::new("value has the wrong wire type")),
    })
}

/// Everything textual below a sensitive message.
fn hide(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key, hide(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(hide).collect()),
        Value::String(_) => REDACTED.into(),
        other => other,
    }
}

fn scalar(field: Field, kind: Kind, number: u64) -> Value {
    match kind {
        Kind::Bool => Value::Bool(number != 0),
        Kind::Enum => {
            let wanted = number as i32;
            let name = field
                .enumeration()
                .values()
                .find(|(_, value)| *value == wanted)
                .map(|(name, _)| name);
            name.map_or_else(|| wanted.into(), Into::into)
        }
        Kind::Double => float(f64::from_bits(number)),
        Kind::Float => float(f64::from(f32::from_bits(number as u32))),
        Kind::Uint32 | Kind::Fixed32 => (number as u32).into(),
        Kind::Int32 | Kind::Sfixed32 => (number as i32).into(),
        Kind::Sint32 => unzigzag(number).into(),
        // 64-bit numbers are strings, because JSON readers keep only 53 bits.
        Kind::Uint64 | Kind::Fixed64 => number.to_string().into(),
        Kind::Sint64 => unzigzag(number).to_string().into(),
        _ => number.cast_signed().to_string().into(),
    }
}

fn float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return (value as i64).into();
    }
    Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

fn well_known(known: WellKnown, inner: Message, bytes: &[u8], at: At) -> Result<Value, JsonError> {
    Ok(match known {
        WellKnown::Any => any(bytes, at)?,
        WellKnown::Duration => seconds(bytes)?.into(),
        WellKnown::Timestamp => timestamp(bytes)?.into(),
        WellKnown::Struct => {
            let mut fields = plain(inner, bytes, at)?;
            fields
                .remove("fields")
                .unwrap_or_else(|| Value::Object(Map::new()))
        }
        WellKnown::Value => {
            let fields = plain(inner, bytes, at)?;
            match fields.into_iter().next() {
                Some((name, _)) if name == "null_value" => Value::Null,
                Some((_, value)) => value,
                None => Value::Null,
            }
        }
        WellKnown::ListValue => plain(inner, bytes, at)?
            .remove("values")
            .unwrap_or_else(|| Value::Array(Vec::new())),
        WellKnown::Wrapper => {
            let Some(field) = inner.field(1) else {
                return Ok(Value::Null);
            };
            match plain(inner, bytes, at)?.remove("value") {
                Some(value) => value,
                None if matches!(field.kind, Kind::String | Kind::Bytes) => "".into(),
                None => scalar(field, field.kind, 0),
            }
        }
        WellKnown::FieldMask => match plain(inner, bytes, at)?.remove("paths") {
            Some(Value::Array(paths)) => paths
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(",")
                .into(),
            _ => "".into(),
        },
    })
}

fn any(bytes: &[u8], at: At) -> Result<Value, JsonError> {
    let (mut url, mut value) = (String::new(), &b""[..]);
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        match reader.field()? {
            (1, _, Raw::Bytes(text)) => url = String::from_utf8_lossy(text).into_owned(),
            (2, _, Raw::Bytes(inner)) => value = inner,
            _ => {}
        }
    }
    let mut out = Map::new();
    out.insert("@type".to_owned(), url.clone().into());
    match table::message(type_name(&url)) {
        Some(inner) if WellKnown::of(inner.name).is_some() => {
            out.insert("value".to_owned(), message(inner, value, at)?);
        }
        Some(inner) => out.extend(plain(inner, value, at)?),
        None => {
            out.insert("value".to_owned(), STANDARD.encode(value).into());
        }
    }
    Ok(Value::Object(out))
}

fn two_numbers(bytes: &[u8]) -> Result<(i64, i64), JsonError> {
    let mut parts = (0, 0);
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        match reader.field()? {
            (1, _, Raw::Number(n)) => parts.0 = n.cast_signed(),
            (2, _, Raw::Number(n)) => parts.1 = n.cast_signed(),
            _ => {}
        }
    }
    Ok(parts)
}

/// Three, six or nine digits, as protobuf prints them.
fn fraction(nanos: u64) -> String {
    match nanos {
        0 => String::new(),
        n if n.is_multiple_of(1_000_000) => format!(".{:03}", n / 1_000_000),
        n if n.is_multiple_of(1000) => format!(".{:06}", n / 1000),
        n => format!(".{n:09}"),
    }
}

fn seconds(bytes: &[u8]) -> Result<String, JsonError> {
    let (seconds, nanos) = two_numbers(bytes)?;
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Ok(format!(
        "{sign}{}{}s",
        seconds.unsigned_abs(),
        fraction(nanos.unsigned_abs())
    ))
}

/// RFC 3339 in UTC.
fn timestamp(bytes: &[u8]) -> Result<String, JsonError> {
    let (seconds, nanos) = two_numbers(bytes)?;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, so that a leap day ends its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let fraction = fraction(nanos.unsigned_abs());
    Ok(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    ))
}
