//! What peers put on the wire.

use bytes::BytesMut;
use http::Method;
use meltemi_filters::istio::peer;
use meltemi_wire::frames::{FrameLimits, FrameMeter};
use meltemi_wire::grpc::MessageCounter;
use meltemi_wire::http1::body::{BodyDecoder, BodyError};
use meltemi_wire::http1::case::KeepCase;
use meltemi_wire::http1::head::{HeadDecoder, HeadError, HeadLimits};
use meltemi_wire::http1::{Framing, Piece, target};
use meltemi_wire::proxy_protocol::Found;
use meltemi_wire::sniff::client_hello::Tls;
use meltemi_wire::sniff::http::Http;
use meltemi_wire::{mongo, peer_exchange, proxy_protocol as proxy, sniff};

/// What is left when a message was taken, or why it was not.
type Outcome<E> = Result<Option<usize>, E>;

fn limits(bytes: &[u8]) -> HeadLimits {
    let first = bytes.first().copied().unwrap_or_default();
    HeadLimits {
        allow_chunked_length: first & 1 == 1,
        keep_case: if first & 2 == 2 {
            KeepCase::NewProper
        } else {
            KeepCase::No
        },
        ..HeadLimits::default()
    }
}

/// A head is the same however it is cut, and a refused prefix stays refused.
fn pieces<E: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    mut decode: impl FnMut(&mut HeadDecoder, &mut BytesMut) -> Outcome<E>,
) -> Option<BytesMut> {
    let mut whole = BytesMut::from(bytes);
    let at_once = decode(&mut HeadDecoder::default(), &mut whole);
    let step = 1 + bytes.len() / 64;
    let mut decoder = HeadDecoder::default();
    let mut buffer = BytesMut::new();
    let mut by_pieces = Ok(None);
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        by_pieces = decode(&mut decoder, &mut buffer);
        if !matches!(by_pieces, Ok(None)) {
            break;
        }
    }
    match (&at_once, &by_pieces) {
        (Ok(Some(a)), Ok(Some(b))) => assert_eq!(a, b, "the head's length depends on the cut"),
        (Ok(Some(_)), Ok(None)) | (Ok(None), Ok(Some(_))) => panic!("the cut decides"),
        // Which of several faults is found first may depend on the cut.
        _ => {}
    }
    matches!(at_once, Ok(Some(_))).then_some(whole)
}

/// A request head, its target, and the body behind it.
pub(crate) fn http1_request(bytes: &[u8]) {
    let limits = limits(bytes);
    let mut framing = Framing::None;
    let rest = pieces::<HeadError>(bytes, |decoder, buffer| {
        let head = decoder.request(buffer, &limits)?;
        Ok(head.map(|head| {
            framing = head.framing;
            let _ = target::split(&head.target, head.method == Method::CONNECT);
            head.wire_len
        }))
    });
    if let Some(rest) = rest {
        body(framing, &rest);
    }
}

/// A response head to each kind of request, and the body behind it.
pub(crate) fn http1_response(bytes: &[u8]) {
    let limits = limits(bytes);
    for method in [Method::GET, Method::HEAD, Method::CONNECT] {
        let mut framing = Framing::None;
        let rest = pieces::<HeadError>(bytes, |decoder, buffer| {
            let head = decoder.response(buffer, &limits, &method)?;
            Ok(head.map(|head| {
                framing = head.framing;
                head.wire_len
            }))
        });
        if let Some(rest) = rest {
            body(framing, &rest);
        }
    }
}

/// A chunked body, or one of some length.
pub(crate) fn http1_body(bytes: &[u8]) {
    for framing in [Framing::Chunked, Framing::Length(10), Framing::UntilClose] {
        body(framing, bytes);
    }
}

fn body(framing: Framing, bytes: &[u8]) {
    let whole = decoded(framing, bytes, bytes.len().max(1));
    let cut = decoded(framing, bytes, 1 + bytes.len() / 64);
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert_eq!(whole, cut, "the body depends on the cut");
    }
}

/// The content, and how many bytes follow when the end was reached.
fn decoded(
    framing: Framing,
    bytes: &[u8],
    step: usize,
) -> Result<(Vec<u8>, Option<usize>), BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let mut buffer = BytesMut::new();
    let mut content = Vec::new();
    let mut fed = 0;
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        fed += piece.len();
        loop {
            match decoder.decode(&mut buffer)? {
                Piece::Data(data) => {
                    assert!(!data.is_empty(), "data without bytes");
                    content.extend_from_slice(&data);
                }
                Piece::End(_) => return Ok((content, Some(bytes.len() - fed + buffer.len()))),
                Piece::NeedMore => break,
            }
        }
    }
    Ok((content, None))
}

/// A ClientHello; more bytes never turn a decision back into a question.
pub(crate) fn client_hello(bytes: &[u8]) {
    let half = sniff::client_hello::inspect(&bytes[..bytes.len() / 2]);
    let whole = sniff::client_hello::inspect(bytes);
    assert!(
        half == Tls::NeedMore || half == whole,
        "a decision was taken back: {half:?}, {whole:?}"
    );
}

/// The first bytes of a plaintext connection.
pub(crate) fn http_sniff(bytes: &[u8]) {
    let half = sniff::http::inspect(&bytes[..bytes.len() / 2]);
    let whole = sniff::http::inspect(bytes);
    assert!(
        half == Http::NeedMore || half == whole,
        "a decision was taken back: {half:?}, {whole:?}"
    );
}

/// A PROXY protocol header.
pub(crate) fn proxy_protocol(bytes: &[u8]) {
    let half = proxy::inspect(&bytes[..bytes.len() / 2]);
    let whole = proxy::inspect(bytes);
    if let Found::Header(header) = &whole {
        assert!(header.len <= bytes.len(), "a header longer than what came");
    }
    assert!(
        half == Found::NeedMore || half == whole,
        "a decision was taken back: {half:?}, {whole:?}"
    );
}

/// HTTP/2 frames; the count does not depend on the cut.
pub(crate) fn http2_frames(bytes: &[u8]) {
    let mut whole = FrameMeter::new(FrameLimits::default(), 24);
    let mut cut = FrameMeter::new(FrameLimits::default(), 24);
    let at_once = whole.received(bytes);
    let by_pieces = bytes
        .chunks(1 + bytes.len() / 64)
        .try_for_each(|piece| cut.received(piece));
    assert_eq!(at_once, by_pieces);
    whole.sent(bytes);
}

/// gRPC messages.
pub(crate) fn grpc(bytes: &[u8]) {
    let mut whole = MessageCounter::default();
    whole.feed(bytes);
    let mut cut = MessageCounter::default();
    for piece in bytes.chunks(1 + bytes.len() / 64) {
        cut.feed(piece);
    }
    assert_eq!(whole.messages(), cut.messages());
}

/// Istio's metadata exchange.
pub(crate) fn metadata_exchange(bytes: &[u8]) {
    if let Some(workload) = peer::decode(bytes) {
        let _ = peer::encode(&workload);
    }
    if let peer_exchange::Found::Message(length) = peer_exchange::inspect(bytes) {
        let _ = peer::decode_preamble(&bytes[peer_exchange::HEADER..][..length]);
    }
}

/// MongoDB messages, one after the other.
pub(crate) fn mongo(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(message)) = mongo::first(rest, 20) {
        assert!(message.len <= rest.len(), "a message reaches too far");
        if let mongo::Body::Query { query, .. } = message.body {
            let _ = (query.first(), query.find("$query"));
        }
        rest = &rest[message.len..];
    }
}
