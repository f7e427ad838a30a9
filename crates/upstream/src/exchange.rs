//! One request and its response on an upstream connection, whatever protocol that speaks.
//!
//! All progress is made by `poll_` functions on `&mut self`, so the driver in `proxy` can pump both directions
//! in one task. Dropping an exchange before its end closes the HTTP/1 connection or resets the HTTP/2 stream.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::ResponseFuture;
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, StatusCode, Uri};
use meltemi_wire::http1::case::HeaderCase;
use meltemi_wire::http1::head::HeadLimits;
use meltemi_wire::http1::{Framing, Piece, Version};

use crate::http1::{Conn, Http1Error};
use crate::http2;
use crate::pool::{ConnFacts, Http1Lease, Http2Lease, Lease};
use crate::stream::Stream;

/// How a request's body is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// There is none.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Unknown until it ends.
    Stream,
    /// Raw bytes after the head, once the peer agrees (upgrade or CONNECT).
    Tunnel,
}

/// A request as it goes upstream. The fields that frame a message (Host, Content-Length, Transfer-Encoding and,
/// but for upgrades, Connection) are not in `headers`.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// `:method`.
    pub method: &'a Method,
    /// `:scheme`.
    pub https: bool,
    /// `:authority`.
    pub authority: &'a Bytes,
    /// `:path`.
    pub path: &'a Bytes,
    /// Other fields.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: BodyKind,
    /// How the client spelt the names, where that is kept.
    pub case: Option<&'a Arc<HeaderCase>>,
}

/// A response head.
#[derive(Debug)]
pub struct ResponseStart {
    /// `:status`.
    pub status: StatusCode,
    /// Fields as received.
    pub headers: HeaderMap,
    /// What is known of the body's length.
    pub body: ResponseLength,
    /// The connection switched to raw bytes.
    pub tunnel: bool,
    /// How the upstream spelt the names, where that is kept.
    pub case: Option<Arc<HeaderCase>>,
}

/// What is known of a response body's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseLength {
    /// There is none.
    Empty,
    /// Announced.
    Known(u64),
    /// Until it ends.
    Unknown,
}

/// Why an upstream stream ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection went away.
    #[error("connection termination")]
    Terminated,
    /// The peer refused the stream without looking at it.
    #[error("refused stream")]
    Refused,
    /// The peer reset the stream.
    #[error("remote reset")]
    RemoteReset,
    /// We reset the stream.
    #[error("local reset")]
    LocalReset,
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// Its response head is over a limit.
    #[error("response headers over a limit")]
    HeadersTooLarge,
}

