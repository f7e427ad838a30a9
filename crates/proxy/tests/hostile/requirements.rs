//! The requirements of the HTTP/2 and HPACK specifications on a server, as raw frames: what h2spec checks, without it.
//!
//! As h2spec does, a connection that closes meets any requirement of an error: the h2 crate says PROTOCOL_ERROR where
//! frames or header blocks cannot be read, for which the specification has codes of their own. It drops pseudo-header
//! fields of trailers, which ought to be an error of the stream; nothing of them is passed on.

use crate::frames::*;
use crate::support::{Proxy, backend, echo, http, soon};

/// What has to come back.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// GOAWAY with one of these codes, or the connection closes.
    Connection(&'static [u32]),
    /// RST_STREAM or GOAWAY with one of these codes, or the connection closes.
    Stream(&'static [u32]),
    /// An answer on the stream.
    Answer(u32),
    /// An acknowledgement of SETTINGS.
    Acknowledged,
    /// The same PING back.
    Pong([u8; 8]),
}

use Expect::{Acknowledged, Answer, Connection, Pong, Stream};

const PROTOCOL: &[u32] = &[1];
const FLOW_CONTROL: &[u32] = &[3];
const SIZE: &[u32] = &[6];
const COMPRESSION: &[u32] = &[9];
const CLOSED_OR_PROTOCOL: &[u32] = &[1, 5];
const REFUSED_OR_PROTOCOL: &[u32] = &[1, 7];
const GET_FLAGS: u8 = END_HEADERS | END_STREAM;
const WHOLE: u8 = GET_FLAGS;

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, GET_FLAGS, stream, GET)
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, POST)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let entry = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &entry)
}

fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// A request with further fields behind the pseudo-header fields.
fn with(fields: &[Vec<u8>]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &[GET.to_vec(), fields.concat()].concat())
}

/// A request of these fields only.
fn only(fields: &[Vec<u8>]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &fields.concat())
}

fn pseudo(names: &[&str]) -> Vec<Vec<u8>> {
    let value = |name: &str| match name {
        ":method" => "GET",
        ":scheme" => "http",
        ":path" => "/",
        _ => "test",
    };
    names.iter().map(|name| field(name, value(name))).collect()
}

