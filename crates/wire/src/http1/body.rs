//! Decoding of message bodies: by length, chunked (with trailers), or until the connection closes.

use bytes::{Buf, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Framing, Piece};

/// Longest chunk-size line including extensions; extensions are ignored, so there is no reason for a long one.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// Longest trailer section; the same order as the default head limit.
const MAX_TRAILER_BYTES: usize = 60 * 1024;
/// Most trailer lines, as Envoy's `max_headers_count`.
const MAX_TRAILERS: usize = 100;

/// Why a body was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk header, chunk end or trailer that breaks the grammar or a limit.
    #[error("malformed chunked body")]
    Malformed,
    /// The connection ended before the message did.
    #[error("connection ended inside a message body")]
    Truncated,
}

/// Decoder of one message body; make one for each message.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

impl BodyDecoder {
    /// A decoder for a body with this framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkLine,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// The whole message was decoded.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes still expected, when that is known; a hint for the size of the next read.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) | State::ChunkData(left) => Some(left),
            State::UntilClose | State::ChunkLine | State::ChunkEnd | State::Trailers => None,
        }
    }

    /// Takes the next piece off the front of `buf`. After [`Piece::End`] every call returns it again.
    ///
    /// # Errors
    /// When the chunked framing is malformed.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Piece, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End(None)),
                State::Length(left) => return Ok(self.counted(buf, left, State::Done)),
                State::UntilClose if buf.is_empty() => return Ok(Piece::NeedMore),
                State::UntilClose => return Ok(Piece::Data(buf.split().freeze())),
                State::ChunkData(left) => return Ok(self.counted(buf, left, State::ChunkEnd)),
                State::ChunkLine => match take_chunk_line(buf)? {
                    None => return Ok(Piece::NeedMore),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::ChunkData(size),
                },
                State::ChunkEnd => {
                    if buf.len() < 2 {
                        return Ok(Piece::NeedMore);
                    }
                    if &buf[..2] != b"\r\n" {
                        return Err(BodyError::Malformed);
                    }
                    buf.advance(2);
                    self.state = State::ChunkLine;
                }
                State::Trailers => {
                    return match take_trailers(buf)? {
                        None => Ok(Piece::NeedMore),
                        Some(trailers) => {
                            self.state = State::Done;
                            Ok(Piece::End((!trailers.is_empty()).then_some(trailers)))
                        }
                    };
                }
            }
        }
    }

    /// The peer closed its side.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] when the framing promised more.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_)
            | State::ChunkLine
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Trailers => Err(BodyError::Truncated),
        }
    }

    fn counted(&mut self, buf: &mut BytesMut, left: u64, then: State) -> Piece {
        if buf.is_empty() {
            return Piece::NeedMore;
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let rest = left - take as u64;
        self.state = if rest > 0 {
            match self.state {
                State::Length(_) => State::Length(rest),
                _ => State::ChunkData(rest),
            }
        } else {
            then
        };
        Piece::Data(buf.split_to(take).freeze())
    }
}

/// The size of the next chunk, once its whole line is there. Extensions are dropped.
fn take_chunk_line(buf: &mut BytesMut) -> Result<Option<u64>, BodyError> {
    let Some(end) = buf
        .iter()
        .take(MAX_CHUNK_LINE)
        .position(|byte| *byte == b'\n')
    else {
        return if buf.len() >= MAX_CHUNK_LINE {
            Err(BodyError::Malformed)
        } else {
            Ok(None)
        };
    };
    let Some(line) = buf[..end].strip_suffix(b"\r") else {
        return Err(BodyError::Malformed);
    };
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    // Fifteen hex digits keep the sum below 2^60; nothing real comes near.
    if digits == 0 || digits > 15 {
        return Err(BodyError::Malformed);
    }
    let extension = line[digits..].trim_ascii_start();
    let clean = extension
        .iter()
        .all(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..=0xff));
    if !(extension.is_empty() || extension.starts_with(b";")) || !clean {
        return Err(BodyError::Malformed);
    }
    let size = line[..digits].iter().fold(0, |sum, digit| {
        sum * 16 + u64::from(char::from(*digit).to_digit(16).unwrap_or_default())
    });
    buf.advance(end + 1);
    Ok(Some(size))
}

fn take_trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, BodyError> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let Some(end) = buf
        .windows(4)
        .take(MAX_TRAILER_BYTES)
        .position(|bytes| bytes == b"\r\n\r\n")
    else {
        return if buf.len() > MAX_TRAILER_BYTES {
            Err(BodyError::Malformed)
        } else {
            Ok(None)
        };
    };
    let section = buf.split_to(end + 4).freeze();
    let mut storage = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(httparse::Status::Complete((_, lines))) =
        httparse::parse_headers(&section, &mut storage)
    else {
        return Err(BodyError::Malformed);
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name =
            HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BodyError::Malformed)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| BodyError::Malformed)?;
        trailers.append(name, value);
    }
    Ok(Some(trailers))
}
