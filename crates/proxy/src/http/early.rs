//! Early request processing, in Envoy's order: host and path checks, path normalization, hop-by-hop fields,
//! X-Forwarded-*, request id, client certificate, control headers.
//!
//! Pure decisions on one [`Request`]; the caller sends what comes out.

mod forwarded;

pub(crate) use forwarded::{append_xff, own_address};

use bytes::Bytes;
use http::header::{
    CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT,
};
use http::{Method, StatusCode};
use meltemi_traffic::access::{Protocol, StreamInfo};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::{ConnectionManager, EscapedSlashes, SchemeRule, StripPort, Underscores};
use meltemi_traffic::mutation::apply_request;
use meltemi_traffic::path;
use meltemi_traffic::select::without_port;
use std::net::IpAddr;

use super::reply::Reply;
use super::request::Request;
use super::xfcc;
use crate::connection::ConnInfo;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ENVOY_EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
pub(crate) const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const X_ENVOY_DOWNSTREAM_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-cluster");
const X_ENVOY_DOWNSTREAM_NODE: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-node");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// Control headers that only internal requests may bring.
const CONTROL: [HeaderName; 12] = [
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    FORCE_TRACE,
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
];
/// Further ones that the edge removes.
const EDGE_CONTROL: [HeaderName; 4] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-original-path"),
    X_ENVOY_DOWNSTREAM_CLUSTER,
    X_ENVOY_DOWNSTREAM_NODE,
];

/// What early processing learnt.
#[derive(Debug, Default)]
pub(crate) struct Early {
    /// The client, after X-Forwarded-For.
    pub remote: Option<IpAddr>,
    /// The request comes from a trusted internal peer.
    pub internal: bool,
    /// An upgrade that was asked for and is allowed, in lower case.
    pub upgrade: Option<Bytes>,
    /// An internal service asks for a trace, and for the request's id in its response.
    pub force_trace: bool,
    /// Stable random number of the request.
    pub random: u64,
}

/// Checks and completes a request.
///
/// # Errors
/// The reply that a refused request gets.
pub(crate) fn process(
    hcm: &ConnectionManager,
    conn: &ConnInfo,
    request: &mut Request,
) -> Result<Early, Reply> {
    check_protocol(hcm, request)?;
    check_names(hcm, &mut request.headers)?;
    check_target(hcm, request)?;
    normalize(hcm, request)?;
    normalize_host(hcm, conn, request);
    let mut early = Early {
        upgrade: upgrade(request),
        ..Early::default()
    };
    let mut present = Present::of(&request.headers);
    remove_hop_by_hop(hcm, request, early.upgrade.is_some(), &present);
    if !hcm.early_mutations.is_empty() {
        let mut info = StreamInfo::default();
        conn.describe(&mut info);
        apply_request(&hcm.early_mutations, request, &info);
        present = Present::of(&request.headers);
    }
    forwarded::apply(hcm, conn, request, &mut early, &present)?;
    if let SchemeRule::Overwrite(https) = hcm.scheme {
        request.https = https;
        let proto = HeaderValue::from_static(if https { "https" } else { "http" });
        request.headers.insert(X_FORWARDED_PROTO, proto);
    }
    request_id(hcm, request, &mut early, &present);
    xfcc::apply(hcm, conn, &mut request.headers, present.client_cert);
    if hcm.add_user_agent {
        name_service(conn, &mut request.headers);
    }
    if let Some(via) = conn
        .chain
        .http
        .as_ref()
        .and_then(|runtime| runtime.via.as_ref())
    {
        super::respond::add_via(&mut request.headers, via);
    }
    Ok(early)
}

/// Says which service of ours sends the request.
fn name_service(conn: &ConnInfo, headers: &mut HeaderMap) {
    let node = &conn.worker.shared.node;
    let Ok(cluster) = HeaderValue::from_str(&node.cluster) else {
        return;
    };
    headers.insert(X_ENVOY_DOWNSTREAM_CLUSTER, cluster.clone());
    headers.entry(USER_AGENT).or_insert(cluster);
    if !node.id.is_empty()
        && let Ok(id) = HeaderValue::from_str(&node.id)
    {
        headers.insert(X_ENVOY_DOWNSTREAM_NODE, id);
    }
}

fn check_protocol(hcm: &ConnectionManager, request: &mut Request) -> Result<(), Reply> {
    if request.protocol == Protocol::Http10 {
        if !hcm.http1.accept_http_10 {
            // Nothing of the request is known to the log, its version neither.
            request.protocol = Protocol::Http11;
            let reply = Reply::new(
                StatusCode::UPGRADE_REQUIRED,
                "Upgrade Required",
                "low_version",
            );
            return Err(reply
                .flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
                .closing());
        }
        if request.authority.is_empty() && !hcm.http1.default_host.is_empty() {
            request.authority = Bytes::copy_from_slice(hcm.http1.default_host.as_bytes());
        }
    }
    if request.absolute && hcm.http1.refuse_absolute_url {
        return Err(Reply::bad_request("http1.codec_error").closing());
    }
    Ok(())
}