impl From<Http1Error> for StreamError {
    fn from(error: Http1Error) -> Self {
        use meltemi_wire::http1::body::BodyError;
        use meltemi_wire::http1::head::HeadError;
        match error {
            Http1Error::Closed | Http1Error::Io(_) => Self::Terminated,
            // A message that is cut breaks the protocol, as Envoy sees it.
            Http1Error::Body(BodyError::Truncated) => Self::Protocol("truncated body".to_owned()),
            Http1Error::Head(HeadError::TooLarge | HeadError::TooManyHeaders) => {
                Self::HeadersTooLarge
            }
            Http1Error::Head(error) => Self::Protocol(error.to_string()),
            Http1Error::Body(error) => Self::Protocol(error.to_string()),
            Http1Error::LengthMismatch => Self::LocalReset,
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        if error.is_io() {
            return Self::Terminated;
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => Self::Refused,
            Some(Reason::NO_ERROR) if error.is_go_away() => Self::Refused,
            Some(_) if error.is_reset() && error.is_remote() => Self::RemoteReset,
            Some(
                Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR | Reason::COMPRESSION_ERROR,
            ) => Self::Protocol(error.to_string()),
            Some(_) if error.is_go_away() => Self::Terminated,
            _ => Self::LocalReset,
        }
    }
}

/// A running exchange.
#[derive(Debug)]
pub struct Exchange(Kind);

#[derive(Debug)]
enum Kind {
    Http1 {
        lease: Http1Lease,
        method: Method,
        limits: HeadLimits,
        reusable: bool,
        responded: bool,
    },
    Http2(Http2Exchange),
    Raw(RawExchange),
}

/// A connection without HTTP: its bytes are the bodies of a request that ends here, whose response we make up.
#[derive(Debug)]
struct RawExchange {
    conn: Box<Conn>,
    facts: ConnFacts,
    tunnel: bool,
}

#[derive(Debug)]
struct Http2Exchange {
    lease: Http2Lease,
    response: Option<ResponseFuture>,
    send: http2::Send,
    recv: Option<http2::Recv>,
    /// The protocol of an extended CONNECT (RFC 8441), which the rest of the proxy sees as an upgrade.
    upgrade: Option<HeaderValue>,
}

impl Exchange {
    /// Sends the head (queued, not flushed).
    ///
    /// # Errors
    /// When the connection cannot take a request any more or the head cannot be expressed in HTTP/2.
    pub fn start(
        lease: Lease,
        request: &Outgoing<'_>,
        limits: HeadLimits,
    ) -> Result<Self, StreamError> {
        match lease {
            Lease::Http1(mut lease) => {
                let framing = match request.body {
                    BodyKind::None if announces_nothing(request.method) => Framing::None,
                    BodyKind::None => Framing::Length(0),
                    BodyKind::Tunnel => Framing::None,
                    BodyKind::Length(length) => Framing::Length(length),
                    BodyKind::Stream => Framing::Chunked,
                };
                let target = if *request.method == Method::CONNECT {
                    request.authority
                } else {
                    request.path
                };
                lease.conn().set_spelling(request.case.cloned());
                lease.conn().take_wire();
                lease.conn().send_request(
                    request.method,
                    target,
                    request.authority,
                    request.headers,
                    framing,
                );
                if request.body == BodyKind::Tunnel {
                    lease.conn().switch_output_to_raw();
                }
                let method = request.method.clone();
                Ok(Self(Kind::Http1 {
                    lease,
                    method,
                    limits,
                    reusable: false,
                    responded: false,
                }))
            }
            Lease::Http2(mut lease) => {
                let head = http2_head(request)?;
                let finished = request.body == BodyKind::None;
                let (response, send) = lease.sender().send_request(head, finished)?;
                let send = http2::Send::new(send, finished);
                Ok(Self(Kind::Http2(Http2Exchange {
                    lease,
                    response: Some(response),
                    send,
                    recv: None,
                    upgrade: upgrade(request).cloned(),
                })))
            }
        }
    }

    /// The payload of a CONNECT (`tunnel`), or the body of a POST, on a connection of its own.
    pub fn raw(stream: Stream, facts: ConnFacts, tunnel: bool) -> Self {
        let mut conn = Box::new(Conn::new(stream));
        conn.switch_to_raw();
        Self(Kind::Raw(RawExchange {
            conn,
            facts,
            tunnel,
        }))
    }

    /// True without HTTP.
    pub fn is_raw(&self) -> bool {
        matches!(self.0, Kind::Raw(_))
    }

    /// True for HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.0, Kind::Http2(_))
    }

    /// Facts of the connection below.
    pub fn connection(&self) -> &crate::pool::ConnFacts {
        match &self.0 {
            Kind::Http1 { lease, .. } => lease.facts(),
            Kind::Http2(stream) => stream.lease.facts(),
            Kind::Raw(raw) => &raw.facts,
        }
    }

