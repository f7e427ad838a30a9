//! A client that writes HTTP/2 frames byte by byte.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::soon;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

/// `GET / http test` in HPACK, without the dynamic table.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x01\x04test";
/// `POST / http test`.
pub(crate) const POST: &[u8] = b"\x83\x86\x84\x01\x04test";

/// A received frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub(crate) fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().unwrap()))
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header field in HPACK: literal, never indexed, no Huffman coding.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x10];
    for text in [name, value] {
        assert!(text.len() < 127, "one byte of length");
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
    out
}

/// A raw connection.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects without a word.
    pub(crate) async fn silent(address: SocketAddr) -> Self {
        let stream = soon("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Connects and exchanges prefaces and SETTINGS with these entries.
    pub(crate) async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::silent(address).await;
        let mut entries = Vec::new();
        for (id, value) in settings {
            entries.extend(id.to_be_bytes());
            entries.extend(value.to_be_bytes());
        }
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &entries)].concat();
        raw.send(&hello).await.unwrap();
        loop {
            let got = raw.next().await.expect("SETTINGS");
            if got.kind == SETTINGS && got.flags & ACK == 0 {
                break;
            }
        }
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Writes as long as the peer takes it; true when it closed.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times: usize) -> bool {
        for _ in 0..times {
            let written = tokio::time::timeout(
                std::time::Duration::from_millis(500),
                self.stream.write_all(bytes),
            )
            .await;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return true,
                // The peer does not read any more: it has stopped us.
                Err(_) => return false,
            }
        }
        false
    }

    /// The next frame; `None` once the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        soon("a frame", async {
            let mut head = [0_u8; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            })
        })
        .await
    }

    /// Reads until the connection closes; the code of the GOAWAY before that.
    pub(crate) async fn ends(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = frame.code();
            }
        }
        code
    }

    /// Asks for `/` on a stream and waits for the end of the answer.
    pub(crate) async fn get(&mut self, stream: u32) -> bool {
        let asked = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
        if self.send(&asked).await.is_err() {
            return false;
        }
        while let Some(frame) = self.next().await {
            let answers = frame.stream == stream && frame.flags & END_STREAM != 0;
            if answers && matches!(frame.kind, DATA | HEADERS) {
                return true;
            }
        }
        false
    }
}
