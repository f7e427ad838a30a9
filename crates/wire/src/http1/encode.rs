//! Writing of heads, chunks and trailers.
//!
//! Nothing is checked here: [`http::HeaderName`] and [`http::HeaderValue`] cannot hold a line end, and the
//! request-target has been through the decoder or the router.

use http::header::HeaderMap;
use http::{Method, StatusCode};

use super::case::Casing;
use super::{Framing, Version};

/// Longest chunk-size line that [`chunk_size`] writes: sixteen hex digits and CRLF.
pub const MAX_CHUNK_SIZE_LINE: usize = 18;

/// Writes a request head. `host` goes first, as every client does; `headers` must not hold Host or the
/// framing headers, which follow from `framing`.
pub fn request(
    dst: &mut Vec<u8>,
    method: &Method,
    target: &[u8],
    host: &[u8],
    headers: &HeaderMap,
    framing: Framing,
    case: Casing<'_>,
) {
    dst.reserve(64 + target.len() + host.len() + headers.len() * 48);
    dst.extend_from_slice(method.as_str().as_bytes());
    dst.push(b' ');
    dst.extend_from_slice(target);
    dst.extend_from_slice(b" HTTP/1.1\r\n");
    line(dst, "host", host, case);
    lines(dst, headers, case);
    match framing {
        Framing::None => {}
        Framing::Length(length) => content_length(dst, length, case),
        Framing::Chunked | Framing::UntilClose => line(dst, "transfer-encoding", b"chunked", case),
    }
    dst.extend_from_slice(b"\r\n");
}

/// How a response head announces its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// No framing header: the body ends with the connection, or the status or method forbids one.
    Unannounced,
}

/// Writes a response head; `headers` must not hold the framing headers or Connection.
pub fn response(
    dst: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    body: ResponseBody,
    connection: Option<&str>,
    case: Casing<'_>,
    version: Version,
) {
    dst.reserve(64 + headers.len() * 48);
    if status == StatusCode::OK && version == Version::Http11 {
        dst.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        dst.extend_from_slice(match version {
            Version::Http10 => b"HTTP/1.0 ",
            Version::Http11 => b"HTTP/1.1 ",
        });
        dst.extend_from_slice(status.as_str().as_bytes());
        dst.push(b' ');
        dst.extend_from_slice(reason(status).as_bytes());
        dst.extend_from_slice(b"\r\n");
    }
    lines(dst, headers, case);
    match body {
        ResponseBody::Length(length) => content_length(dst, length, case),
        ResponseBody::Chunked => line(dst, "transfer-encoding", b"chunked", case),
        ResponseBody::Unannounced => {}
    }
    if let Some(connection) = connection {
        line(dst, "connection", connection.as_bytes(), case);
    }
    dst.extend_from_slice(b"\r\n");
}

/// Reason phrases as Envoy writes them: it does not know the teapot.
pub fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::IM_A_TEAPOT => "Unknown",
        known => known.canonical_reason().unwrap_or("Unknown"),
    }
}

/// Writes the line that opens a chunk of `size` bytes.
pub fn chunk_size(dst: &mut Vec<u8>, size: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    dst.reserve(MAX_CHUNK_SIZE_LINE);
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        dst.push(HEX[(size >> (digit * 4)) & 0xf]);
    }
    dst.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailers.
pub fn last_chunk(dst: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    dst.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        lines(dst, trailers, Casing::Lower);
    }
    dst.extend_from_slice(b"\r\n");
}

fn lines(dst: &mut Vec<u8>, headers: &HeaderMap, case: Casing<'_>) {
    for (name, value) in headers {
        line(dst, name.as_str(), value.as_bytes(), case);
    }
}

fn line(dst: &mut Vec<u8>, name: &str, value: &[u8], case: Casing<'_>) {
    dst.reserve(name.len() + value.len() + 4);
    case.write(dst, name);
    dst.extend_from_slice(b": ");
    dst.extend_from_slice(value);
    dst.extend_from_slice(b"\r\n");
}

fn content_length(dst: &mut Vec<u8>, length: u64, case: Casing<'_>) {
    case.write(dst, "content-length");
    dst.extend_from_slice(b": ");
    decimal(dst, length);
    dst.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal without going through the formatting machinery.
pub fn decimal(dst: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    dst.extend_from_slice(&digits[at..]);
}
