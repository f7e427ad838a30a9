//! Decoding of request and response heads.
//!
//! Values keep sharing the read buffer; nothing is copied but the method and header names.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Method, StatusCode};

use super::case::{HeaderCase, KeepCase};
use super::{Framing, Version};
use smallvec::SmallVec;

/// Most header lines that can be configured; bounds the parser's stack.
pub const MAX_HEADER_LINES: usize = 256;

/// Limits on one head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Most bytes from the first to the blank line. Envoy's `max_request_headers_kb` default is 60.
    pub max_bytes: usize,
    /// Most header lines. Envoy's `max_headers_count` default is 100.
    pub max_headers: usize,
    /// Content-Length beside Transfer-Encoding is dropped instead of refused (`allow_chunked_length`).
    pub allow_chunked_length: bool,
    /// The spelling of names is remembered (`preserve_case`).
    pub keep_case: KeepCase,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            max_bytes: 60 * 1024,
            max_headers: 100,
            allow_chunked_length: false,
            keep_case: KeepCase::No,
        }
    }
}

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Syntax error, forbidden byte, bare LF or line folding.
    #[error("malformed message head")]
    Malformed,
    /// More bytes than [`HeadLimits::max_bytes`].
    #[error("message head is too large")]
    TooLarge,
    /// More lines than [`HeadLimits::max_headers`].
    #[error("too many headers")]
    TooManyHeaders,
    /// Content-Length beside Transfer-Encoding.
    #[error("both content-length and transfer-encoding present")]
    LengthAndChunked,
    /// Content-Length repeated or not a number.
    #[error("invalid content-length")]
    BadContentLength,
    /// A transfer coding other than `chunked`, or any with HTTP/1.0.
    #[error("unsupported transfer-encoding")]
    BadTransferEncoding,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("unsupported HTTP version")]
    BadVersion,
}

impl HeadError {
    /// Envoy's response code details for this refusal.
    pub fn details(self) -> &'static str {
        match self {
            Self::Malformed => "http1.codec_error",
            Self::BadVersion => "low_version",
            Self::TooLarge => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::LengthAndChunked => "http1.content_length_and_chunked_not_allowed",
            Self::BadContentLength => "http1.codec_error",
            Self::BadTransferEncoding => "http1.invalid_transfer_encoding",
        }
    }

    /// The status Envoy answers a refused request with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BadTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::BadVersion => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed | Self::LengthAndChunked | Self::BadContentLength => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// A decoded request head.
#[derive(Debug)]
pub struct RequestHead {
    /// Method token.
    pub method: Method,
    /// The request-target exactly as sent.
    pub target: Bytes,
    /// Protocol version.
    pub version: Version,
    /// The Host field; a request with two is refused.
    pub host: Option<Bytes>,
    /// All other header lines, names in lower case.
    pub headers: HeaderMap,
    /// How the body ends.
    pub framing: Framing,
    /// The connection may carry another request afterwards.
    pub keep_alive: bool,
    /// `Connection: upgrade` with an Upgrade header.
    pub upgrade: bool,
    /// Bytes that the head occupied on the wire.
    pub wire_len: usize,
    /// How the names were spelt, when that is asked for.
    pub case: Option<Arc<HeaderCase>>,
}

/// A decoded response head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status code.
    pub status: StatusCode,
    /// Protocol version.
    pub version: Version,
    /// All header lines, names in lower case.
    pub headers: HeaderMap,
    /// How the body ends; already accounts for the request's method.
    pub framing: Framing,
    /// The connection may be used again afterwards.
    pub keep_alive: bool,
    /// Bytes that the head occupied on the wire.
    pub wire_len: usize,
    /// How the names were spelt, when that is asked for.
    pub case: Option<Arc<HeaderCase>>,
}

/// Remembers how much of an incomplete head was already looked at, so that a peer that sends one byte at a time
/// costs linear, not quadratic, work.
#[derive(Debug, Default)]
pub struct HeadDecoder {
    scanned: usize,
}

