//! Kubernetes' protobuf encoding of request bodies, read only.
//!
//! Typed clients (`kubectl create namespace`, `auth can-i`, most Go programs) send their bodies in
//! it and take JSON answers. The decoder is generic over a table of messages, `messages.txt`: one
//! line per message, `number:jsonName:type` per field. Types: `s` string, `b` bytes, `i` integer,
//! `z` bool, `T` Time, `M` MicroTime, `D` Duration, `Q` Quantity, `I` IntOrString, `R` embedded
//! JSON, `F` field set, otherwise a message; `*` repeated, `{` map from string, `?` a pointer in
//! the API's Go types: it is kept when zero, where other fields are left out. An empty name is a
//! struct that JSON inlines; the name `[]` is a message that JSON writes as a list. A field that the
//! table does not know is refused, never dropped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
const MESSAGES: &str = include_str!("protobuf/messages.txt");
/// Deepest nesting; the API's own types stay far below.
const MAX_DEPTH: usize = 32;

/// Group versions and the prefix of their messages.
const PREFIXES: &[(&str, &str)] = &[
    ("v1", "core"),
    ("apps/v1", "apps"),
    ("batch/v1", "batch"),
    ("rbac.authorization.k8s.io/v1", "rbac"),
    ("authorization.k8s.io/v1", "authz"),
    ("authentication.k8s.io/v1", "authn"),
    ("networking.k8s.io/v1", "net"),
    ("policy/v1", "policy"),
    ("discovery.k8s.io/v1", "disc"),
    ("coordination.k8s.io/v1", "coord"),
    ("scheduling.k8s.io/v1", "sched"),
    ("autoscaling/v1", "hpa1"),
    ("autoscaling/v2", "hpa"),
    ("admissionregistration.k8s.io/v1", "adm"),
    ("events.k8s.io/v1", "ev"),
];

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// Not in the encoding at all.
    #[error("the body is not in Kubernetes' protobuf encoding")]
    Malformed,
    /// A kind without a table.
    #[error("{kind} in {api_version} cannot be read as protobuf here, send JSON")]
    UnknownKind {
        /// Kind.
        kind: String,
        /// Its apiVersion.
        api_version: String,
    },
    /// A newer client.
    #[error("field {number} of {message} is unknown here, send JSON")]
    UnknownField {
        /// Message.
        message: String,
        /// Field number.
        number: u64,
    },
}

/// Decodes a body into the object it stands for.
///
/// # Errors
/// On malformed bytes, unknown kinds and unknown fields.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Malformed)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    // Delete options travel under the group of what is deleted.
    let prefix = match kind.as_str() {
        "DeleteOptions" => Some("meta"),
        _ => PREFIXES
            .iter()
            .find(|(gv, _)| *gv == api_version)
            .map(|(_, p)| *p),
    };
    let message = prefix
        .map(|p| format!("{p}.{kind}"))
        .filter(|name| fields_of(name).is_some())
        .ok_or_else(|| ProtobufError::UnknownKind {
            kind: kind.clone(),
            api_version: api_version.clone(),
        })?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    if let Value::Object(fields) = decode_message(&message, raw, 0)? {
        object.extend(fields);
    }
    Ok(Value::Object(object))
}

/// The table line of a message.
fn fields_of(message: &str) -> Option<&'static str> {
    MESSAGES
        .lines()
        .find_map(|line| line.strip_prefix(message)?.strip_prefix(' '))
}

/// Name and type of a field.
fn field_of(line: &'static str, number: u64) -> Option<(&'static str, &'static str)> {
    line.split(' ').find_map(|field| {
        let mut parts = field.splitn(3, ':');
        let found = parts.next()?.parse::<u64>().ok()? == number;
        let (name, kind) = (parts.next()?, parts.next()?);
        found.then_some((name, kind))
    })
}

fn decode_message(message: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Malformed);
    }
    let line = fields_of(message).ok_or(ProtobufError::Malformed)?;
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let (name, kind) = field_of(line, number).ok_or_else(|| ProtobufError::UnknownField {
            message: message.to_owned(),
            number,
        })?;
        set(&mut object, name, kind, &wire, depth)?;
    }
    if line.starts_with("1:[]:") {
        return Ok(object.remove("[]").unwrap_or_else(|| json!([])));
    }
    Ok(Value::Object(object))
}

