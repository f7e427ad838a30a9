//! SPDY/3.1 as far as Kubernetes' port-forward uses it: frames and compressed headers. Sans I/O.
//!
//! Headers are inflated with the protocol's dictionary; our own are sent in stored blocks, which
//! every inflater reads. Flow control is not part of what Kubernetes' clients implement.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// A frame's payload is at most this long here; Kubernetes' clients send 32 KiB.
pub(super) const FRAME_LIMIT: usize = 1 << 20;
/// The headers of one stream are at most this long.
const HEADER_LIMIT: usize = 16 << 10;
const FIN: u8 = 1;

/// What a peer can do wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes is longer than {FRAME_LIMIT}")]
    TooLong(usize),
    #[error("a frame ends early")]
    Short,
    #[error("headers cannot be decompressed")]
    Compression,
}

/// A frame that matters to port-forward.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream with its headers.
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
    },
    /// Bytes of a stream; the last ones when `end`.
    Data {
        stream: u32,
        bytes: Vec<u8>,
        end: bool,
    },
    /// A stream was given up.
    Reset { stream: u32 },
    /// To be sent back.
    Ping([u8; 4]),
    /// The peer ends the connection.
    GoAway,
    /// Anything else: settings, windows.
    Other,
}

/// Length of a frame's head.
pub(super) const HEAD: usize = 8;

