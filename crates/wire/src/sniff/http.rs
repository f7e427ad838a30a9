//! Telling HTTP/1, HTTP/2 and everything else apart.

use super::HTTP2_PREFACE;

/// Longest request line that is looked at before the connection is given up.
pub const MAX_REQUEST_LINE: usize = 64 * 1024;
/// A longer method is none, however much of it has come.
const LONGEST_METHOD: usize = 64;
/// First letters of the methods that Envoy knows. Anything else is decided at its first byte, so that a client of another
/// text protocol is not kept waiting for a line end that it never sends.
const METHOD_STARTS: &[u8] = b"ABCDGHLMNOPRSTU";

/// What the first bytes of a plaintext connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    /// Undecided: read more.
    NeedMore,
    /// The HTTP/2 preface.
    Http2,
    /// A request line with HTTP/1.1.
    Http11,
    /// A request line with another HTTP/1 version.
    Http10,
    /// Not HTTP.
    Other,
    /// A request line that does not end within [`MAX_REQUEST_LINE`].
    TooLong,
}

impl Http {
    /// The application protocol name that filter chain matching uses.
    pub fn application_protocol(self) -> Option<&'static str> {
        match self {
            Self::Http2 => Some("h2c"),
            Self::Http11 => Some("http/1.1"),
            Self::Http10 => Some("http/1.0"),
            Self::NeedMore | Self::Other | Self::TooLong => None,
        }
    }
}

/// Looks at the bytes received so far.
pub fn inspect(bytes: &[u8]) -> Http {
    let compared = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..compared] == HTTP2_PREFACE[..compared] {
        return if compared == HTTP2_PREFACE.len() {
            Http::Http2
        } else {
            Http::NeedMore
        };
    }
    if bytes
        .first()
        .is_some_and(|first| !METHOD_STARTS.contains(first))
    {
        return Http::Other;
    }
    let line = bytes
        .iter()
        .take(MAX_REQUEST_LINE)
        .position(|byte| *byte == b'\n');
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    let after_method = bytes.get(method);
    if method == 0 || after_method.is_some_and(|byte| *byte != b' ') || method > LONGEST_METHOD {
        return Http::Other;
    }
    let Some(line) = line else {
        return if bytes.len() >= MAX_REQUEST_LINE {
            Http::TooLong
        } else {
            Http::NeedMore
        };
    };
    let line = bytes[..line].strip_suffix(b"\r").unwrap_or(&bytes[..line]);
    if line.ends_with(b" HTTP/1.1") {
        Http::Http11
    } else if line.ends_with(b" HTTP/1.0") {
        Http::Http10
    } else {
        Http::Other
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_decide_the_protocol() {
        let table: &[(&[u8], Http)] = &[
            (b"", Http::NeedMore),
            (b"PRI * HT", Http::NeedMore),
            (HTTP2_PREFACE, Http::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Http::Other),
            (b"GET", Http::NeedMore),
            (b"GET / HTTP/1.1\r\n", Http::Http11),
            (b"GET / HTTP/1.0\n", Http::Http10),
            (b"GET / HTTP/1.1", Http::NeedMore),
            (b"GET /\r\n", Http::Other),
            (b"\x00\x01binary", Http::Other),
            (b"you", Http::Other),
            (b"get / HTTP/1.1\r\n", Http::Other),
            (b"SSH-2.0-OpenSSH\r\n", Http::Other),
            (b"\r\nGET / HTTP/1.1\r\n", Http::Other),
        ];
        for (bytes, expected) in table {
            assert_eq!(
                inspect(bytes),
                *expected,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
        let endless = [&[b'A'; 65][..], b" / HTTP/1.1\r\n"].concat();
        assert_eq!(inspect(&endless), Http::Other);
        assert_eq!(inspect(&endless[..65]), Http::Other);
        let mut long = b"GET /".to_vec();
        long.resize(MAX_REQUEST_LINE + 10, b'a');
        assert_eq!(inspect(&long), Http::TooLong);
    }
}
