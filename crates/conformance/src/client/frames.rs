//! HTTP/2 frame by frame (RFC 9113): what the h2 crate would refuse to send, and what comes back.
//!
//! Field blocks are sent as literals without indexing, so that any name and value can be sent.

use fluke_hpack::Decoder;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http1::field_map;
use super::wire::Wire;
use crate::backend::reason;
use crate::bytes_spec::{Data, observed};

/// A frame to send.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Frame {
    /// The client's preface with an empty SETTINGS frame.
    Preface,
    /// SETTINGS: pairs of identifier and value.
    Settings(Vec<(u16, u32)>),
    /// Acknowledges SETTINGS.
    SettingsAck,
    /// HEADERS.
    Headers(Block),
    /// CONTINUATION.
    Continuation(Block),
    /// DATA.
    Data(Payload),
    /// RST_STREAM.
    Reset {
        /// Stream.
        stream: u32,
        /// Name of the code, as CANCEL.
        code: String,
    },
    /// PING.
    Ping,
    /// GOAWAY without error.
    Goaway,
    /// WINDOW_UPDATE.
    WindowUpdate {
        /// Stream; 0 is the connection.
        stream: u32,
        /// By how much.
        by: u32,
    },
    /// Any frame.
    Other {
        /// Type.
        r#type: u8,
        /// Flags.
        #[serde(default)]
        flags: u8,
        /// Stream.
        #[serde(default)]
        stream: u32,
        /// Payload.
        payload: Data,
    },
}

/// Fields of a HEADERS or CONTINUATION frame.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Block {
    stream: u32,
    /// Name and value.
    fields: Vec<(String, Data)>,
    /// END_STREAM.
    #[serde(default)]
    end: bool,
    /// Without END_HEADERS.
    #[serde(default)]
    more: bool,
}

/// A DATA frame.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    stream: u32,
    bytes: Data,
    /// END_STREAM.
    #[serde(default)]
    end: bool,
}

const TYPES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

impl Frame {
    /// The frame's bytes.
    pub(crate) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Preface => [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(4, 0, 0, &[]),
            ]
            .concat(),
            Self::Settings(pairs) => {
                let mut payload = Vec::new();
                for (identifier, value) in pairs {
                    payload.extend_from_slice(&identifier.to_be_bytes());
                    payload.extend_from_slice(&value.to_be_bytes());
                }
                frame(4, 0, 0, &payload)
            }
            Self::SettingsAck => frame(4, 1, 0, &[]),
            Self::Headers(block) => frame(1, block.flags(), block.stream, &block.encode()?),
            Self::Continuation(block) => {
                frame(9, block.flags() & 4, block.stream, &block.encode()?)
            }
            Self::Data(payload) => frame(
                0,
                u8::from(payload.end),
                payload.stream,
                &payload.bytes.bytes()?,
            ),
            Self::Reset { stream, code } => {
                frame(3, 0, *stream, &u32::from(reason(Some(code))).to_be_bytes())
            }
            Self::Ping => frame(6, 0, 0, &[0; 8]),
            Self::Goaway => frame(7, 0, 0, &[0; 8]),
            Self::WindowUpdate { stream, by } => frame(8, 0, *stream, &by.to_be_bytes()),
            Self::Other {
                r#type,
                flags,
                stream,
                payload,
            } => frame(*r#type, *flags, *stream, &payload.bytes()?),
        })
    }
}

impl Block {
    fn flags(&self) -> u8 {
        u8::from(self.end) | if self.more { 0 } else { 4 }
    }

    fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let mut block = Vec::new();
        for (name, value) in &self.fields {
            block.push(0);
            literal(name.as_bytes(), &mut block);
            literal(&value.bytes()?, &mut block);
        }
        Ok(block)
    }
}

/// A string literal without Huffman coding (RFC 7541 section 5.2).
fn literal(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Until when to read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// This stream has ended or was reset.
    Stream(u32),
    /// GOAWAY.
    Goaway,
    /// The acknowledgement of a PING: everything sent before was taken in.
    Pong,
    /// The end of the connection.
    Ending,
}

