//! Rules for single values, shared by all kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration as StdDuration;

use regex::Regex;

use super::Findings;
use crate::scalars::{Duration, Percent, StringMatch, StringMatchRef};

/// Whether `text` is a DNS label: letters, digits and inner dashes, 63 at most.
pub fn is_dns_label(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    !text.is_empty() && text.len() <= 63 && inner && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether `text` is a fully qualified name; a dot at the end is allowed.
pub fn is_fqdn(text: &str) -> bool {
    name_labels(text).is_some_and(|labels| labels.iter().all(|l| is_dns_label(l)))
}

/// Whether `text` is a fully qualified name whose first label may be or begin with `*`.
pub fn is_wildcard_domain(text: &str) -> bool {
    let Some(labels) = name_labels(text) else {
        return text == "*";
    };
    let (first, rest) = (labels[0], &labels[1..]);
    let first_ok = match first.strip_prefix('*') {
        Some("") => true,
        Some(tail) => is_dns_label(tail.strip_prefix('-').unwrap_or(tail)),
        None => is_dns_label(first),
    };
    first_ok && rest.iter().all(|l| is_dns_label(l))
}

/// The labels of a name of permitted length whose last label is not a number.
fn name_labels(text: &str) -> Option<Vec<&str>> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let labels: Vec<&str> = bare.split('.').collect();
    let last = labels.last()?;
    let fits = !bare.is_empty() && bare.len() <= 255;
    (fits && !last.bytes().all(|b| b.is_ascii_digit())).then_some(labels)
}

/// Whether `text` is the server name that sidecars send for a subset: `outbound_.PORT_.SUBSET_.HOST`.
pub fn is_generated_sni(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(4, '.').collect();
    let [direction, port, subset, host] = parts[..] else {
        return false;
    };
    let subset_ok = subset
        .strip_suffix('_')
        .is_some_and(|s| s.is_empty() || is_dns_label(s));
    let port_ok = port
        .strip_suffix('_')
        .is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    matches!(direction, "outbound_" | "inbound_") && port_ok && subset_ok && is_fqdn(host)
}

/// Whether `text` is an IP address.
pub fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether `text` is an address, or a network with its prefix length.
pub fn is_subnet(text: &str) -> bool {
    match text.split_once('/') {
        None => is_ip(text),
        Some((address, length)) => {
            let most = if address.contains(':') { 128 } else { 32 };
            is_ip(address) && length.parse::<u8>().is_ok_and(|l| l <= most)
        }
    }
}

/// Notes a port outside of 1 to 65535.
pub fn port(f: &mut Findings, number: u32) {
    f.ensure(
        (1..=65535).contains(&number),
        format!("port number {number} must be in the range 1..65535"),
    );
}

/// Notes a duration below or finer than a millisecond.
pub fn duration(f: &mut Findings, field: &str, value: Option<&Duration>) {
    let Some(value) = value else { return };
    f.at(field, |f| match value.parse() {
        Err(error) => f.error(error.to_string()),
        Ok(parsed) if parsed < StdDuration::from_millis(1) => {
            f.error("duration must be greater than 1ms")
        }
        Ok(parsed) => {
            let whole = parsed.subsec_nanos().is_multiple_of(1_000_000);
            f.ensure(whole, "only durations to ms precision are supported");
        }
    });
}

/// Notes a percentage outside of 0 to 100, or a share too small to be kept apart from zero.
pub fn percent(f: &mut Findings, field: &str, value: Option<Percent>) {
    let Some(Percent { value }) = value else {
        return;
    };
    let fits = value == 0.0 || (0.0001..=100.0).contains(&value);
    f.at(field, |f| {
        f.ensure(
            fits,
            format!("percentage {value} is neither 0 nor in the range [0.0001, 100]"),
        )
    });
}

/// Notes a whole percentage outside of 0 to 100.
pub fn whole_percent(f: &mut Findings, field: &str, value: i32) {
    f.at(field, |f| {
        f.ensure(
            (0..=100).contains(&value),
            format!("percentage {value} is not in range 0..100"),
        )
    });
}

