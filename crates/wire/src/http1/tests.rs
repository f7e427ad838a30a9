//! Raw bytes in, decoded values out.

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::body::{BodyDecoder, BodyError};
use super::case::{Casing, KeepCase};
use super::head::{HeadDecoder, HeadError, HeadLimits, RequestHead, ResponseHead};
use super::target::{Target, split};
use super::{Framing, Piece, Version, encode};

fn request(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    HeadDecoder::default().request(&mut BytesMut::from(bytes), &HeadLimits::default())
}

fn response(method: Method, bytes: &[u8]) -> Result<Option<ResponseHead>, HeadError> {
    HeadDecoder::default().response(&mut BytesMut::from(bytes), &HeadLimits::default(), &method)
}

#[test]
fn a_request_head_keeps_target_bytes_and_leaves_the_body_in_the_buffer() {
    let mut buf = BytesMut::from(
        &b"POST /a%2Fb?q=~ HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"[..],
    );
    let head = HeadDecoder::default()
        .request(&mut buf, &HeadLimits::default())
        .unwrap()
        .unwrap();
    assert_eq!(head.target.as_ref(), b"/a%2Fb?q=~");
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.framing, Framing::Length(4));
    assert_eq!(head.host.as_deref(), Some(&b"h"[..]));
    assert!(head.keep_alive);
    assert_eq!(&buf[..], b"body");
}