    /// The next response head: interim ones (1xx) first, then the final one.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseStart, StreamError>> {
        match &mut self.0 {
            Kind::Http1 {
                lease,
                method,
                limits,
                reusable,
                responded,
            } => {
                let head = ready!(lease.conn().poll_response(cx, limits, method))?;
                let tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS
                    || (*method == Method::CONNECT && head.status.is_success());
                if tunnel {
                    lease.conn().switch_to_raw();
                }
                *reusable = head.keep_alive && !tunnel;
                *responded = !head.status.is_informational() || tunnel;
                let body = match head.framing {
                    Framing::None => ResponseLength::Empty,
                    Framing::Length(length) => ResponseLength::Known(length),
                    Framing::Chunked | Framing::UntilClose => ResponseLength::Unknown,
                };
                Poll::Ready(Ok(ResponseStart {
                    status: head.status,
                    headers: head.headers,
                    body,
                    tunnel,
                    case: head.case,
                }))
            }
            Kind::Http2(stream) => stream.poll_response(cx),
            Kind::Raw(raw) => Poll::Ready(Ok(ResponseStart {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: ResponseLength::Unknown,
                tunnel: raw.tunnel,
                case: None,
            })),
        }
    }

    /// The next piece of the response body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, StreamError>> {
        match &mut self.0 {
            Kind::Http1 { lease, .. } => lease.conn().poll_body(cx).map_err(StreamError::from),
            Kind::Http2(Http2Exchange {
                recv: Some(recv), ..
            }) => recv.poll_body(cx).map_err(StreamError::from),
            Kind::Http2(_) => Poll::Ready(Ok(Piece::End(None))),
            Kind::Raw(raw) => raw.conn.poll_body(cx).map_err(StreamError::from),
        }
    }

    /// The whole response was taken.
    pub fn response_finished(&self) -> bool {
        match &self.0 {
            Kind::Http1 {
                lease, responded, ..
            } => *responded && lease.look().body_finished(),
            Kind::Http2(stream) => stream.recv.as_ref().is_some_and(http2::Recv::is_finished),
            Kind::Raw(raw) => raw.conn.body_finished(),
        }
    }

    /// True while request data should not be read from the client.
    pub fn congested(&self) -> bool {
        match &self.0 {
            Kind::Http1 { lease, .. } => lease.look().congested(),
            Kind::Http2(stream) => stream.send.congested(),
            Kind::Raw(raw) => raw.conn.congested(),
        }
    }

    /// Takes request data; only while not [`Self::congested`].
    ///
    /// # Errors
    /// When it exceeds the announced length.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        match &mut self.0 {
            Kind::Http1 { lease, .. } => {
                lease.conn().send_data(data)?;
                if end {
                    lease.conn().send_end(None)?;
                }
            }
            Kind::Http2(stream) => stream.send.send_data(data, end),
            Kind::Raw(raw) => {
                raw.conn.send_data(data)?;
                if end {
                    raw.conn.send_end(None)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the request.
    ///
    /// # Errors
    /// When fewer bytes were sent than announced.
    pub fn send_end(&mut self, trailers: Option<HeaderMap>) -> Result<(), StreamError> {
        match &mut self.0 {
            Kind::Http1 { lease, .. } => lease.conn().send_end(trailers.as_ref())?,
            Kind::Http2(stream) => stream.send.send_end(trailers),
            Kind::Raw(raw) => raw.conn.send_end(None)?,
        }
        Ok(())
    }

    /// Writes what is queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match &mut self.0 {
            Kind::Http1 { lease, .. } => lease
                .conn()
                .poll_flush(cx)
                .map_err(|_| StreamError::Terminated),
            Kind::Http2(stream) => stream.send.poll_flush(cx).map_err(StreamError::from),
            Kind::Raw(raw) => raw.conn.poll_flush(cx).map_err(|_| StreamError::Terminated),
        }
    }

    /// Nothing was flushed yet: the task is polled again within this turn.
    pub fn defers(&self) -> bool {
        match &self.0 {
            Kind::Http1 { lease, .. } => lease.look().defers(),
            Kind::Http2(_) | Kind::Raw(_) => false,
        }
    }

    /// Bytes sent to and received from the upstream so far; HTTP/2 shares its connection and does not say.
    pub fn take_wire(&mut self) -> (u64, u64) {
        match &mut self.0 {
            Kind::Http1 { lease, .. } => lease.conn().take_wire(),
            Kind::Http2(_) => (0, 0),
            Kind::Raw(raw) => raw.conn.take_wire(),
        }
    }

    /// Ends the exchange: a connection that can serve another request goes back to its pool, any other is closed.
    /// A stream whose response is complete before its request is reset without blame.
    pub fn finish(self) {
        match self.0 {
            Kind::Http1 {
                lease,
                reusable,
                responded,
                ..
            } => {
                if reusable
                    && responded
                    && lease.look().body_finished()
                    && lease.look().output_finished()
                {
                    lease.release();
                }
            }
            Kind::Http2(mut stream) => {
                if !stream.send.is_finished() {
                    stream.send.reset(Reason::NO_ERROR);
                }
            }
            Kind::Raw(_) => {}
        }
    }

    /// Gives the exchange up.
    pub fn abort(self) {
        if let Kind::Http2(mut stream) = self.0 {
            stream.send.reset(Reason::CANCEL);
        }
    }
}

