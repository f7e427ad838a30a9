//! The constraints that the protos declare (lengths, ranges, required fields and choices), judged on wire bytes.
//!
//! Envoy refuses what breaks them before it looks at a configuration; so do we, with the path of the field.

use crate::any::type_name;
use crate::json::JsonError;
use crate::json::table::{self, Field, Kind, Message, Place, Rule};
use crate::json::wire::{BYTES, Depth, Raw, Reader};

type Done = Result<(), JsonError>;

fn broken(reason: impl Into<String>) -> Done {
    Err(JsonError::new(reason))
}

/// Judges a message and everything inside it, also inside `Any` of known types.
///
/// # Errors
/// The path and reason of the first constraint that does not hold.
pub fn validate(message: &str, bytes: &[u8]) -> Result<(), JsonError> {
    table::message(message).map_or(Ok(()), |message| {
        of_message(message, bytes, Depth::default())
    })
}

fn of_message(message: Message, bytes: &[u8], depth: Depth) -> Done {
    let depth = depth.deeper()?;
    let mut reader = Reader(bytes);
    let mut found: Vec<(u32, u32, Raw<'_>)> = Vec::new();
    while !reader.is_empty() {
        found.push(reader.field()?);
    }
    let mut chosen = 0_u32;
    for field in message.fields() {
        let mut values = found
            .iter()
            .filter(|(number, ..)| *number == field.number)
            .peekable();
        if let (Some(choice), true) = (field.oneof, values.peek().is_some()) {
            chosen |= 1 << choice;
        }
        if values.peek().is_none() && !field.has_rules() {
            continue;
        }
        let values = values
            .map(|(_, wire_type, raw)| (*wire_type, *raw))
            .collect::<Vec<_>>();
        of_field(field, &values, depth).map_err(|e| e.below(field.name))?;
    }
    let missing = message.required_oneofs & !chosen;
    if missing == 0 {
        return Ok(());
    }
    let choice = missing.trailing_zeros();
    let members: Vec<&str> = message
        .fields()
        .filter(|f| f.oneof == Some(choice))
        .map(|f| f.name)
        .collect();
    broken(format!("needs one of {}", members.join(", ")))
}

fn of_field(field: Field, values: &[(u32, Raw<'_>)], depth: Depth) -> Done {
    if field.map {
        return of_map(field, values, depth);
    }
    if field.repeated {
        return of_list(field, values, depth);
    }
    let raw = values.last().map(|(_, raw)| *raw);
    if raw.is_none() && (field.presence || field.kind == Kind::Message) {
        // An unchosen member of a oneof is not missing.
        let required =
            field.oneof.is_none() && field.rules().any(|(_, rule)| rule == Rule::Required);
        return if required {
            broken("is required")
        } else {
            Ok(())
        };
    }
    of_value(field, &rules_of(field, Place::Own), raw, depth)
}

fn rules_of(field: Field, place: Place) -> Vec<Rule> {
    field
        .rules()
        .filter(|(at, _)| *at == place)
        .map(|(_, rule)| rule)
        .collect()
}

fn of_list(field: Field, values: &[(u32, Raw<'_>)], depth: Depth) -> Done {
    let packable = !matches!(field.kind, Kind::String | Kind::Bytes | Kind::Message);
    let mut items = Vec::with_capacity(values.len());
    for (wire_type, raw) in values {
        match raw {
            Raw::Bytes(bytes) if packable && *wire_type == BYTES => {
                let mut reader = Reader(bytes);
                while !reader.is_empty() {
                    items.push(Raw::Number(match field.kind {
                        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                            u64::from_le_bytes(reader.fixed()?)
                        }
                        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
                            u64::from(u32::from_le_bytes(reader.fixed()?))
                        }
                        _ => reader.varint()?,
                    }));
                }
            }
            raw => items.push(*raw),
        }
    }
    of_count(&rules_of(field, Place::Own), items.len())?;
    let rules = rules_of(field, Place::Items);
    for (position, item) in items.into_iter().enumerate() {
        of_value(field, &rules, Some(item), depth)
            .map_err(|e| e.below(&format!("[{position}]")))?;
    }
    Ok(())
}

fn of_count(rules: &[Rule], count: usize) -> Done {
    let count = count as u64;
    for rule in rules {
        match rule {
            Rule::MinItems(1) if count == 0 => return broken("needs at least one"),
            Rule::MinItems(least) if count < *least => {
                return broken(format!("needs at least {least}"));
            }
            Rule::MaxItems(most) if count > *most => {
                return broken(format!("has more than {most}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn of_map(field: Field, values: &[(u32, Raw<'_>)], depth: Depth) -> Done {
    of_count(&rules_of(field, Place::Own), values.len())?;
    let entry = field.message();
    let (Some(key), Some(value)) = (entry.field(1), entry.field(2)) else {
        return Ok(());
    };
    let (key_rules, value_rules) = (rules_of(field, Place::Keys), rules_of(field, Place::Values));
    for (_, raw) in values {
        let Raw::Bytes(bytes) = raw else { continue };
        let (mut key_raw, mut value_raw) = (None, None);
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            match reader.field()? {
                (1, _, raw) => key_raw = Some(raw),
                (2, _, raw) => value_raw = Some(raw),
                _ => {}
            }
        }
        let name = match key_raw {
            Some(Raw::Bytes(text)) => String::from_utf8_lossy(text).into_owned(),
            Some(Raw::Number(number)) => number.to_string(),
            None => String::new(),
        };
        let within = |e: JsonError| e.below(&format!("[{name}]"));
        of_value(key, &key_rules, key_raw, depth).map_err(within)?;
        of_value(value, &value_rules, value_raw, depth).map_err(within)?;
    }
    Ok(())
}

fn of_value(field: Field, rules: &[Rule], raw: Option<Raw<'_>>, depth: Depth) -> Done {
    match (field.kind, raw) {
        (Kind::Message, Some(Raw::Bytes(bytes))) => of_inner(field.message(), rules, bytes, depth),
        (Kind::Message, _) => Ok(()),
        (Kind::String | Kind::Bytes, raw) => {
            let bytes = if let Some(Raw::Bytes(bytes)) = raw {
                bytes
            } else {
                b""
            };
            of_text(field.kind == Kind::String, rules, bytes)
        }
        (_, raw) => {
            let number = if let Some(Raw::Number(number)) = raw {
                number
            } else {
                0
            };
            of_number(field, rules, number)
        }
    }
}

/// A message field: wrappers and durations carry the rules of what they hold.
fn of_inner(message: Message, rules: &[Rule], bytes: &[u8], depth: Depth) -> Done {
    match message.name {
        "google.protobuf.Duration" => of_duration(rules, bytes),
        "google.protobuf.Any" => of_any(bytes, depth),
        name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
            let Some(inner) = message.field(1).filter(|_| !rules.is_empty()) else {
                return Ok(());
            };
            let mut raw = None;
            let mut reader = Reader(bytes);
            while !reader.is_empty() {
                if let (1, _, found) = reader.field()? {
                    raw = Some(found);
                }
            }
            of_value(inner, rules, raw, depth)
        }
        name if name.starts_with("google.protobuf.") => Ok(()),
        _ => of_message(message, bytes, depth),
    }
}

fn of_any(bytes: &[u8], depth: Depth) -> Done {
    let (mut url, mut value) = (String::new(), &b""[..]);
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        match reader.field()? {
            (1, _, Raw::Bytes(text)) => url = String::from_utf8_lossy(text).into_owned(),
            (2, _, Raw::Bytes(inner)) => value = inner,
            _ => {}
        }
    }
    table::message(type_name(&url)).map_or(Ok(()), |message| of_message(message, value, depth))
}

fn of_duration(rules: &[Rule], bytes: &[u8]) -> Done {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        match reader.field()? {
            (1, _, Raw::Number(number)) => seconds = number.cast_signed(),
            (2, _, Raw::Number(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    let value = seconds as f64 + nanos as f64 / 1e9;
    of_bounds(rules, value, "s")
}

fn of_bounds(rules: &[Rule], value: f64, unit: &str) -> Done {
    for rule in rules {
        let (holds, words) = match rule {
            Rule::Gt(bound) => (
                value > *bound,
                format!("must be greater than {bound}{unit}"),
            ),
            Rule::Gte(bound) => (value >= *bound, format!("must be at least {bound}{unit}")),
            Rule::Lt(bound) => (value < *bound, format!("must be less than {bound}{unit}")),
            Rule::Lte(bound) => (value <= *bound, format!("must be at most {bound}{unit}")),
            Rule::NotIn(one) => (
                value.total_cmp(one).is_ne(),
                format!("must not be {one}{unit}"),
            ),
            _ => continue,
        };
        if !holds {
            return broken(words);
        }
    }
    Ok(())
}

fn of_number(field: Field, rules: &[Rule], number: u64) -> Done {
    if number == 0 && rules.contains(&Rule::IgnoreEmpty) {
        return Ok(());
    }
    let value = match field.kind {
        Kind::Double => f64::from_bits(number),
        Kind::Float => f64::from(f32::from_bits(number as u32)),
        Kind::Int32 | Kind::Int64 | Kind::Sfixed64 | Kind::Enum => number.cast_signed() as f64,
        Kind::Sfixed32 => f64::from((number as u32).cast_signed()),
        Kind::Sint32 | Kind::Sint64 => crate::json::wire::unzigzag(number) as f64,
        _ => number as f64,
    };
    if rules.contains(&Rule::True) && number == 0 {
        return broken("must be true");
    }
    let known = || {
        field
            .enumeration()
            .values()
            .any(|(_, n)| i64::from(n) == number.cast_signed())
    };
    if rules.contains(&Rule::DefinedOnly) && field.kind == Kind::Enum && !known() {
        return broken(format!(
            "{number} is no value of {}",
            field.enumeration().name
        ));
    }
    of_bounds(rules, value, "")
}

fn of_text(is_text: bool, rules: &[Rule], bytes: &[u8]) -> Done {
    if bytes.is_empty() && rules.contains(&Rule::IgnoreEmpty) {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let letters = if is_text {
        text.chars().count()
    } else {
        bytes.len()
    } as u64;
    let mut listed = rules.iter().filter_map(|rule| match rule {
        Rule::TextIn(one) => Some(*one),
        _ => None,
    });
    let choices: Vec<&str> = listed.by_ref().collect();
    if !choices.is_empty() && !choices.contains(&text) {
        return broken(format!("must be one of {}", choices.join(", ")));
    }
    for rule in rules {
        let size = bytes.len() as u64;
        match rule {
            Rule::MinLen(1) | Rule::MinBytes(1) if bytes.is_empty() => {
                return broken("must not be empty");
            }
            Rule::MinLen(least) if letters < *least => {
                return broken(format!("is shorter than {least} characters"));
            }
            Rule::MaxLen(most) if letters > *most => {
                return broken(format!("is longer than {most} characters"));
            }
            Rule::MinBytes(least) if size < *least => {
                return broken(format!("is shorter than {least} bytes"));
            }
            Rule::MaxBytes(most) if size > *most => {
                return broken(format!("is longer than {most} bytes"));
            }
            Rule::Prefix(prefix) if !text.starts_with(prefix) => {
                return broken(format!("must begin with {prefix}"));
            }
            Rule::HeaderName(strict) if !header_name(bytes, *strict) => {
                return broken("is no header name");
            }
            Rule::HeaderValue(strict) if !header_value(bytes, *strict) => {
                return broken("is no header value");
            }
            _ => {}
        }
    }
    Ok(())
}

fn header_name(bytes: &[u8], strict: bool) -> bool {
    if !strict {
        return bytes.iter().all(|byte| !matches!(byte, 0 | b'\n' | b'\r'));
    }
    let name = bytes.strip_prefix(b":").unwrap_or(bytes);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(byte);
    bytes.is_empty() || (!name.is_empty() && name.iter().all(token))
}

fn header_value(bytes: &[u8], strict: bool) -> bool {
    let fits = |byte: &u8| match strict {
        true => *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f),
        false => !matches!(byte, 0 | b'\n' | b'\r'),
    };
    bytes.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use prost::{Message as _, Name};
    use serde_json::{Value, json};

    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::route::v3::RouteConfiguration;
    use crate::json::parse;

    fn reason<M: prost::Message + Name + Default>(value: &Value) -> String {
        let message: M = parse(value).unwrap();
        validate(&M::full_name(), &message.encode_to_vec())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn declared_constraints_are_judged_with_their_path() {
        assert_eq!(reason::<Cluster>(&json!({})), "name: must not be empty");
        assert_eq!(
            reason::<Cluster>(&json!({ "name": "a", "connect_timeout": "0s" })),
            "connect_timeout: must be greater than 0s"
        );
        assert_eq!(
            reason::<Cluster>(
                &json!({ "name": "a", "outlier_detection": { "max_ejection_percent": 101 } })
            ),
            "outlier_detection.max_ejection_percent: must be at most 100"
        );
        let host = |routes: Value| json!({ "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": routes }] });
        assert_eq!(
            reason::<RouteConfiguration>(&json!({ "virtual_hosts": [{ "name": "v" }] })),
            "virtual_hosts[0].domains: needs at least one"
        );
        assert_eq!(
            reason::<RouteConfiguration>(&host(json!([{ "match": { "prefix": "/" } }]))),
            "virtual_hosts[0].routes[0]: needs one of route, redirect, direct_response, filter_action, non_forwarding_action"
        );
        assert_eq!(
            reason::<RouteConfiguration>(&host(json!([{ "route": { "cluster": "a" } }]))),
            "virtual_hosts[0].routes[0].match: is required"
        );
        let named = |name: &str| {
            host(
                json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 },
                "request_headers_to_add": [{ "header": { "key": name, "value": "v" } }] }]),
            )
        };
        assert_eq!(
            reason::<RouteConfiguration>(&named("a\nb")),
            "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: is no header name"
        );
    }

    #[test]
    fn what_holds_passes_also_inside_any() {
        let value = json!({ "name": "a", "typed_extension_protocol_options": { "x": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions" } } });
        assert!(
            reason::<Cluster>(&value)
                .starts_with("typed_extension_protocol_options[x]: needs one of")
        );
        let cluster: Cluster = parse(&json!({ "name": "a", "connect_timeout": "0.001s" })).unwrap();
        assert_eq!(
            validate(&Cluster::full_name(), &cluster.encode_to_vec()),
            Ok(())
        );
    }
}