impl HeadDecoder {
    /// Decodes a request head from the front of `buf`; `None` asks for more bytes.
    ///
    /// # Errors
    /// When the head is malformed or over a limit. The buffer is then in an unspecified state and the
    /// connection must not be read further.
    pub fn request(
        &mut self,
        buf: &mut BytesMut,
        limits: &HeadLimits,
    ) -> Result<Option<RequestHead>, HeadError> {
        skip_leading_blank_lines(buf);
        if !self.worth_parsing(buf, limits)? {
            return Ok(None);
        }
        let mut lines = Lines::new();
        let parsed = {
            let mut storage = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADER_LINES];
            let mut request = httparse::Request::new(&mut []);
            match request.parse_with_uninit_headers(buf, &mut storage) {
                Ok(httparse::Status::Partial) => None,
                Err(_) if lacks_version(buf) => return Err(HeadError::BadVersion),
                Err(error) => return Err(parse_error(error)),
                Ok(httparse::Status::Complete(len)) => {
                    index_lines(buf, request.headers, &mut lines, limits)?;
                    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
                        .map_err(|_| HeadError::Malformed)?;
                    let target = request
                        .path
                        .map(|path| Span::of(buf, path.as_bytes()))
                        .unwrap_or_default();
                    Some((len, method, target, version(request.version)))
                }
            }
        };
        let Some((len, method, target, version)) = parsed else {
            self.scanned = buf.len();
            return Ok(None);
        };
        self.scanned = 0;
        let head = take_head(buf, len, limits)?;
        if !target.bytes(&head).iter().all(u8::is_ascii_graphic) {
            return Err(HeadError::Malformed);
        }
        let (mut headers, mut facts) = collect(&head, &lines, true)?;
        facts.settle(&mut headers, limits);
        let framing = facts.request_framing(version)?;
        Ok(Some(RequestHead {
            keep_alive: facts.keep_alive(version),
            upgrade: facts.connection_upgrade && headers.contains_key(UPGRADE),
            target: target.slice(&head),
            method,
            version,
            host: facts.host,
            headers,
            framing,
            wire_len: len,
            case: case(&head, &lines, limits),
        }))
    }

    /// Decodes a response head to a request with `method`; `None` asks for more bytes.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn response(
        &mut self,
        buf: &mut BytesMut,
        limits: &HeadLimits,
        method: &Method,
    ) -> Result<Option<ResponseHead>, HeadError> {
        if !self.worth_parsing(buf, limits)? {
            return Ok(None);
        }
        let mut lines = Lines::new();
        let parsed = {
            let mut storage = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADER_LINES];
            let mut response = httparse::Response::new(&mut []);
            match httparse::ParserConfig::default().parse_response_with_uninit_headers(
                &mut response,
                buf,
                &mut storage,
            ) {
                Ok(httparse::Status::Partial) => None,
                Err(error) => return Err(parse_error(error)),
                Ok(httparse::Status::Complete(len)) => {
                    index_lines(buf, response.headers, &mut lines, limits)?;
                    let status = StatusCode::from_u16(response.code.unwrap_or_default())
                        .map_err(|_| HeadError::Malformed)?;
                    Some((len, status, version(response.version)))
                }
            }
        };
        let Some((len, status, version)) = parsed else {
            self.scanned = buf.len();
            return Ok(None);
        };
        self.scanned = 0;
        let head = take_head(buf, len, limits)?;
        let (mut headers, mut facts) = collect(&head, &lines, false)?;
        facts.settle(&mut headers, limits);
        let framing = facts.response_framing(status, method)?;
        let keep_alive = facts.keep_alive(version) && framing != Framing::UntilClose;
        Ok(Some(ResponseHead {
            status,
            version,
            headers,
            framing,
            keep_alive,
            wire_len: len,
            case: case(&head, &lines, limits),
        }))
    }

    /// False while the bytes cannot hold a whole head yet.
    fn worth_parsing(&self, buf: &BytesMut, limits: &HeadLimits) -> Result<bool, HeadError> {
        if buf.is_empty() {
            return Ok(false);
        }
        let complete = if self.scanned == 0 || self.scanned > buf.len() {
            true
        } else {
            // The blank line may straddle what was there and what is new.
            let from = self.scanned.saturating_sub(3);
            buf[from..]
                .windows(2)
                .any(|pair| pair == b"\n\r" || pair == b"\n\n")
        };
        if !complete && buf.len() > limits.max_bytes {
            return Err(HeadError::TooLarge);
        }
        Ok(complete)
    }
}

/// Position of one header line's parts inside the head.
#[derive(Clone, Copy, Default)]
struct Line {
    name: Span,
    value: Span,
}

/// The lines of a head; on the stack, as few heads have more than this.
type Lines = SmallVec<[Line; 32]>;

#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Where `part`, a slice of `whole`, lies in it.
    fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Self {
            start: start as u32,
            len: part.len() as u32,
        }
    }

    fn slice(self, head: &Bytes) -> Bytes {
        head.slice(self.start as usize..(self.start + self.len) as usize)
    }

    fn bytes(self, head: &Bytes) -> &[u8] {
        &head[self.start as usize..(self.start + self.len) as usize]
    }
}

/// RFC 9112 §2.2: a server should ignore at least one empty line before the request line.
fn skip_leading_blank_lines(buf: &mut BytesMut) {
    let mut skipped = 0;
    while skipped < 2 && buf.starts_with(b"\r\n") {
        let _ = buf.split_to(2);
        skipped += 1;
    }
}

