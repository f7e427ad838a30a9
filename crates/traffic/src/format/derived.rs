//! Operators whose value is made of others: the first of several, a field of x-forwarded-client-cert, sizes of heads.

use http::header::HeaderName;
use serde_json::Value;

use super::parse::FormatError;
use super::{Operator, operators, render};
use crate::access::{Heads, StreamInfo};

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Fields of an element of x-forwarded-client-cert.
const XFCC_FIELDS: [&str; 7] = ["by", "hash", "cert", "chain", "subject", "uri", "dns"];

/// One of `COALESCE`'s operators with the length that its value is cut to.
pub type Choice = (Operator, Option<usize>);

/// The argument of `COALESCE`: `{"operators": ["NAME", {"command": …, "param": …, "max_length": …}]}`.
pub(super) fn coalesce(argument: &str) -> Result<Vec<Choice>, FormatError> {
    let refused = || FormatError::Argument {
        operator: "COALESCE".to_owned(),
        argument: argument.to_owned(),
    };
    let json: Value = serde_json::from_str(argument).map_err(|_| refused())?;
    let list = json.get("operators").and_then(Value::as_array);
    let list = list.filter(|list| !list.is_empty()).ok_or_else(refused)?;
    let one = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let name = entry.as_str().or_else(|| text("command"));
        let name = name.filter(|name| !name.is_empty()).ok_or_else(refused)?;
        let length = entry.get("max_length").and_then(Value::as_u64);
        let length = length.and_then(|length| usize::try_from(length).ok());
        Ok((operators::parse(name, text("param"))?, length))
    };
    list.iter().map(one).collect()
}

/// Appends the value of the first operator that has one.
pub(super) fn first(
    choices: &[Choice],
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    choices.iter().any(|(operator, length)| {
        let found = render::operator(operator, info, heads, out);
        if let Some(length) = length.filter(|_| found) {
            out.truncate(out.len().min(start.saturating_add(length)));
        }
        found
    })
}

/// The argument of `XFCC_VALUE`, in lower case.
pub(super) fn xfcc_field(argument: &str) -> Option<&'static str> {
    let known = XFCC_FIELDS.iter();
    known
        .copied()
        .find(|field| field.eq_ignore_ascii_case(argument))
}

/// Appends a field's first value in x-forwarded-client-cert.
pub(super) fn xfcc_value(field: &str, heads: Heads<'_>, out: &mut Vec<u8>) -> bool {
    let Some(all) = heads.request.and_then(|request| request.get(&XFCC)) else {
        return false;
    };
    for pair in unquoted_parts(all, |byte| matches!(byte, b',' | b';')) {
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(field.as_bytes()) {
            return unescaped(value, out);
        }
    }
    false
}

/// Parts between separators that stand in no quotes.
fn unquoted_parts(text: &[u8], separates: impl Fn(u8) -> bool) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        let was_escaped = escaped;
        escaped = quoted && !was_escaped && *byte == b'\\';
        let plain = !was_escaped;
        if plain && *byte == b'"' {
            quoted = !quoted;
        }
        !quoted && separates(*byte)
    })
}

/// A value without its quotes; false when it is empty.
fn unescaped(value: &[u8], out: &mut Vec<u8>) -> bool {
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    let Some(inner) = inner else {
        out.extend_from_slice(value);
        return !value.is_empty();
    };
    let mut escaped = false;
    for byte in inner {
        escaped = !escaped && *byte == b'\\';
        if !escaped {
            out.push(*byte);
        }
    }
    !inner.is_empty()
}

/// Which head's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeOf {
    /// The request's.
    Request,
    /// The response's.
    Response,
    /// The response trailers'.
    Trailers,
}

/// Bytes of a head's names and values, pseudo headers included.
pub(super) fn size(of: SizeOf, info: &StreamInfo<'_>, heads: Heads<'_>) -> u64 {
    let bytes = match of {
        SizeOf::Request => heads.request.map_or(0, |request| {
            let pseudo = [
                (":method", request.method()),
                (":scheme", request.scheme()),
                (":authority", request.authority()),
                (":path", request.path()),
            ];
            let pseudo = pseudo.iter().filter(|(_, value)| !value.is_empty());
            let pseudo: usize = pseudo.map(|(name, value)| name.len() + value.len()).sum();
            pseudo + request.size()
        }),
        SizeOf::Response => {
            let status = info.response_code.map_or(0, |_| ":status".len() + 3);
            heads
                .response
                .map_or(0, |response| status + response.size())
        }
        SizeOf::Trailers => heads.trailers.map_or(0, crate::headers::Headers::size),
    };
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::headers::SimpleRequest;

    fn shown(format: &str, request: &SimpleRequest) -> String {
        let heads = Heads {
            request: Some(request),
            ..Heads::default()
        };
        let format = Format::parse(format).unwrap();
        format.to_text(&StreamInfo::default(), heads)
    }

    #[test]
    fn the_first_operator_with_a_value_counts() {
        let mut request = SimpleRequest::get("host", "/");
        request.headers.insert("x-b", "bee".parse().unwrap());
        let format = r#"%COALESCE({"operators":["REQUESTED_SERVER_NAME",{"command":"REQ","param":"x-a"},{"command":"REQ","param":"x-b","max_length":2}]})%"#;
        assert_eq!(shown(format, &request), "be");
        let none = r#"%COALESCE({"operators":["REQUESTED_SERVER_NAME"]})%"#;
        assert_eq!(shown(none, &request), "-");
        for broken in [
            "%COALESCE({})%",
            "%COALESCE(x)%",
            r#"%COALESCE({"operators":["NO"]})%"#,
        ] {
            assert!(Format::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn fields_of_client_certificates_are_found_behind_quotes() {
        let mut request = SimpleRequest::get("host", "/");
        let value =
            r#"By=spiffe://a;Hash=12;Subject="CN=a,O=\"b\"";URI=spiffe://b;DNS=d1,By=spiffe://c"#;
        request.headers.insert(XFCC, value.parse().unwrap());
        assert_eq!(shown("%XFCC_VALUE(by)%", &request), "spiffe://a");
        assert_eq!(shown("%XFCC_VALUE(Subject)%", &request), "CN=a,O=\"b\"");
        assert_eq!(
            shown("%XFCC_VALUE(DNS)% %XFCC_VALUE(cert)%", &request),
            "d1 -"
        );
        assert!(Format::parse("%XFCC_VALUE(foo)%").is_err());
    }

    #[test]
    fn sizes_count_names_and_values() {
        let mut request = SimpleRequest::get("host", "/");
        request.headers.insert("x-b", "bee".parse().unwrap());
        // :method GET, :scheme http, :authority host, :path /, x-b bee
        assert_eq!(shown("%REQUEST_HEADERS_BYTES%", &request), "47");
        assert_eq!(shown("%RESPONSE_TRAILERS_BYTES%", &request), "0");
    }
}
