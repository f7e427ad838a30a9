//! The request-target forms of RFC 9112 §3.2.

use bytes::Bytes;

/// A request-target split into what a router needs. Slices share the original bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`.
    Origin(Bytes),
    /// `http://authority/path?query`; the path is `/` when absent.
    Absolute {
        /// `http` or `https`.
        https: bool,
        /// Host and optional port.
        authority: Bytes,
        /// Path and query.
        path: Bytes,
    },
    /// `host:port` of a CONNECT.
    Authority(Bytes),
    /// `*` of an OPTIONS.
    Asterisk,
    /// Anything else, kept for the answer and the log.
    Other(Bytes),
}

/// Splits a request-target; `connect` tells whether the method was CONNECT.
pub fn split(target: &Bytes, connect: bool) -> Target {
    if connect {
        return Target::Authority(target.clone());
    }
    if target.first() == Some(&b'/') {
        return Target::Origin(target.clone());
    }
    if target.as_ref() == b"*" {
        return Target::Asterisk;
    }
    let (https, skip) = if starts_with_ignore_case(target, b"http://") {
        (false, 7)
    } else if starts_with_ignore_case(target, b"https://") {
        (true, 8)
    } else {
        return Target::Other(target.clone());
    };
    let rest = target.slice(skip..);
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let authority = rest.slice(..end);
    let path = match rest.get(end) {
        Some(b'/') => rest.slice(end..),
        Some(_) => Bytes::from([b"/", &rest[end..]].concat()),
        None => Bytes::from_static(b"/"),
    };
    Target::Absolute {
        https,
        authority,
        path,
    }
}

fn starts_with_ignore_case(value: &[u8], prefix: &[u8]) -> bool {
    value
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