/// RFC 9113 §3 to §6.9.
fn frames_and_streams() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let reset = |stream| frame(RST_STREAM, 0, stream, &number(8));
    let large = vec![0; 16_385];
    vec![
        (
            "3.4 SETTINGS are acknowledged",
            setting(3, 100),
            Acknowledged,
        ),
        (
            "4.1 an unknown frame is ignored",
            [frame(0x16, 0, 0, &[0; 8]), frame(PING, 0, 0, &[1; 8])].concat(),
            Pong([1; 8]),
        ),
        (
            "4.1 unknown flags are ignored",
            frame(PING, 0x16, 0, &[2; 8]),
            Pong([2; 8]),
        ),
        (
            "4.1 the reserved bit is ignored",
            frame(PING, 0, 0x8000_0000, &[3; 8]),
            Pong([3; 8]),
        ),
        (
            "4.2 DATA of 2^14 bytes",
            [post(1), frame(DATA, END_STREAM, 1, &large[1..])].concat(),
            Answer(1),
        ),
        (
            "4.2 DATA larger than SETTINGS_MAX_FRAME_SIZE",
            [post(1), frame(DATA, END_STREAM, 1, &large)].concat(),
            Stream(SIZE),
        ),
        (
            "4.2 HEADERS larger than SETTINGS_MAX_FRAME_SIZE",
            frame(HEADERS, WHOLE, 1, &large),
            Connection(SIZE),
        ),
        (
            "4.3 a header block that does not decode",
            frame(HEADERS, WHOLE, 1, b"\x40\x10abc"),
            Connection(COMPRESSION),
        ),
        (
            "4.3 PRIORITY inside a header block",
            [
                frame(HEADERS, END_STREAM, 1, GET),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ]
            .concat(),
            Connection(PROTOCOL),
        ),
        (
            "4.3 HEADERS of another stream inside a header block",
            [frame(HEADERS, END_STREAM, 1, GET), get(3)].concat(),
            Connection(PROTOCOL),
        ),
        (
            "5.1 idle: DATA",
            frame(DATA, END_STREAM, 1, b"x"),
            Connection(PROTOCOL),
        ),
        ("5.1 idle: RST_STREAM", reset(1), Connection(PROTOCOL)),
        (
            "5.1 idle: WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 1, &number(100)),
            Connection(PROTOCOL),
        ),
        (
            "5.1 idle: CONTINUATION",
            frame(CONTINUATION, END_HEADERS, 1, GET),
            Connection(PROTOCOL),
        ),
        (
            "5.1 half closed: DATA",
            [get(1), frame(DATA, END_STREAM, 1, b"x")].concat(),
            Stream(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1 half closed: HEADERS",
            [get(1), get(1)].concat(),
            Stream(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1 half closed: CONTINUATION",
            [
                get(1),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ]
            .concat(),
            Stream(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1 closed by RST_STREAM: DATA",
            [
                post(1),
                reset(1),
                frame(DATA, END_STREAM, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
            Stream(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1 closed by RST_STREAM: HEADERS",
            [post(1), reset(1), get(1)].concat(),
            Stream(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1 closed by RST_STREAM: CONTINUATION",
            [
                post(1),
                reset(1),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ]
            .concat(),
            Stream(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1.1 an even stream identifier",
            get(2),
            Connection(PROTOCOL),
        ),
        (
            "5.1.1 a smaller stream identifier",
            [get(5), get(3)].concat(),
            Connection(CLOSED_OR_PROTOCOL),
        ),
        (
            "5.1.2 more streams than allowed",
            (0..=100).flat_map(|n| post(2 * n + 1)).collect(),
            Stream(REFUSED_OR_PROTOCOL),
        ),
        (
            "5.3.1 HEADERS that depend on themselves",
            frame(
                HEADERS,
                WHOLE | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 1, 255][..], GET].concat(),
            ),
            Stream(PROTOCOL),
        ),
        (
            "5.3.1 PRIORITY that depends on itself",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 255]),
            Stream(PROTOCOL),
        ),
        (
            "5.5 an unknown extension frame",
            [frame(0xff, 0, 0, b"x"), frame(PING, 0, 0, &[4; 8])].concat(),
            Pong([4; 8]),
        ),
        (
            "5.5 an unknown extension frame inside a header block",
            [frame(HEADERS, END_STREAM, 1, GET), frame(0xff, 0, 0, b"x")].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.1 DATA without stream",
            frame(DATA, END_STREAM, 0, b"x"),
            Connection(PROTOCOL),
        ),
        (
            "6.1 DATA with too much padding",
            [post(1), frame(DATA, END_STREAM | PADDED, 1, b"\x06test")].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.2 HEADERS without END_HEADERS, then PRIORITY",
            [
                frame(HEADERS, END_STREAM, 1, GET),
                frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]),
            ]
            .concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.2 HEADERS without stream",
            frame(HEADERS, WHOLE, 0, GET),
            Connection(PROTOCOL),
        ),
        (
            "6.2 HEADERS with too much padding",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[200][..], GET].concat()),
            Connection(PROTOCOL),
        ),
        (
            "6.3 PRIORITY without stream",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 255]),
            Connection(PROTOCOL),
        ),
        (
            "6.3 PRIORITY of four bytes",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 1]),
            Stream(SIZE),
        ),
        (
            "6.4 RST_STREAM without stream",
            reset(0),
            Connection(PROTOCOL),
        ),
        (
            "6.4 RST_STREAM of three bytes",
            [post(1), frame(RST_STREAM, 0, 1, &[0, 0, 0])].concat(),
            Connection(SIZE),
        ),
        (
            "6.5 SETTINGS with ACK and payload",
            frame(SETTINGS, ACK, 0, &[0]),
            Connection(SIZE),
        ),
        (
            "6.5 SETTINGS with a stream",
            frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100]),
            Connection(PROTOCOL),
        ),
        (
            "6.5 SETTINGS of three bytes",
            frame(SETTINGS, 0, 0, &[0, 3, 0]),
            Connection(SIZE),
        ),
        (
            "6.5.2 ENABLE_PUSH of 2",
            setting(2, 2),
            Connection(PROTOCOL),
        ),
        (
            "6.5.2 INITIAL_WINDOW_SIZE above the maximum",
            setting(4, 1 << 31),
            Connection(FLOW_CONTROL),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE below 2^14",
            setting(5, 16_383),
            Connection(PROTOCOL),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE above 2^24",
            setting(5, 1 << 24),
            Connection(PROTOCOL),
        ),
        (
            "6.5.2 an unknown setting",
            [setting(0xff, 1), frame(PING, 0, 0, &[5; 8])].concat(),
            Pong([5; 8]),
        ),
        (
            "6.5.3 several values of one setting",
            [[&[0, 4][..], &number(100), &[0, 4], &number(1)].concat()]
                .map(|all| frame(SETTINGS, 0, 0, &all))
                .concat(),
            Acknowledged,
        ),
        (
            "6.7 PING",
            frame(PING, 0, 0, b"h2spec!!"),
            Pong(*b"h2spec!!"),
        ),
        (
            "6.7 PING with ACK is not answered",
            [
                frame(PING, ACK, 0, b"invalid!"),
                frame(PING, 0, 0, b"valid!!!"),
            ]
            .concat(),
            Pong(*b"valid!!!"),
        ),
        (
            "6.7 PING with a stream",
            frame(PING, 0, 1, &[0; 8]),
            Connection(PROTOCOL),
        ),
        (
            "6.7 PING of six bytes",
            frame(PING, 0, 0, &[0; 6]),
            Connection(SIZE),
        ),
        (
            "6.8 GOAWAY with a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Connection(PROTOCOL),
        ),
        (
            "6.9 WINDOW_UPDATE of 0 on the connection",
            frame(WINDOW_UPDATE, 0, 0, &number(0)),
            Connection(PROTOCOL),
        ),
        (
            "6.9 WINDOW_UPDATE of 0 on a stream",
            [post(1), frame(WINDOW_UPDATE, 0, 1, &number(0))].concat(),
            Stream(PROTOCOL),
        ),
        (
            "6.9 WINDOW_UPDATE of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            Connection(SIZE),
        ),
        (
            "6.9.1 the connection's window above the maximum",
            frame(WINDOW_UPDATE, 0, 0, &number(0x7fff_ffff)).repeat(2),
            Connection(FLOW_CONTROL),
        ),
        (
            "6.9.1 a stream's window above the maximum",
            [
                post(1),
                frame(WINDOW_UPDATE, 0, 1, &number(0x7fff_ffff)).repeat(2),
            ]
            .concat(),
            Stream(FLOW_CONTROL),
        ),
        (
            "6.10 CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, GET),
                frame(CONTINUATION, 0, 1, &field("a", "b")),
                frame(CONTINUATION, END_HEADERS, 1, &field("c", "d")),
            ]
            .concat(),
            Answer(1),
        ),
        (
            "6.10 CONTINUATION after END_HEADERS",
            [
                post(1),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ]
            .concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 CONTINUATION without stream",
            [
                frame(HEADERS, END_STREAM, 1, GET),
                frame(CONTINUATION, END_HEADERS, 0, &field("a", "b")),
            ]
            .concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 CONTINUATION after DATA",
            [
                post(1),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ]
            .concat(),
            Connection(PROTOCOL),
        ),
        (
            "7 GOAWAY with an unknown code",
            [
                frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
                frame(PING, 0, 0, &[6; 8]),
            ]
            .concat(),
            Pong([6; 8]),
        ),
    ]
}