impl Http2Exchange {
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseStart, StreamError>> {
        let Some(future) = &mut self.response else {
            return Poll::Ready(Err(StreamError::LocalReset));
        };
        if let Poll::Ready(Some(Ok(interim))) = future.poll_informational(cx) {
            let (head, ()) = interim.into_parts();
            let body = ResponseLength::Empty;
            return Poll::Ready(Ok(ResponseStart {
                status: head.status,
                headers: head.headers,
                body,
                tunnel: false,
                case: None,
            }));
        }
        let response = ready!(std::pin::Pin::new(future).poll(cx))?;
        self.response = None;
        let (mut head, body) = response.into_parts();
        let tunnel = self.upgrade.is_some() && head.status == StatusCode::OK;
        if tunnel && let Some(protocol) = self.upgrade.take() {
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            head.headers.insert(UPGRADE, protocol);
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let length = if body.is_end_stream() {
            ResponseLength::Empty
        } else {
            content_length(&head.headers).map_or(ResponseLength::Unknown, ResponseLength::Known)
        };
        self.recv = Some(http2::Recv::new(body));
        Poll::Ready(Ok(ResponseStart {
            status: head.status,
            headers: head.headers,
            body: length,
            tunnel,
            case: None,
        }))
    }
}

/// Requests of these methods have no body unless one is announced; others say that theirs is empty.
fn announces_nothing(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    )
}

/// The protocol that a request asks to switch to.
fn upgrade<'r>(request: &'r Outgoing<'_>) -> Option<&'r HeaderValue> {
    let asks = request.body == BodyKind::Tunnel && *request.method != Method::CONNECT;
    request.headers.get(UPGRADE).filter(|_| asks)
}

fn http2_head(request: &Outgoing<'_>) -> Result<http::Request<()>, StreamError> {
    let invalid = |error: http::Error| StreamError::Protocol(error.to_string());
    let uri = if *request.method == Method::CONNECT {
        Uri::builder()
            .authority(request.authority.as_ref())
            .build()
            .map_err(invalid)?
    } else {
        let scheme = if request.https {
            http::uri::Scheme::HTTPS
        } else {
            http::uri::Scheme::HTTP
        };
        let path = http::uri::PathAndQuery::from_maybe_shared(request.path.clone())
            .map_err(|error| StreamError::Protocol(error.to_string()))?;
        Uri::builder()
            .scheme(scheme)
            .authority(request.authority.as_ref())
            .path_and_query(path)
            .build()
            .map_err(invalid)?
    };
    let mut head = http::Request::new(());
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = uri;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = request.headers.clone();
    if let Some(protocol) = upgrade(request).and_then(|value| value.to_str().ok()) {
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut()
            .insert(h2::ext::Protocol::from(protocol));
        head.headers_mut().remove(UPGRADE);
        head.headers_mut().remove(CONNECTION);
    }
    if let BodyKind::Length(length) = request.body {
        head.headers_mut()
            .insert(http::header::CONTENT_LENGTH, length.into());
    }
    Ok(head)
}

/// The value of a well-formed Content-Length.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    std::str::from_utf8(headers.get(http::header::CONTENT_LENGTH)?.as_bytes())
        .ok()?
        .parse()
        .ok()
}

/// Text for `%UPSTREAM_PROTOCOL%`.
pub fn protocol_name(http2: bool, version: Version) -> &'static str {
    match (http2, version) {
        (true, _) => "HTTP/2",
        (false, Version::Http11) => "HTTP/1.1",
        (false, Version::Http10) => "HTTP/1.0",
    }
}