/// HTTP/0.9: the request line has a method and a target, no version.
fn lacks_version(buf: &[u8]) -> bool {
    let line = buf.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
    is_method
        && words.next().is_some_and(|target| target.starts_with(b"/"))
        && words.next().is_none()
}

fn parse_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::Version => HeadError::BadVersion,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token => HeadError::Malformed,
    }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) {
        Version::Http10
    } else {
        Version::Http11
    }
}

fn index_lines(
    buf: &[u8],
    headers: &[httparse::Header<'_>],
    lines: &mut Lines,
    limits: &HeadLimits,
) -> Result<(), HeadError> {
    if headers.len() > limits.max_headers {
        return Err(HeadError::TooManyHeaders);
    }
    lines.extend(headers.iter().map(|header| Line {
        name: Span::of(buf, header.name.as_bytes()),
        value: Span::of(buf, header.value),
    }));
    Ok(())
}

/// Splits the head off the buffer and refuses what httparse tolerates: line ends without CR.
fn take_head(buf: &mut BytesMut, len: usize, limits: &HeadLimits) -> Result<Bytes, HeadError> {
    if len > limits.max_bytes {
        return Err(HeadError::TooLarge);
    }
    let head = buf.split_to(len).freeze();
    let bare = memchr::memchr_iter(b'\n', &head).any(|at| at == 0 || head[at - 1] != b'\r');
    if bare {
        Err(HeadError::Malformed)
    } else {
        Ok(head)
    }
}

fn case(head: &Bytes, lines: &[Line], limits: &HeadLimits) -> Option<Arc<HeaderCase>> {
    if limits.keep_case == KeepCase::No {
        return None;
    }
    let names = lines.iter().map(|line| line.name.slice(head));
    Some(Arc::new(HeaderCase::new(names, limits.keep_case)))
}

/// What the framing headers say, gathered while the lines are copied into the map.
#[derive(Default)]
struct Facts {
    host: Option<Bytes>,
    length: Option<u64>,
    chunked: bool,
    foreign_coding: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
}

fn collect(head: &Bytes, lines: &[Line], request: bool) -> Result<(HeaderMap, Facts), HeadError> {
    // Room for what the proxy adds; the map's own step to twice the size comes after 12.
    let mut headers = HeaderMap::with_capacity((lines.len() + 4).max(12));
    let mut facts = Facts::default();
    for line in lines {
        let name =
            HeaderName::from_bytes(line.name.bytes(head)).map_err(|_| HeadError::Malformed)?;
        let value = HeaderValue::from_maybe_shared(line.value.slice(head))
            .map_err(|_| HeadError::Malformed)?;
        if name == HOST && request {
            if facts.host.replace(line.value.slice(head)).is_some() {
                return Err(HeadError::Malformed);
            }
            continue;
        }
        if name == CONTENT_LENGTH {
            facts.content_length(value.as_bytes())?;
        } else if name == TRANSFER_ENCODING {
            facts.transfer_encoding(value.as_bytes());
        } else if name == CONNECTION {
            facts.connection(value.as_bytes());
        }
        headers.append(name, value);
    }
    Ok((headers, facts))
}

impl Facts {
    /// Takes Content-Length away where Transfer-Encoding is allowed to win (RFC 9112 §6.3).
    fn settle(&mut self, headers: &mut HeaderMap, limits: &HeadLimits) {
        if limits.allow_chunked_length && self.chunked && self.length.take().is_some() {
            headers.remove(CONTENT_LENGTH);
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.length.is_some()
            || value.is_empty()
            || value.len() > 19
            || !value.iter().all(u8::is_ascii_digit)
        {
            return Err(HeadError::BadContentLength);
        }
        self.length = Some(
            value
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
        );
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        if value.eq_ignore_ascii_case(b"chunked") && !self.chunked {
            self.chunked = true;
        } else {
            self.foreign_coding = true;
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            self.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }

    fn request_framing(&self, version: Version) -> Result<Framing, HeadError> {
        if self.foreign_coding || (self.chunked && version == Version::Http10) {
            return Err(HeadError::BadTransferEncoding);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(HeadError::LengthAndChunked),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(0) | None) => Ok(Framing::None),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }

    fn response_framing(&self, status: StatusCode, method: &Method) -> Result<Framing, HeadError> {
        if self.chunked && self.length.is_some() {
            return Err(HeadError::LengthAndChunked);
        }
        if self.foreign_coding {
            return Err(HeadError::BadTransferEncoding);
        }
        let tunnel = method == Method::CONNECT && status.is_success();
        if status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || method == Method::HEAD
            || tunnel
        {
            return Ok(Framing::None);
        }
        Ok(match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        })
    }
}