fn check_names(hcm: &ConnectionManager, headers: &mut HeaderMap) -> Result<(), Reply> {
    if hcm.underscores == Underscores::Allow {
        return Ok(());
    }
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if !named.is_empty() && hcm.underscores == Underscores::Reject {
        let details = "http1.unexpected_underscore";
        let reply = Reply::new(StatusCode::BAD_REQUEST, "Bad Request", details);
        return Err(reply
            .flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
            .closing());
    }
    for name in named {
        headers.remove(name);
    }
    Ok(())
}

/// Names with underscores end a stream of HTTP/2 at once.
pub(crate) fn has_refused_names(hcm: &ConnectionManager, headers: &HeaderMap) -> bool {
    hcm.underscores == Underscores::Reject && headers.keys().any(|name| name.as_str().contains('_'))
}

fn check_target(hcm: &ConnectionManager, request: &Request) -> Result<(), Reply> {
    let _ = hcm;
    if request.authority.is_empty() {
        return Err(Reply::bad_request("missing_host_header"));
    }
    let authority_ok = request
        .authority
        .iter()
        .all(|byte| matches!(byte, b'!'..=b'~') && !b"/?#\\".contains(byte));
    if !authority_ok {
        return Err(Reply::bad_request("invalid_host_header"));
    }
    if request.method == Method::CONNECT {
        return Ok(());
    }
    if request.path.is_empty() {
        return Err(Reply::new(
            StatusCode::NOT_FOUND,
            "",
            "missing_path_rejected",
        ));
    }
    if request.path[0] != b'/' {
        if request.path.as_ref() == b"*" {
            return Err(Reply::new(
                StatusCode::NOT_FOUND,
                "",
                "absolute_path_rejected",
            ));
        }
        let has_scheme = request.path.windows(3).any(|part| part == b"://");
        let details = if has_scheme {
            "http1.invalid_scheme"
        } else {
            "http1.codec_error"
        };
        let reply = Reply::new(StatusCode::BAD_REQUEST, "Bad Request", details);
        return Err(reply
            .flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
            .closing());
    }
    if request.path.contains(&b'#') {
        return Err(Reply::bad_request("path_normalization_failed"));
    }
    Ok(())
}

fn normalize(hcm: &ConnectionManager, request: &mut Request) -> Result<(), Reply> {
    if request.method == Method::CONNECT || request.path.first() != Some(&b'/') {
        return Ok(());
    }
    let mut redirect = false;
    if hcm.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = path::unescape_slashes(&request.path)
    {
        match hcm.escaped_slashes {
            EscapedSlashes::Reject => {
                request.path = unescaped.into();
                return Err(Reply::bad_request("path_normalization_failed"));
            }
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::Keep | EscapedSlashes::UnescapeAndForward => {}
        }
        request.path = unescaped.into();
    }
    if hcm.normalize_path {
        match path::normalize(&request.path) {
            Ok(Some(changed)) => request.path = changed.into(),
            Ok(None) => {}
            Err(_) => return Err(Reply::bad_request("path_normalization_failed")),
        }
    }
    if hcm.merge_slashes
        && let Some(merged) = path::merge_slashes(&request.path)
    {
        request.path = merged.into();
    }
    if redirect {
        let mut reply = Reply::redirect(307, &request.path);
        reply.details = "path_normalization_failed".into();
        Err(reply)
    } else {
        Ok(())
    }
}

fn normalize_host(hcm: &ConnectionManager, conn: &ConnInfo, request: &mut Request) {
    let strip = match hcm.strip_port {
        StripPort::None => false,
        StripPort::Any => true,
        StripPort::Matching => request
            .authority
            .ends_with(format!(":{}", conn.local.port()).as_bytes()),
    };
    if strip {
        let keep = without_port(&request.authority).len();
        request.authority.truncate(keep);
    }
    if hcm.strip_trailing_dot {
        let host = without_port(&request.authority).len();
        if request.authority[..host].ends_with(b".") {
            let (host, port) = request.authority.split_at(host);
            request.authority = [&host[..host.len() - 1], port].concat().into();
        }
    }
}

/// The upgrade asked for; whether it is allowed is asked once the route is known.
fn upgrade(request: &Request) -> Option<Bytes> {
    if request.method == Method::CONNECT {
        return Some(Bytes::from_static(b"connect"));
    }
    let value = request.headers.get(UPGRADE).filter(|_| request.upgrade)?;
    let asked = value.as_bytes().to_ascii_lowercase();
    // Clients offer h2c on any request; Envoy goes on as if they had not.
    (asked != b"h2c").then(|| asked.into())
}