/// The payload length that a head announces.
pub(super) fn payload_length(head: &[u8; HEAD]) -> Result<usize, SpdyError> {
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > FRAME_LIMIT {
        Err(SpdyError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// Reads frames; keeps the state of the headers' compression.
pub(super) struct Decoder {
    inflater: Box<DecompressorOxide>,
    window: Vec<u8>,
    position: usize,
    started: bool,
}

const WINDOW: usize = 32 << 10;

impl Decoder {
    pub(super) fn new() -> Self {
        let mut window = dictionary();
        let position = window.len();
        window.resize(WINDOW, 0);
        Self {
            inflater: Box::new(DecompressorOxide::new()),
            window,
            position,
            started: false,
        }
    }

    pub(super) fn decode(&mut self, head: &[u8; HEAD], payload: &[u8]) -> Result<Frame, SpdyError> {
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        if word & 0x8000_0000 == 0 {
            return Ok(Frame::Data {
                stream: word,
                bytes: payload.to_vec(),
                end: flags & FIN != 0,
            });
        }
        let id = || number(payload, 0).map(|id| id & 0x7fff_ffff);
        Ok(match word & 0xffff {
            1 => {
                let block = payload.get(10..).ok_or(SpdyError::Short)?;
                Frame::Open {
                    stream: id()?,
                    headers: self.headers(block)?,
                }
            }
            3 => Frame::Reset { stream: id()? },
            6 => Frame::Ping(number(payload, 0)?.to_be_bytes()),
            7 => Frame::GoAway,
            // HEADERS share the compression context, so they have to be read as well.
            8 => {
                self.headers(payload.get(4..).ok_or(SpdyError::Short)?)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let text = self.inflate(block)?;
        let mut at = 4;
        let mut next = || {
            let length = number(&text, at)? as usize;
            let bytes = text.get(at + 4..at + 4 + length).ok_or(SpdyError::Short)?;
            at += 4 + length;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        // Every pair takes 8 bytes at least, so a wrong count ends early.
        (0..number(&text, 0)?)
            .map(|_| Ok((next()?, next()?)))
            .collect()
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, SpdyError> {
        if !self.started {
            // Two bytes of header with the dictionary flag, four of the dictionary's checksum.
            input = match input {
                [0x78, flags, 0xe3, 0xc6, 0xa7, 0xc2, rest @ ..] if flags & 0x20 != 0 => rest,
                _ => return Err(SpdyError::Compression),
            };
            self.started = true;
        }
        let flags =
            inflate_flags::TINFL_FLAG_HAS_MORE_INPUT | inflate_flags::TINFL_FLAG_IGNORE_ADLER32;
        let mut output = Vec::new();
        loop {
            let (status, read, written) = decompress(
                &mut self.inflater,
                input,
                &mut self.window,
                self.position,
                flags,
            );
            output.extend_from_slice(&self.window[self.position..self.position + written]);
            self.position = (self.position + written) % WINDOW;
            input = &input[read..];
            if output.len() > HEADER_LIMIT {
                return Err(SpdyError::Compression);
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput => return Ok(output),
                TINFLStatus::FailedCannotMakeProgress if input.is_empty() => return Ok(output),
                _ => return Err(SpdyError::Compression),
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u32, SpdyError> {
    let bytes = at
        .checked_add(4)
        .and_then(|end| bytes.get(at..end))
        .ok_or(SpdyError::Short)?;
    bytes
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| SpdyError::Short)
}

/// Writes frames; keeps the state of the headers' compression.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    started: bool,
}

impl Encoder {
    /// The answer that accepts a stream, without headers.
    pub(super) fn accept(&mut self, stream: u32) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        if !self.started {
            payload.extend_from_slice(&[0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
            self.started = true;
        }
        // A stored block with the number of headers (none), then an empty one: the flush that makes
        // streaming inflaters hand out what they have.
        payload.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        payload.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        control(2, &payload)
    }
}

/// A frame of stream bytes.
pub(super) fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut frame = (stream & 0x7fff_ffff).to_be_bytes().to_vec();
    frame.push(if end { FIN } else { 0 });
    push_length(&mut frame, bytes.len());
    frame.extend_from_slice(bytes);
    frame
}

/// The answer to a ping.
pub(super) fn pong(id: [u8; 4]) -> Vec<u8> {
    control(6, &id)
}

fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3, 0, kind, 0];
    push_length(&mut frame, payload.len());
    frame.extend_from_slice(payload);
    frame
}

fn push_length(frame: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    frame.extend_from_slice(&length[1..]);
}

/// The dictionary of SPDY/3's header compression: frequent words with their lengths, then text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
        accept-language accept-ranges age allow authorization cache-control connection content-base \
        content-encoding content-language content-length content-location content-md5 content-range \
        content-type date etag expect expires from host if-match if-modified-since if-none-match \
        if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
        proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
        user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url \
        public set-cookie keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
        502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
        401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
        503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, \
        Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
        application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
        sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let length = u32::try_from(word.len()).unwrap_or(0);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend(
            word.bytes()
                .map(|byte| if byte == b'_' { b' ' } else { byte }),
        );
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adler-32, as zlib names dictionaries.
    fn checksum(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in bytes {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        b << 16 | a
    }

    #[test]
    fn the_dictionary_has_the_checksum_that_peers_name() {
        assert_eq!(
            (dictionary().len(), checksum(&dictionary())),
            (1423, 0xe3c6_a7c2)
        );
    }

    /// A SYN_STREAM whose headers are compressed by hand: stored blocks.
    fn open(stream: u8, first: bool, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut text = u32::try_from(pairs.len())
            .expect("few")
            .to_be_bytes()
            .to_vec();
        for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
            text.extend_from_slice(&u32::try_from(part.len()).expect("short").to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let mut payload = vec![0, 0, 0, stream, 0, 0, 0, 0, 0, 0];
        if first {
            payload.extend_from_slice(&[0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
        }
        let length = u16::try_from(text.len()).expect("short");
        payload.push(0);
        payload.extend_from_slice(&length.to_le_bytes());
        payload.extend_from_slice(&(!length).to_le_bytes());
        payload.extend_from_slice(&text);
        control(1, &payload)
    }

    fn decode(decoder: &mut Decoder, frame: &[u8]) -> Result<Frame, SpdyError> {
        let head: [u8; HEAD] = frame[..HEAD].try_into().expect("a head");
        assert_eq!(payload_length(&head)?, frame.len() - HEAD);
        decoder.decode(&head, &frame[HEAD..])
    }

    #[test]
    fn streams_open_one_after_another_with_one_compression_state() {
        let mut decoder = Decoder::new();
        for (stream, first) in [(1u8, true), (3, false), (5, false)] {
            let frame = open(stream, first, &[("streamtype", "data"), ("port", "80")]);
            let headers = vec![
                ("streamtype".to_owned(), "data".to_owned()),
                ("port".to_owned(), "80".to_owned()),
            ];
            assert_eq!(
                decode(&mut decoder, &frame),
                Ok(Frame::Open {
                    stream: stream.into(),
                    headers
                })
            );
        }
    }

    #[test]
    fn data_and_pings_come_back_as_they_were_sent() {
        let mut decoder = Decoder::new();
        let frame = decode(&mut decoder, &data(7, b"abc", true));
        assert_eq!(
            frame,
            Ok(Frame::Data {
                stream: 7,
                bytes: b"abc".to_vec(),
                end: true
            })
        );
        assert_eq!(
            decode(&mut decoder, &pong([0, 0, 0, 9])),
            Ok(Frame::Ping([0, 0, 0, 9]))
        );
    }

    #[test]
    fn damaged_frames_are_refused_without_panic() {
        let frame = open(1, true, &[("a", "b")]);
        for cut in HEAD..frame.len() {
            let head: [u8; HEAD] = frame[..HEAD].try_into().expect("a head");
            let _ = Decoder::new().decode(&head, &frame[HEAD..cut]);
        }
        assert_eq!(
            payload_length(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]),
            Err(SpdyError::TooLong(0xff_ffff))
        );
    }
}
