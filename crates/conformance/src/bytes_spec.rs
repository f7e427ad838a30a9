//! Bytes as a case writes them: text, hexadecimal, base64, a repeated piece, gRPC messages.

use anyhow::Context;
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Digest as _;

/// A longer text is observed by its length and hash.
const LONGEST_SHOWN: usize = 8192;

/// Bytes to send.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Data {
    /// The text's UTF-8.
    Text(String),
    /// A number's digits, so that `body: 5` needs no quotes.
    Number(serde_json::Number),
    /// One of the other forms.
    Form(Form),
    /// One after the other.
    Sequence(Vec<Self>),
}

/// Bytes that are no plain text.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    /// Pairs of digits; spaces do not count.
    Hex(String),
    /// Standard base64.
    Base64(String),
    /// A piece many times.
    Repeat {
        /// The piece.
        text: String,
        /// How often.
        times: usize,
    },
    /// As they are; no case can write this.
    #[serde(skip)]
    Bytes(Vec<u8>),
    /// gRPC messages, each with its five bytes of framing.
    Grpc(Vec<Data>),
    /// A protobuf message of a known name, from JSON.
    Message {
        /// Full name.
        r#type: String,
        /// Its fields.
        value: Value,
    },
}

impl Data {
    /// The bytes.
    pub(crate) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Number(number) => number.to_string().into_bytes(),
            Self::Sequence(parts) => {
                let parts: anyhow::Result<Vec<Vec<u8>>> = parts.iter().map(Self::bytes).collect();
                parts?.concat()
            }
            Self::Form(Form::Hex(digits)) => hex(digits)?,
            Self::Form(Form::Base64(text)) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .context("base64")?,
            Self::Form(Form::Bytes(bytes)) => bytes.clone(),
            Self::Form(Form::Repeat { text, times }) => text.repeat(*times).into_bytes(),
            Self::Form(Form::Grpc(messages)) => {
                let mut all = Vec::new();
                for message in messages {
                    crate::grpc::frame(&message.bytes()?, &mut all);
                }
                all
            }
            Self::Form(Form::Message { r#type, value }) => {
                meltemi_proto::json::to_wire(r#type, value)?
            }
        })
    }
}

fn hex(digits: &str) -> anyhow::Result<Vec<u8>> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    anyhow::ensure!(
        digits.len().is_multiple_of(2),
        "an odd number of hexadecimal digits"
    );
    let pair = |pair: &[u8]| -> anyhow::Result<u8> {
        Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)
    };
    digits.chunks(2).map(pair).collect()
}

/// Bytes as they are observed: text, base64 when they are none, length and hash when they are long.
pub(crate) fn observed(bytes: &[u8]) -> Value {
    if bytes.len() > LONGEST_SHOWN {
        return json!({ "length": bytes.len(), "sha256": sha256(bytes) });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// SHA-256 in lower-case hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(yaml: &str) -> Vec<u8> {
        serde_saphyr::from_str::<Data>(yaml)
            .unwrap()
            .bytes()
            .unwrap()
    }

    #[test]
    fn every_form_gives_its_bytes() {
        assert_eq!(bytes("\"a\\r\\n\""), b"a\r\n");
        assert_eq!(bytes("5"), b"5");
        assert_eq!(bytes("{hex: '00 ff'}"), [0, 255]);
        assert_eq!(bytes("{base64: YWI=}"), b"ab");
        assert_eq!(bytes("[a, {repeat: {text: b, times: 3}}]"), b"abbb");
        assert_eq!(bytes("{grpc: [ab]}"), [0, 0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn long_and_binary_bytes_are_observed_shortly() {
        assert_eq!(observed(b"a"), json!("a"));
        assert_eq!(observed(&[255]), json!({"base64": "/w=="}));
        assert_eq!(observed(&[b'a'; 10_000])["length"], 10_000);
    }
}
