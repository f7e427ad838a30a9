//! A request as the phases see it, whatever protocol brought it.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE,
};
use meltemi_traffic::access::Protocol;
use meltemi_traffic::headers::{Headers, HeadersMut, RequestHead, RequestHeadMut};
use meltemi_upstream::exchange::BodyKind;
use meltemi_wire::http1::case::HeaderCase;
use meltemi_wire::http1::target::{Target, split};
use meltemi_wire::http1::{Framing, Version, head};

/// A request's head and what is known of its body.
#[derive(Debug)]
pub(crate) struct Request {
    /// `:method`.
    pub method: Method,
    /// `:scheme` is https.
    pub https: bool,
    /// `:authority`; empty when the client sent none.
    pub authority: Bytes,
    /// `:path`, as it goes on.
    pub path: Bytes,
    /// All other fields.
    pub headers: HeaderMap,
    /// What it came with.
    pub protocol: Protocol,
    /// Its body.
    pub body: BodyKind,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// The request-target names scheme and host itself.
    pub absolute: bool,
    /// How the client spelt the names, where that is kept.
    pub case: Option<Arc<HeaderCase>>,
    /// Content-Length as it came, for logs, once it was taken out of the fields.
    pub announced: Option<HeaderValue>,
}

impl Request {
    /// From an HTTP/1 head. `tls` tells how the connection is protected.
    pub(crate) fn from_http1(head: head::RequestHead, tls: bool) -> (Self, bool) {
        let connect = head.method == Method::CONNECT;
        let headers = head.headers;
        let host = head.host.unwrap_or_default();
        let mut absolute = false;
        let (https, authority, path) = match split(&head.target, connect) {
            Target::Origin(path) | Target::Other(path) => (tls, host, path),
            Target::Asterisk => (tls, host, Bytes::from_static(b"*")),
            Target::Authority(authority) => (tls, authority, Bytes::new()),
            Target::Absolute {
                https,
                authority,
                path,
            } => {
                absolute = true;
                (https, authority, path)
            }
        };
        let body = match head.framing {
            Framing::None => BodyKind::None,
            Framing::Length(length) => BodyKind::Length(length),
            Framing::Chunked | Framing::UntilClose => BodyKind::Stream,
        };
        let protocol = match head.version {
            Version::Http10 => Protocol::Http10,
            Version::Http11 => Protocol::Http11,
        };
        let request = Self {
            method: head.method,
            https,
            authority,
            path,
            headers,
            protocol,
            body,
            upgrade: head.upgrade,
            absolute,
            case: head.case,
            announced: None,
        };
        (request, head.keep_alive)
    }

    /// From an HTTP/2 head.
    pub(crate) fn from_http2(head: http::request::Parts, end_of_stream: bool, tls: bool) -> Self {
        let mut headers = head.headers;
        let mut method = head.method;
        join_cookies(&mut headers);
        let upgrade = head.extensions.get::<h2::ext::Protocol>();
        if let Some(protocol) = upgrade
            && let Ok(protocol) = HeaderValue::from_str(protocol.as_str())
        {
            // An extended CONNECT (RFC 8441) is what HTTP/1 asks for by Upgrade.
            method = Method::GET;
            headers.insert(UPGRADE, protocol);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let host = headers.remove(HOST);
        let authority = match head.uri.authority() {
            Some(authority) => Bytes::copy_from_slice(authority.as_str().as_bytes()),
            None => host
                .map(|host| Bytes::copy_from_slice(host.as_bytes()))
                .unwrap_or_default(),
        };
        let path = match head.uri.path_and_query() {
            Some(path) if method != Method::CONNECT => {
                Bytes::copy_from_slice(path.as_str().as_bytes())
            }
            _ => Bytes::new(),
        };
        let body = if end_of_stream {
            BodyKind::None
        } else {
            meltemi_upstream::exchange::content_length(&headers)
                .map_or(BodyKind::Stream, BodyKind::Length)
        };
        Self {
            upgrade: upgrade.is_some(),
            method,
            https: head
                .uri
                .scheme()
                .map_or(tls, |scheme| *scheme == http::uri::Scheme::HTTPS),
            authority,
            path,
            headers,
            protocol: Protocol::Http2,
            body,
            absolute: false,
            case: None,
            announced: None,
        }
    }

    /// Stands in where there is no request: one that could not be decoded, or one lifted out for a change.
    pub(crate) fn placeholder() -> Self {
        Self {
            method: Method::GET,
            https: false,
            authority: Bytes::new(),
            path: Bytes::new(),
            headers: HeaderMap::new(),
            protocol: Protocol::Http11,
            body: BodyKind::None,
            upgrade: false,
            absolute: false,
            case: None,
            announced: None,
        }
    }

    /// The client speaks gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        meltemi_traffic::select::is_grpc(self)
    }

    /// A field's value as text.
    pub(crate) fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Removes what frames the message; the codec writes it anew.
    pub(crate) fn strip_framing(&mut self) {
        self.announced = self.headers.remove(CONTENT_LENGTH);
        if self.announced.is_some() && self.body == BodyKind::None {
            // An empty body that was announced is announced further on.
            self.body = BodyKind::Length(0);
        }
    }
}

/// HTTP/2 may split cookies into several fields (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let all: Vec<&[u8]> = [first, second].into_iter().chain(crumbs).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

impl Headers for Request {
    fn size(&self) -> usize {
        Headers::size(&self.headers)
    }

    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        let found = Headers::get(&self.headers, name);
        let announced = || self.announced.as_ref().filter(|_| *name == CONTENT_LENGTH);
        found.or_else(|| announced().map(HeaderValue::as_bytes))
    }

    fn for_each<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        Headers::for_each(&self.headers, name, each);
    }
}

impl HeadersMut for Request {
    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        self.headers.append(name, value);
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }
}

impl RequestHead for Request {
    fn method(&self) -> &[u8] {
        self.method.as_str().as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        if self.https { b"https" } else { b"http" }
    }

    fn authority(&self) -> &[u8] {
        &self.authority
    }

    fn path(&self) -> &[u8] {
        &self.path
    }
}

impl RequestHeadMut for Request {
    fn set_authority(&mut self, value: &[u8]) {
        self.authority = Bytes::copy_from_slice(value);
    }

    fn set_path(&mut self, value: &[u8]) {
        self.path = Bytes::copy_from_slice(value);
    }

    fn set_method(&mut self, value: &[u8]) {
        if let Ok(method) = Method::from_bytes(value) {
            self.method = method;
        }
    }

    fn set_scheme(&mut self, value: &[u8]) {
        self.https = value.eq_ignore_ascii_case(b"https");
    }
}
