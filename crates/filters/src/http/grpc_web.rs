//! `envoy.filters.http.grpc_web`: browsers speak gRPC-Web, upstreams gRPC. Text requests and responses are base64;
//! trailers become the last frame of the body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use meltemi_traffic::headers::{Headers, HeadersMut};
use meltemi_upstream::exchange::ResponseLength;

use crate::stage::{Response, Returning, Stage, Trailers, Transform};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const WEB: HeaderValue = HeaderValue::from_static("application/grpc-web+proto");
const WEB_TEXT: HeaderValue = HeaderValue::from_static("application/grpc-web-text+proto");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Marks the frame of trailers.
const TRAILERS: u8 = 0x80;
/// Largest message that is held back until it is complete (text responses are encoded frame by frame).
const MAX_MESSAGE: usize = 4 << 20;

fn is_text(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"application/grpc-web-text" | b"application/grpc-web-text+proto"
    )
}

/// Makes a gRPC request of a gRPC-Web one.
pub(super) fn on_request<S: Stage>(stage: &mut S) {
    let kind = Headers::get(stage.request(), &CONTENT_TYPE).unwrap_or_default();
    let text = is_text(kind);
    let binary = matches!(
        kind,
        b"application/grpc-web" | b"application/grpc-web+proto"
    );
    if !text && !binary {
        return;
    }
    let text_response = is_text(Headers::get(stage.request(), &ACCEPT).unwrap_or_default());
    let request = stage.request_mut();
    request.set(&CONTENT_TYPE, GRPC);
    request.set(&TE, HeaderValue::from_static("trailers"));
    request.set(&ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    request.remove(&CONTENT_LENGTH);
    stage.forget_length();
    if text {
        stage.transform_request(Box::new(Decode::default()));
    }
    stage.on_response(Box::new(Answer {
        text: text_response,
    }));
}

#[derive(Debug)]
struct Answer {
    text: bool,
}

impl Returning for Answer {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        let grpc = response
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !grpc {
            return;
        }
        let kind = if self.text { WEB_TEXT } else { WEB };
        response.headers.insert(CONTENT_TYPE, kind);
        // A response that is only a head stays one: its trailers are in the head already.
        if response.length != ResponseLength::Empty {
            response.headers.remove(CONTENT_LENGTH);
            response.length = ResponseLength::Unknown;
            response.transforms.push(Box::new(Encode {
                text: self.text,
                waiting: BytesMut::new(),
            }));
        }
    }
}

/// Base64 to bytes; four characters at a time, padding in between allowed.
#[derive(Debug, Default)]
struct Decode {
    rest: BytesMut,
}

impl Transform for Decode {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.rest.put(data);
        let whole = self.rest.len() / 4 * 4;
        let text = self.rest.split_to(whole);
        let mut out = Vec::with_capacity(whole / 4 * 3);
        for group in text.chunks(4) {
            // What is no base64 is left out; the upstream will miss it.
            if let Ok(bytes) = STANDARD.decode(group) {
                out.extend_from_slice(&bytes);
            }
        }
        out.into()
    }

    fn end(&mut self, trailers: Trailers) -> (Bytes, Trailers) {
        (Bytes::new(), trailers)
    }
}

/// Frames as they are or in base64, then the trailers as a frame.
#[derive(Debug)]
struct Encode {
    text: bool,
    waiting: BytesMut,
}

impl Encode {
    fn next_frame(&mut self) -> Option<Bytes> {
        let mut head = self.waiting.get(..5)?;
        head.advance(1);
        let length = 5 + head.get_u32() as usize;
        if self.waiting.len() >= length {
            return Some(self.waiting.split_to(length).freeze());
        }
        // A message beyond all measure goes on in parts rather than into memory.
        (self.waiting.len() > MAX_MESSAGE)
            .then(|| self.waiting.split_to(self.waiting.len() / 3 * 3).freeze())
    }
}

impl Transform for Encode {
    fn data(&mut self, data: Bytes) -> Bytes {
        if !self.text {
            return data;
        }
        self.waiting.put(data);
        let mut out = String::new();
        while let Some(frame) = self.next_frame() {
            STANDARD.encode_string(&frame, &mut out);
        }
        out.into()
    }

    fn end(&mut self, trailers: Trailers) -> (Bytes, Trailers) {
        let mut out = BytesMut::new();
        if self.text && !self.waiting.is_empty() {
            out.put(STANDARD.encode(&self.waiting).as_bytes());
        }
        let Some(trailers) = trailers else {
            return (out.freeze(), None);
        };
        let mut lines = Vec::new();
        for (name, value) in &trailers {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.push(b':');
            lines.extend_from_slice(value.as_bytes());
            lines.extend_from_slice(b"\r\n");
        }
        let mut frame = BytesMut::with_capacity(lines.len() + 5);
        frame.put_u8(TRAILERS);
        frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
        frame.put(lines.as_slice());
        if self.text {
            out.put(STANDARD.encode(&frame).as_bytes());
        } else {
            out.put(frame);
        }
        (out.freeze(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_across_pieces() {
        let mut decode = Decode::default();
        let text = STANDARD.encode("hello world!");
        let (head, tail) = text.split_at(6);
        let mut out = decode
            .data(Bytes::copy_from_slice(head.as_bytes()))
            .to_vec();
        out.extend(decode.data(Bytes::copy_from_slice(tail.as_bytes())));
        assert_eq!(out, b"hello world!");
    }

    #[test]
    fn trailers_become_a_frame() {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let mut encode = Encode {
            text: false,
            waiting: BytesMut::new(),
        };
        let (frame, rest) = encode.end(Some(trailers));
        assert_eq!(&frame[..], b"\x80\0\0\0\x0fgrpc-status:0\r\n");
        assert!(rest.is_none());
    }
}
