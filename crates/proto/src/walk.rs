//! Visiting every field that a message sets, at every depth, without knowing the message's type at compile time.
//!
//! `compile` uses it to refuse what it has no effect for, with the path of the field.

use crate::any::type_name;
use crate::json::JsonError;
use crate::json::table::{self, Field, Kind, Message};
use crate::json::wire::{Depth, Raw, Reader};

/// What to do with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Look at the fields of the message inside.
    Enter,
    /// Leave what is inside alone.
    Skip,
    /// Stop with this reason.
    Refuse(String),
}

/// Visits the fields of a message's wire bytes; `judge` sees the message's full name and the field's name.
///
/// The message inside an `Any` is visited as fields of its own type. Fields that the protos do not know are left out.
///
/// # Errors
/// The path and reason of the first refused field, or of bytes that do not decode.
pub fn walk(
    message: &str,
    bytes: &[u8],
    judge: &mut dyn FnMut(&str, &str) -> Step,
) -> Result<(), JsonError> {
    match table::message(message) {
        Some(message) => fields(message, bytes, judge, Depth::default()),
        None => Ok(()),
    }
}

fn fields(
    message: Message,
    bytes: &[u8],
    judge: &mut dyn FnMut(&str, &str) -> Step,
    depth: Depth,
) -> Result<(), JsonError> {
    let depth = depth.deeper()?;
    let mut reader = Reader(bytes);
    let mut counts: Vec<(u32, usize)> = Vec::new();
    while !reader.is_empty() {
        let (number, _, raw) = reader.field()?;
        let Some(field) = message.field(number) else {
            continue;
        };
        let step = judge(message.name, field.name);
        if let Step::Refuse(reason) = step {
            return Err(JsonError::new(reason).below(field.name));
        }
        let position = match counts.iter_mut().find(|(have, _)| *have == number) {
            Some((_, count)) => {
                *count += 1;
                *count - 1
            }
            None => {
                counts.push((number, 1));
                0
            }
        };
        if let (Step::Enter, Kind::Message, Raw::Bytes(inner)) = (step, field.kind, raw) {
            inside(field, position, inner, judge, depth).map_err(|e| e.below(field.name))?;
        }
    }
    Ok(())
}

fn inside(
    field: Field,
    position: usize,
    bytes: &[u8],
    judge: &mut dyn FnMut(&str, &str) -> Step,
    depth: Depth,
) -> Result<(), JsonError> {
    if field.map {
        let (key, value) = entry(bytes)?;
        let Some(target) = field
            .message()
            .field(2)
            .filter(|value| value.kind == Kind::Message)
        else {
            return Ok(());
        };
        return one(target.message(), value, judge, depth)
            .map_err(|e| e.below(&format!("[{key}]")));
    }
    let walked = one(field.message(), bytes, judge, depth);
    if field.repeated {
        walked.map_err(|e| e.below(&format!("[{position}]")))
    } else {
        walked
    }
}

fn one(
    message: Message,
    bytes: &[u8],
    judge: &mut dyn FnMut(&str, &str) -> Step,
    depth: Depth,
) -> Result<(), JsonError> {
    if message.name != "google.protobuf.Any" {
        return fields(message, bytes, judge, depth);
    }
    let (url, value) = entry(bytes)?;
    table::message(type_name(&url)).map_or(Ok(()), |inner| fields(inner, value, judge, depth))
}

/// Fields 1 (text) and 2 (bytes): a map entry or an `Any`.
fn entry(bytes: &[u8]) -> Result<(String, &[u8]), JsonError> {
    let (mut key, mut value) = (String::new(), &b""[..]);
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        match reader.field()? {
            (1, _, Raw::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (1, _, Raw::Number(number)) => key = number.to_string(),
            (2, _, Raw::Bytes(inner)) => value = inner,
            _ => {}
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::json::parse;

    #[test]
    fn a_refused_field_is_named_with_its_path_also_inside_any() {
        let cluster: Cluster = parse(&json!({
            "name": "a",
            "typed_extension_protocol_options": { "x": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": { "allow_metadata": true } }
            } }
        }))
        .unwrap();
        let error = walk(
            "envoy.config.cluster.v3.Cluster",
            &cluster.encode_to_vec(),
            &mut |_, field| match field {
                "allow_metadata" => Step::Refuse("not supported".to_owned()),
                _ => Step::Enter,
            },
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "typed_extension_protocol_options[x].explicit_http_config.http2_protocol_options.allow_metadata: not supported"
        );
    }
}