/// RFC 9113 §8 and RFC 7541.
fn messages() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let all = [":method", ":scheme", ":path", ":authority"];
    let length = |value: &str| {
        let head = [POST.to_vec(), field("content-length", value)].concat();
        frame(HEADERS, END_HEADERS, 1, &head)
    };
    vec![
        (
            "8.1 trailers",
            [
                post(1),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, WHOLE, 1, &field("t", "v")),
            ]
            .concat(),
            Answer(1),
        ),
        (
            "8.1 a second HEADERS without END_STREAM",
            [post(1), frame(HEADERS, END_HEADERS, 1, &field("t", "v"))].concat(),
            Stream(PROTOCOL),
        ),
        (
            "8.2.1 a name with capital letters",
            with(&[field("X-TEST", "ok")]),
            Stream(PROTOCOL),
        ),
        (
            "8.2.2 connection",
            with(&[field("connection", "keep-alive")]),
            Stream(PROTOCOL),
        ),
        (
            "8.2.2 transfer-encoding",
            with(&[field("transfer-encoding", "chunked")]),
            Stream(PROTOCOL),
        ),
        (
            "8.2.2 te other than trailers",
            with(&[field("te", "trailers, deflate;q=0.5")]),
            Stream(PROTOCOL),
        ),
        (
            "8.2.2 te: trailers",
            with(&[field("te", "trailers")]),
            Answer(1),
        ),
        (
            "8.3 an unknown pseudo-header field",
            only(&[pseudo(&all), vec![field(":test", "ok")]].concat()),
            Stream(PROTOCOL),
        ),
        (
            "8.3 :status in a request",
            only(&[pseudo(&all), vec![field(":status", "200")]].concat()),
            Stream(PROTOCOL),
        ),
        (
            "8.3 a pseudo-header field after a field",
            only(&[pseudo(&all[..3]), vec![field("a", "b")], pseudo(&all[3..])].concat()),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 an empty :path",
            only(
                &[
                    pseudo(&[":method", ":scheme", ":authority"]),
                    vec![field(":path", "")],
                ]
                .concat(),
            ),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 no :method",
            only(&pseudo(&all[1..])),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 no :scheme",
            only(&pseudo(&[":method", ":path", ":authority"])),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 no :path",
            only(&pseudo(&[":method", ":scheme", ":authority"])),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 two :method",
            only(&pseudo(&[":method", ":method", ":scheme", ":path"])),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 two :scheme",
            only(&pseudo(&[":method", ":scheme", ":scheme", ":path"])),
            Stream(PROTOCOL),
        ),
        (
            "8.3.1 two :path",
            only(&pseudo(&[":method", ":scheme", ":path", ":path"])),
            Stream(PROTOCOL),
        ),
        (
            "8.1.1 less than content-length",
            [length("2"), frame(DATA, END_STREAM, 1, b"x")].concat(),
            Stream(PROTOCOL),
        ),
        (
            "8.1.1 more than content-length",
            [
                length("1"),
                frame(DATA, 0, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"y"),
            ]
            .concat(),
            Stream(PROTOCOL),
        ),
        (
            "8.4 PUSH_PROMISE of a client",
            frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&number(2)[..], GET].concat(),
            ),
            Connection(PROTOCOL),
        ),
        (
            "HPACK 2.3.3 an index beyond the tables",
            with(&[vec![0xc6]]),
            Connection(COMPRESSION),
        ),
        (
            "HPACK 4.2 a size update at the end of a block",
            with(&[vec![0x21]]),
            Connection(COMPRESSION),
        ),
        (
            "HPACK 5.2 Huffman padding of more than 7 bits",
            with(&[b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff".to_vec()]),
            Connection(COMPRESSION),
        ),
        (
            "HPACK 5.2 Huffman padding of zeros",
            with(&[b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90".to_vec()]),
            Connection(COMPRESSION),
        ),
        (
            "HPACK 5.2 EOS in a Huffman string",
            with(&[b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x50\xff\xff\xff\xfa\x7f".to_vec()]),
            Connection(COMPRESSION),
        ),
        (
            "HPACK 6.1 index 0",
            with(&[vec![0x80]]),
            Connection(COMPRESSION),
        ),
        (
            "HPACK 6.3 a size update above SETTINGS_HEADER_TABLE_SIZE",
            frame(
                HEADERS,
                WHOLE,
                1,
                &[b"\x3f\xe1\xff\x03".to_vec(), GET.to_vec()].concat(),
            ),
            Connection(COMPRESSION),
        ),
    ]
}

async fn proxy() -> Proxy {
    let settings = crate::support::Http {
        manager: "          http2_protocol_options: { max_concurrent_streams: 100 }",
        routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend, timeout: 0s } }",
        clusters: "",
    };
    Proxy::start(&http(backend(echo).await, &settings))
}

/// Whether the requirement is met; else what came.
async fn judge(raw: &mut Raw, expect: Expect) -> Result<(), String> {
    let mut seen = Vec::new();
    loop {
        let Some(got) = raw.next().await else {
            return match expect {
                Connection(_) | Stream(_) => Ok(()),
                _ => Err(format!("closed after {seen:?}")),
            };
        };
        let code = got.code();
        let met = match expect {
            Connection(codes) => got.kind == GOAWAY && codes.contains(&code.unwrap_or_default()),
            Stream(codes) => code.is_some_and(|code| codes.contains(&code)),
            Answer(stream) => got.kind == HEADERS && got.stream == stream,
            Acknowledged => got.kind == SETTINGS && got.flags & ACK != 0,
            Pong(payload) => got.kind == PING && got.flags & ACK != 0 && got.payload == payload,
        };
        if met {
            return Ok(());
        }
        seen.push((got.kind, got.flags, got.stream, code));
        let wrong = match got.kind {
            RST_STREAM => true,
            // Whatever the code, the connection has to close now.
            GOAWAY => !matches!(expect, Connection(_) | Stream(_)),
            DATA => matches!(expect, Stream(_)) && got.flags & END_STREAM != 0,
            _ => false,
        };
        if wrong {
            return Err(format!("{seen:?}"));
        }
    }
}

#[tokio::test]
async fn a_server_does_what_the_specification_asks_of_frames_and_messages() {
    let proxy = proxy().await;
    let mut failed = Vec::new();
    for (name, bytes, expect) in frames_and_streams().into_iter().chain(messages()) {
        let mut raw = Raw::open(proxy.address, &[]).await;
        // A server may close before it has read everything.
        let _ = raw.send(&bytes).await;
        if let Err(seen) = soon(name, judge(&mut raw, expect)).await {
            failed.push(format!("{name}: expected {expect:?}, got {seen}"));
        }
    }
    proxy.stop().await;
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test]
async fn a_wrong_preface_closes_a_connection_that_is_http2_only() {
    let settings = crate::support::Http {
        manager: "          codec_type: HTTP2",
        routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend } }",
        clusters: "",
    };
    let proxy = Proxy::start(&http(backend(echo).await, &settings));
    let answer = proxy.raw(b"INVALID CONNECTION PREFACE\r\n\r\n").await;
    assert_eq!(answer, "");
    proxy.stop().await;
}

#[tokio::test]
async fn first_bytes_that_are_no_settings_end_the_connection() {
    let proxy = proxy().await;
    let mut raw = Raw::silent(proxy.address).await;
    raw.send(&[PREFACE, &get(1)].concat()).await.unwrap();
    assert!(matches!(raw.ends().await, None | Some(1)));
    proxy.stop().await;
}