/// Which of the fields that need work are there: one pass over the names instead of a lookup for each.
#[derive(Debug, Default)]
struct Present {
    connection: bool,
    transfer_encoding: bool,
    te: bool,
    upgrade: bool,
    proxy_connection: bool,
    expect: bool,
    forwarded_for: bool,
    forwarded_proto: bool,
    request_id: bool,
    client_cert: bool,
    envoy: bool,
}

impl Present {
    fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => present.connection = true,
                "transfer-encoding" => present.transfer_encoding = true,
                "te" => present.te = true,
                "upgrade" => present.upgrade = true,
                "proxy-connection" => present.proxy_connection = true,
                "expect" => present.expect = true,
                "x-forwarded-for" => present.forwarded_for = true,
                "x-forwarded-proto" => present.forwarded_proto = true,
                "x-request-id" => present.request_id = true,
                "x-forwarded-client-cert" => present.client_cert = true,
                other => present.envoy |= other.starts_with("x-envoy-"),
            }
        }
        present
    }
}

fn remove_hop_by_hop(
    hcm: &ConnectionManager,
    request: &mut Request,
    upgrading: bool,
    present: &Present,
) {
    let headers = &mut request.headers;
    let asked = headers.get(CONNECTION).filter(|_| upgrading).cloned();
    if present.connection {
        remove_listed(headers);
    }
    if present.proxy_connection {
        headers.remove(PROXY_CONNECTION);
    }
    if present.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
    }
    if present.te
        && let Some(te) = headers.remove(TE)
    {
        let mut parts = te.as_bytes().split(|byte| *byte == b',');
        if parts.any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if upgrading && request.method != Method::CONNECT {
        let asked = asked.unwrap_or_else(|| HeaderValue::from_static("Upgrade"));
        headers.insert(CONNECTION, asked);
    } else if present.upgrade {
        headers.remove(UPGRADE);
    }
    if present.expect
        && !hcm.proxy_100_continue
        && headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        headers.remove(EXPECT);
    }
}

/// Removes Connection and the fields that it lists.
fn remove_listed(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| {
            *name != UPGRADE && *name != http::header::CONTENT_LENGTH && name.as_str() != "close"
        })
        .collect();
    headers.remove(CONNECTION);
    for name in listed {
        headers.remove(name);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(HTTP2_SETTINGS);
}

fn request_id(
    hcm: &ConnectionManager,
    request: &mut Request,
    early: &mut Early,
    present: &Present,
) {
    let brought = present
        .request_id
        .then(|| request.headers.get(X_REQUEST_ID));
    let have = brought
        .flatten()
        .map(|value| stable_random(value.as_bytes()));
    early.random = match have {
        Some(random) => random,
        None if hcm.generate_request_id => {
            let (id, random) = new_id();
            if let Ok(id) = HeaderValue::from_bytes(&id) {
                request.headers.insert(X_REQUEST_ID, id);
            }
            random
        }
        None => fastrand::u64(..),
    };
}

/// The number that consistent decisions of one request use: its id's first 32 bits.
fn stable_random(id: &[u8]) -> u64 {
    let digits = id.get(..8).and_then(|hex| std::str::from_utf8(hex).ok());
    digits
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or_else(|| meltemi_traffic::hash::xx64(id, 0))
}

/// A version 4 UUID; its version digit `4` also says "not traced" in Envoy's encoding.
pub(crate) fn new_request_id() -> [u8; 36] {
    new_id().0
}

/// The same with its [`stable_random`].
fn new_id() -> ([u8; 36], u64) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bits = fastrand::u128(..);
    bits = (bits & !(0xf << 76)) | (0x4 << 76);
    bits = (bits & !(0x3 << 62)) | (0x2 << 62);
    let bytes = bits.to_be_bytes();
    let mut out = [b'-'; 36];
    // Where each of the five groups of digits begins, and its bytes.
    for (at, group) in [(0, 0..4), (9, 4..6), (14, 6..8), (19, 8..10), (24, 10..16)] {
        for (pair, byte) in out[at..].chunks_exact_mut(2).zip(&bytes[group]) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 0xf)];
        }
    }
    (out, (bits >> 96) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        for _ in 0..50 {
            let (id, random) = new_id();
            assert_eq!(random, stable_random(&id));
            let text = std::str::from_utf8(&id).unwrap();
            assert_eq!(text.as_bytes()[14], b'4');
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
            assert_eq!(
                text.split('-').map(str::len).collect::<Vec<_>>(),
                [8, 4, 4, 4, 12]
            );
        }
    }
}