fn set(
    object: &mut Map<String, Value>,
    name: &str,
    kind: &str,
    wire: &Wire<'_>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if let Some(item) = kind.strip_prefix('*') {
        let list = object.entry(name).or_insert_with(|| json!([]));
        let list = list.as_array_mut().ok_or(ProtobufError::Malformed)?;
        return match (item, wire) {
            ("i" | "z", Wire::Bytes(packed)) => {
                let mut rest = *packed;
                while !rest.is_empty() {
                    list.push(scalar(item, &Wire::Varint(varint(&mut rest)?), depth)?);
                }
                Ok(())
            }
            _ => {
                list.push(scalar(item, wire, depth)?);
                Ok(())
            }
        };
    }
    if let Some(item) = kind.strip_prefix('{') {
        let Wire::Bytes(entry) = wire else {
            return Err(ProtobufError::Malformed);
        };
        let (key, value) = entry_of(item, entry, depth)?;
        let map = object.entry(name).or_insert_with(|| json!({}));
        map.as_object_mut()
            .ok_or(ProtobufError::Malformed)?
            .insert(key, value);
        return Ok(());
    }
    let (pointer, kind) = kind.strip_prefix('?').map_or((false, kind), |k| (true, k));
    let value = scalar(kind, wire, depth)?;
    match (name, value) {
        ("", Value::Object(inline)) => object.extend(inline),
        (_, value) if pointer || !is_zero(&value) => {
            object.insert(name.to_owned(), value);
        }
        _ => {}
    }
    Ok(())
}

fn entry_of(item: &str, entry: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut value) = (String::new(), None);
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = string(text)?,
            (2, wire) => value = Some(scalar(item, &wire, depth)?),
            _ => return Err(ProtobufError::Malformed),
        }
    }
    let value = match (value, item) {
        (Some(value), _) => value,
        (None, "s" | "b") => json!(""),
        (None, _) => Value::Null,
    };
    Ok((key, value))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn scalar(kind: &str, wire: &Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    match (kind, wire) {
        // Negative numbers are sign-extended to 64 bits, so the cast restores them.
        #[expect(
            clippy::cast_possible_wrap,
            reason = "two's complement is the encoding"
        )]
        ("i", Wire::Varint(n)) => Ok(json!(*n as i64)),
        ("z", Wire::Varint(n)) => Ok(json!(*n != 0)),
        ("d", Wire::Fixed64(bits)) => Ok(json!(f64::from_bits(*bits))),
        ("s", Wire::Bytes(text)) => Ok(json!(string(text)?)),
        ("b", Wire::Bytes(bytes)) => Ok(json!(STANDARD.encode(bytes))),
        ("T", Wire::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%SZ"),
        ("M", Wire::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        ("Q", Wire::Bytes(bytes)) => Ok(json!(string(bytes_field(bytes, 1)?)?)),
        ("I", Wire::Bytes(bytes)) => int_or_string(bytes),
        ("R" | "F", Wire::Bytes(bytes)) => {
            let raw = bytes_field(bytes, 1)?;
            if raw.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(raw).map_err(|_| ProtobufError::Malformed)
        }
        ("D", Wire::Bytes(bytes)) => {
            let nanos = varint_field(bytes, 1)?;
            Ok(json!(format!("{}ns", nanos)))
        }
        (message, Wire::Bytes(bytes)) => decode_message(message, bytes, depth + 1),
        _ => Err(ProtobufError::Malformed),
    }
}