/// Reads frames; what only serves the connection (SETTINGS, WINDOW_UPDATE, PING) is left out, DATA is put together.
pub(crate) async fn read(
    wire: &mut Wire,
    decoder: &mut Decoder<'static>,
    until: &Until,
) -> Vec<Value> {
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let Some((kind, flags, stream, payload)) = next(wire).await else {
            seen.push(json!({ "type": "ENDING" }));
            return seen;
        };
        let ends = flags & 1 != 0;
        let done = match until {
            Until::Stream(wanted) => stream == *wanted && ((kind <= 1 && ends) || kind == 3),
            Until::Goaway => kind == 7,
            Until::Pong => kind == 6 && ends,
            Until::Ending => false,
        };
        match kind {
            0 => add_data(&mut seen, stream, &payload, ends),
            1 => seen.push(json!({ "type": "HEADERS", "stream": stream, "end": ends, "fields": fields(decoder, &payload) })),
            3 | 7 => {
                let at = if kind == 7 { 4 } else { 0 };
                let mut entry = Map::new();
                entry.insert("type".to_owned(), json!(TYPES[usize::from(kind)]));
                if kind == 3 {
                    entry.insert("stream".to_owned(), json!(stream));
                } else {
                    entry.insert("last".to_owned(), json!(number(&payload, 0)));
                }
                entry.insert("code".to_owned(), json!(format!("{:?}", h2::Reason::from(number(&payload, at)))));
                seen.push(Value::Object(entry));
            }
            4 | 6 | 8 => {}
            other => seen.push(json!({ "type": TYPES.get(usize::from(other)), "stream": stream })),
        }
        if done {
            return seen;
        }
    }
}

fn add_data(seen: &mut Vec<Value>, stream: u32, payload: &[u8], ends: bool) {
    let text = observed(payload);
    if let Some(last) = seen.last_mut()
        && last["type"] == "DATA"
        && last["stream"] == stream
        && let (Some(before), Some(now)) = (last["bytes"].as_str(), text.as_str())
    {
        let whole = format!("{before}{now}");
        last["bytes"] = json!(whole);
        last["end"] = json!(ends);
        return;
    }
    seen.push(json!({ "type": "DATA", "stream": stream, "bytes": text, "end": ends }));
}

fn number(payload: &[u8], at: usize) -> u32 {
    let bytes = payload
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    u32::from_be_bytes(bytes.unwrap_or_default())
}

fn fields(decoder: &mut Decoder<'static>, block: &[u8]) -> Value {
    let Ok(pairs) = decoder.decode(block) else {
        return json!("undecodable");
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs: Vec<(String, String)> = pairs
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    field_map(
        pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

async fn next(wire: &mut Wire) -> Option<(u8, u8, u32, Vec<u8>)> {
    loop {
        if let [a, b, c, kind, flags, d, e, f, g, ..] = wire.buffer[..] {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if wire.buffer.len() >= 9 + length {
                let whole = wire.buffer.split_to(9 + length);
                let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
                return Some((kind, flags, stream, whole[9..].to_vec()));
            }
        }
        if !wire.more().await.is_ok_and(|read| read > 0) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_so_that_a_decoder_reads_them() {
        let block: Block = serde_saphyr::from_str(
            "{stream: 1, fields: [[':path', '/'], [x, {repeat: {text: a, times: 300}}]]}",
        )
        .unwrap();
        let decoded = fields(&mut Decoder::new(), &block.encode().unwrap());
        assert_eq!(decoded, json!({":path": ["/"], "x": ["a".repeat(300)]}));
        assert_eq!(block.flags(), 4);
    }

    #[test]
    fn frames_have_their_head() {
        let ping = Frame::Ping.bytes().unwrap();
        assert_eq!(ping, [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat());
    }
}