/// Notes labels that Kubernetes would not accept on a pod.
pub fn labels(f: &mut Findings, field: &str, labels: &BTreeMap<String, String>) {
    f.at(field, |f| {
        for (key, value) in labels {
            f.ensure(is_label_key(key), format!("invalid label key {key:?}"));
            f.ensure(
                value.is_empty() || is_qualified(value),
                format!("invalid label value {value:?}"),
            );
        }
    });
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_fqdn(prefix) && is_qualified(name),
        None => is_qualified(key),
    }
}

fn is_qualified(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
    bytes.len() <= 63 && inner && edge(bytes.first()) && edge(bytes.last())
}

/// Notes namespaces that an object cannot be exported to.
pub fn export_to(f: &mut Findings, targets: &[String], own: &str, only_own: bool) {
    let mut seen = BTreeSet::new();
    f.each("exportTo", targets, |f, target| {
        let known = matches!(target.as_str(), "." | "*") || is_dns_label(target);
        f.ensure(
            known,
            format!("{target:?} is neither . nor * nor a namespace"),
        );
        let namespace = if target == "." { own } else { target };
        f.ensure(
            seen.insert(namespace.to_owned()),
            format!("duplicate entries in exportTo: {target}"),
        );
        if target == "*" && targets.len() > 1 {
            f.error("* covers every namespace and must be the only entry");
        }
        if only_own && namespace != own {
            f.error("with a workload selector only the own namespace (.) is allowed");
        }
    });
}

/// Notes a string match that can never be meant: an empty prefix or expression, or one that is not RE2.
pub fn string_match(f: &mut Findings, field: &str, value: Option<&StringMatch>) {
    let Some(value) = value else { return };
    f.at(field, |f| match value.form() {
        StringMatchRef::Prefix("") => f.error("prefix must not be empty"),
        StringMatchRef::Regex(pattern) => regex(f, pattern),
        _ => {}
    });
}

/// Longest expression that is accepted.
const REGEX_LENGTH: usize = 1024;

/// Notes an expression that is empty, too long or malformed.
pub fn regex(f: &mut Findings, pattern: &str) {
    if pattern.is_empty() {
        f.error("regex must not be empty");
    } else if pattern.len() > REGEX_LENGTH {
        f.error(format!(
            "regex is too large, max length allowed is {REGEX_LENGTH}"
        ));
    } else if Regex::new(pattern).is_err() {
        f.error(format!("{pattern:?} is not a valid regular expression"));
    }
}

/// Whether `name` may stand in a header condition: a token, a pseudo header or a claim of a token.
pub fn is_matchable_header(name: &str) -> bool {
    let pseudo = [":method", ":scheme", ":authority", ":path", ":status"];
    is_token(name) || pseudo.contains(&name) || is_claim(name)
}

/// Whether `name` refers to a claim of the request's token.
pub fn is_claim(name: &str) -> bool {
    let Some(path) = name.strip_prefix("@request.auth.claims") else {
        return false;
    };
    match path.as_bytes().first() {
        Some(b'.') => path.len() > 1,
        Some(b'[') => path.ends_with(']') && path.len() > 2,
        _ => false,
    }
}

/// Whether `text` is a token of HTTP.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Notes a header value that the proxy could not produce.
pub fn header_value(f: &mut Findings, value: &str) {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        f.error("header value must not contain control characters");
    }
    if let Err(problem) = substitutions(value) {
        f.error(format!("header value {value:?}: {problem}"));
    }
}

/// Checks `%NAME%`, `%NAME(arguments)%` and `%NAME:length%`; `%%` is a percent sign.
fn substitutions(value: &str) -> Result<(), &'static str> {
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let name_end =
            rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let name_end = name_end.unwrap_or(rest.len());
        if name_end == 0 || !rest.starts_with(|c: char| c.is_ascii_uppercase()) {
            return Err("a percent sign is written as %%");
        }
        rest = &rest[name_end..];
        if let Some(arguments) = rest.strip_prefix('(') {
            let close = arguments
                .find(')')
                .ok_or("the arguments of a variable are not closed")?;
            rest = &arguments[close + 1..];
        }
        if let Some(length) = rest.strip_prefix(':') {
            rest = length.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        rest = rest
            .strip_prefix('%')
            .ok_or("a variable is not closed by %")?;
    }
    Ok(())
}