/// `{seconds, nanos}`; the zero time is encoded as nothing.
fn time(bytes: &[u8], format: &str) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = (varint_field(bytes, 1)?, varint_field(bytes, 2)?);
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Malformed)?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Malformed)?;
    Ok(json!(time.strftime(format).to_string()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    if varint_field(bytes, 1)? == 0 {
        return Ok(json!(varint_field(bytes, 2)?));
    }
    Ok(json!(string(bytes_field(bytes, 3)?)?))
}

fn varint_field(bytes: &[u8], wanted: u64) -> Result<i64, ProtobufError> {
    let mut out = 0;
    for field in Fields(bytes) {
        if let (number, Wire::Varint(n)) = field?
            && number == wanted
        {
            #[expect(
                clippy::cast_possible_wrap,
                reason = "two's complement is the encoding"
            )]
            let signed = n as i64;
            out = signed;
        }
    }
    Ok(out)
}

fn bytes_field(bytes: &[u8], wanted: u64) -> Result<&[u8], ProtobufError> {
    let mut out = &[][..];
    for field in Fields(bytes) {
        if let (number, Wire::Bytes(found)) = field?
            && number == wanted
        {
            out = found;
        }
    }
    Ok(out)
}

fn string(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed)
}

/// One field's payload.
#[derive(Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // Nothing after a broken field can be trusted.
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Wire<'a>), ProtobufError> {
        let tag = varint(&mut self.0)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => {
                let (bits, rest) = self.0.split_first_chunk().ok_or(ProtobufError::Malformed)?;
                self.0 = rest;
                Wire::Fixed64(u64::from_le_bytes(*bits))
            }
            2 => {
                let length =
                    usize::try_from(varint(&mut self.0)?).map_err(|_| ProtobufError::Malformed)?;
                let (bytes, rest) = self
                    .0
                    .split_at_checked(length)
                    .ok_or(ProtobufError::Malformed)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            _ => return Err(ProtobufError::Malformed),
        };
        Ok((tag >> 3, wire))
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut out = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ProtobufError::Malformed)?;
        *bytes = rest;
        if shift < 64 {
            out |= u64::from(byte & 0x7f) << shift;
        }
        if byte & 0x80 == 0 {
            return Ok(out);
        }
    }
    Err(ProtobufError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("short");
        [&[(number << 3) | 2, length], bytes].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_namespace_becomes_json_without_its_zero_values() {
        let labels = [field(1, b"a"), field(2, b"b")].concat();
        let metadata = [
            field(1, b"shop"),
            field(2, b""),
            field(8, b""),
            field(11, &labels),
        ]
        .concat();
        let raw = [field(1, &metadata), field(2, b""), field(3, &field(1, b""))].concat();
        assert_eq!(
            decode(&envelope("v1", "Namespace", &raw)),
            Ok(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"a": "b"}}})
            )
        );
    }

    #[test]
    fn pointers_keep_their_zero() {
        let raw = field(2, &[8, 0]);
        assert_eq!(
            decode(&envelope("apps/v1", "Deployment", &raw)),
            Ok(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0}}))
        );
    }

    #[test]
    fn what_is_not_known_or_broken_is_refused() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Malformed));
        assert_eq!(decode(b"k8s\0\xff"), Err(ProtobufError::Malformed));
        let unknown = decode(&envelope("v1", "Namespace", &[0xf8, 0x07, 1]));
        assert!(matches!(
            unknown,
            Err(ProtobufError::UnknownField { number: 127, .. })
        ));
        assert!(matches!(
            decode(&envelope("v9", "X", b"")),
            Err(ProtobufError::UnknownKind { .. })
        ));
    }

    #[test]
    fn every_message_that_the_table_mentions_is_in_it() {
        for line in MESSAGES.lines() {
            for field in line.split(' ').skip(1) {
                let kind = field
                    .rsplit(':')
                    .next()
                    .expect("a type")
                    .trim_start_matches(['*', '?', '{']);
                let known = kind.len() == 1 || fields_of(kind).is_some();
                assert!(known, "{kind} in {line}");
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let labels = [field(1, b"a"), field(2, b"b")].concat();
        let metadata = [field(1, b"shop"), field(11, &labels)].concat();
        let good = envelope(
            "apps/v1",
            "Deployment",
            &[field(1, &metadata), field(2, &[8, 3])].concat(),
        );
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(MAGIC.len()..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(MAGIC.len()..=bytes.len()));
            let _ = decode(&bytes);
        }
    }
}