#[test]
fn ambiguous_and_malformed_requests_are_refused() {
    let table: &[(&[u8], HeadError)] = &[
        (b"GET / HTTP/1.1\nHost: h\n\n", HeadError::Malformed),
        (
            b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n",
            HeadError::Malformed,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
            HeadError::Malformed,
        ),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", HeadError::Malformed),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            HeadError::Malformed,
        ),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", HeadError::Malformed),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", HeadError::Malformed),
        (b"GET /a b HTTP/1.1\r\n\r\n", HeadError::BadVersion),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", HeadError::Malformed),
        (b"GET / HTTP/2.0\r\n\r\n", HeadError::BadVersion),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::LengthAndChunked,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            HeadError::BadContentLength,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            HeadError::BadContentLength,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            HeadError::BadContentLength,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            HeadError::BadContentLength,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            HeadError::BadTransferEncoding,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::BadTransferEncoding,
        ),
        (
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::BadTransferEncoding,
        ),
    ];
    for (bytes, expected) in table {
        let got = request(bytes).map(|head| head.is_some());
        assert_eq!(got, Err(*expected), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn keep_alive_follows_version_and_connection_header() {
    let table: &[(&[u8], bool)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", true),
        (b"GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n", false),
        (b"GET / HTTP/1.0\r\n\r\n", false),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ];
    for (bytes, expected) in table {
        assert_eq!(
            request(bytes).unwrap().unwrap().keep_alive,
            *expected,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn a_head_sent_byte_by_byte_is_decoded_once_complete() {
    let bytes = b"\r\nGET /slow HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    let mut decoder = HeadDecoder::default();
    let mut buf = BytesMut::new();
    for (index, byte) in bytes.iter().enumerate() {
        buf.extend_from_slice(&[*byte]);
        let head = decoder.request(&mut buf, &HeadLimits::default()).unwrap();
        assert_eq!(head.is_some(), index + 1 == bytes.len());
    }
}

#[test]
fn heads_over_a_limit_are_refused() {
    let limits = HeadLimits {
        max_bytes: 100,
        max_headers: 2,
        ..HeadLimits::default()
    };
    let many = b"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n";
    let mut buf = BytesMut::from(&many[..]);
    assert_eq!(
        HeadDecoder::default()
            .request(&mut buf, &limits)
            .unwrap_err(),
        HeadError::TooManyHeaders
    );
    let mut decoder = HeadDecoder::default();
    let mut buf = BytesMut::from(&b"GET / HTTP/1.1\r\na: "[..]);
    assert!(decoder.request(&mut buf, &limits).unwrap().is_none());
    buf.extend_from_slice(&[b'x'; 100]);
    assert_eq!(
        decoder.request(&mut buf, &limits).unwrap_err(),
        HeadError::TooLarge
    );
}

#[test]
fn an_upgrade_needs_both_headers() {
    let both = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(request(both).unwrap().unwrap().upgrade);
    assert!(
        !request(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
            .unwrap()
            .unwrap()
            .upgrade
    );
}

#[test]
fn response_framing_depends_on_status_and_method() {
    let table: &[(Method, &[u8], Framing, bool)] = &[
        (
            Method::GET,
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            Framing::Length(3),
            true,
        ),
        (
            Method::HEAD,
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            Method::GET,
            b"HTTP/1.1 204 No Content\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            Method::GET,
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            Method::GET,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            Framing::Chunked,
            true,
        ),
        (
            Method::GET,
            b"HTTP/1.1 200 OK\r\n\r\n",
            Framing::UntilClose,
            false,
        ),
        (
            Method::GET,
            b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            Framing::None,
            false,
        ),
        (
            Method::GET,
            b"HTTP/1.1 100 Continue\r\n\r\n",
            Framing::None,
            true,
        ),
        (
            Method::CONNECT,
            b"HTTP/1.1 200 OK\r\n\r\n",
            Framing::None,
            true,
        ),
    ];
    for (method, bytes, framing, keep_alive) in table {
        let head = response(method.clone(), bytes).unwrap().unwrap();
        assert_eq!(
            (head.framing, head.keep_alive),
            (*framing, *keep_alive),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert_eq!(
        response(
            Method::GET,
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        .unwrap_err(),
        HeadError::LengthAndChunked
    );
}

/// Body, trailers and what was left in the buffer.
type Drained = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Feeds `input` in pieces of `step` bytes and returns body, trailers and what was left over.
fn drain(framing: Framing, input: &[u8], step: usize) -> Result<Drained, BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let mut buf = BytesMut::new();
    let mut body = Vec::new();
    let mut pieces = input.chunks(step);
    loop {
        match decoder.decode(&mut buf)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::End(trailers) => {
                let left: Vec<u8> = buf
                    .iter()
                    .copied()
                    .chain(pieces.flatten().copied())
                    .collect();
                return Ok((body, trailers, left));
            }
            Piece::NeedMore => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None => decoder.end_of_input()?,
            },
        }
    }
}

#[test]
fn bodies_decode_alike_whatever_the_segmentation() {
    let chunked = b"4\r\nWiki\r\nA;ext=\"1\"\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\nNEXT";
    for step in 1..chunked.len() {
        let (body, trailers, left) = drain(Framing::Chunked, chunked, step).unwrap();
        assert_eq!(body, b"Wiki0123456789", "step {step}");
        assert_eq!(trailers.unwrap()["x-sum"], "7");
        assert_eq!(left, b"NEXT");
        let (body, _, left) = drain(Framing::Length(6), b"abcdefNEXT", step.min(10)).unwrap();
        assert_eq!(
            (body.as_slice(), left.as_slice()),
            (&b"abcdef"[..], &b"NEXT"[..])
        );
    }
    assert_eq!(drain(Framing::UntilClose, b"abc", 2).unwrap().0, b"abc");
    assert_eq!(drain(Framing::Chunked, b"0\r\n\r\n", 1).unwrap().0, b"");
}

#[test]
fn malformed_or_truncated_bodies_are_refused() {
    let table: &[(Framing, &[u8], BodyError)] = &[
        (
            Framing::Chunked,
            b"4\nWiki\r\n0\r\n\r\n",
            BodyError::Malformed,
        ),
        (
            Framing::Chunked,
            b"4\r\nWikiX\r\n0\r\n\r\n",
            BodyError::Malformed,
        ),
        (Framing::Chunked, b"-1\r\n", BodyError::Malformed),
        (Framing::Chunked, b"0x4\r\n", BodyError::Malformed),
        (Framing::Chunked, b"\r\n", BodyError::Malformed),
        (
            Framing::Chunked,
            b"ffffffffffffffff\r\n",
            BodyError::Malformed,
        ),
        (Framing::Chunked, b"4 4\r\nWiki\r\n", BodyError::Malformed),
        (
            Framing::Chunked,
            b"0\r\nbad header\r\n\r\n",
            BodyError::Malformed,
        ),
        (Framing::Chunked, b"4\r\nWi", BodyError::Truncated),
        (Framing::Length(4), b"abc", BodyError::Truncated),
    ];
    for (framing, bytes, expected) in table {
        let got = drain(*framing, bytes, 3).map(|(body, _, _)| body);
        assert_eq!(got, Err(*expected), "{}", String::from_utf8_lossy(bytes));
    }
    let endless = vec![b'1'; 5000];
    assert_eq!(
        drain(Framing::Chunked, &endless, 100).map(|(body, _, _)| body),
        Err(BodyError::Malformed)
    );
}

#[test]
fn what_is_encoded_decodes_to_the_same_message() {
    let mut headers = HeaderMap::new();
    headers.append("a", HeaderValue::from_static("1"));
    headers.append("a", HeaderValue::from_static("2"));
    let mut buf = Vec::new();
    encode::request(
        &mut buf,
        &Method::POST,
        b"/p?q",
        b"host:80",
        &headers,
        Framing::Chunked,
        Casing::Lower,
    );
    encode::chunk_size(&mut buf, 300);
    buf.extend_from_slice(&[b'x'; 300]);
    buf.extend_from_slice(b"\r\n");
    headers.insert(HeaderName::from_static("t"), HeaderValue::from_static("v"));
    encode::last_chunk(&mut buf, Some(&headers));
    let mut buf = BytesMut::from(&buf[..]);
    let head = HeadDecoder::default()
        .request(&mut buf, &HeadLimits::default())
        .unwrap()
        .unwrap();
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.headers.get_all("a").iter().count(), 2);
    let (body, trailers, left) = drain(head.framing, &buf, 7).unwrap();
    assert_eq!((body.len(), left.len()), (300, 0));
    assert_eq!(trailers.unwrap()["t"], "v");
}

#[test]
fn content_length_gives_way_to_chunked_only_where_that_is_allowed() {
    let bytes =
        &b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n"[..];
    assert_eq!(request(bytes).unwrap_err(), HeadError::LengthAndChunked);
    let limits = HeadLimits {
        allow_chunked_length: true,
        ..HeadLimits::default()
    };
    let head = HeadDecoder::default()
        .request(&mut BytesMut::from(bytes), &limits)
        .unwrap()
        .unwrap();
    assert_eq!(head.framing, Framing::Chunked);
    assert!(!head.headers.contains_key("content-length"));
}

#[test]
fn names_are_written_as_the_peer_spelt_them() {
    let limits = HeadLimits {
        keep_case: KeepCase::NewProper,
        ..HeadLimits::default()
    };
    let mut buf = BytesMut::from(&b"GET / HTTP/1.1\r\nHOST: h\r\nX-FoO: 1\r\nbar: 2\r\n\r\n"[..]);
    let mut head = HeadDecoder::default()
        .request(&mut buf, &limits)
        .unwrap()
        .unwrap();
    head.headers.insert("x-new", HeaderValue::from_static("3"));
    let case = head.case.unwrap();
    let mut out = Vec::new();
    let spelt = Casing::Kept(&case);
    encode::request(
        &mut out,
        &head.method,
        b"/",
        b"h",
        &head.headers,
        Framing::Length(2),
        spelt,
    );
    assert_eq!(
        &out[..],
        b"GET / HTTP/1.1\r\nHOST: h\r\nX-FoO: 1\r\nbar: 2\r\nX-New: 3\r\nContent-Length: 2\r\n\r\n"
    );
}

#[test]
fn numbers_are_written_in_full() {
    for number in [0, 9, 10, 4096, u64::MAX] {
        let mut buf = Vec::new();
        encode::decimal(&mut buf, number);
        assert_eq!(buf, number.to_string().as_bytes());
    }
    for size in [0, 1, 15, 16, 4096, 65_536] {
        let mut buf = Vec::new();
        encode::chunk_size(&mut buf, size);
        assert_eq!(buf, format!("{size:x}\r\n").as_bytes());
    }
}

#[test]
fn a_response_head_announces_body_and_connection() {
    let mut buf = Vec::new();
    encode::response(
        &mut buf,
        StatusCode::OK,
        &HeaderMap::new(),
        encode::ResponseBody::Length(5),
        Some("close"),
        Casing::Lower,
        Version::Http11,
    );
    assert_eq!(
        &buf[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    );
    buf.clear();
    let nothing = encode::ResponseBody::Unannounced;
    encode::response(
        &mut buf,
        StatusCode::NO_CONTENT,
        &HeaderMap::new(),
        nothing,
        None,
        Casing::Lower,
        Version::Http10,
    );
    assert_eq!(&buf[..], b"HTTP/1.0 204 No Content\r\n\r\n");
}

#[test]
fn request_targets_split_by_form() {
    let bytes = Bytes::from_static;
    let absolute = |https, authority, path| Target::Absolute {
        https,
        authority: bytes(authority),
        path: bytes(path),
    };
    assert_eq!(
        split(&bytes(b"/a?b"), false),
        Target::Origin(bytes(b"/a?b"))
    );
    assert_eq!(
        split(&bytes(b"HTTP://h:1/x"), false),
        absolute(false, b"h:1", b"/x")
    );
    assert_eq!(
        split(&bytes(b"https://h"), false),
        absolute(true, b"h", b"/")
    );
    assert_eq!(
        split(&bytes(b"http://h?q"), false),
        absolute(false, b"h", b"/?q")
    );
    assert_eq!(split(&bytes(b"*"), false), Target::Asterisk);
    assert_eq!(
        split(&bytes(b"h:443"), true),
        Target::Authority(bytes(b"h:443"))
    );
    assert_eq!(split(&bytes(b"foo"), false), Target::Other(bytes(b"foo")));
}
