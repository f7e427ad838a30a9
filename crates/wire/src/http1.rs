//! The HTTP/1 codec (RFC 9110, RFC 9112), strict where Envoy is strict.
//!
//! [`head`] decodes request and response heads, [`body`] decodes message bodies, [`encode`] writes both.
//! What is refused on purpose, because two parsers may read it differently: bare LF line ends, obsolete line
//! folding, Transfer-Encoding beside Content-Length, repeated Content-Length, any coding but `chunked`,
//! white space before the colon, and control bytes.

pub mod body;
pub mod case;
pub mod encode;
pub mod head;
pub mod target;

#[cfg(test)]
mod tests;

use bytes::Bytes;

/// Protocol version of one HTTP/1 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no persistent connection unless asked for, no chunked coding.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the end of a message body is found (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunked transfer coding, possibly with trailers.
    Chunked,
    /// A response that ends when the connection closes.
    UntilClose,
}

/// One decoded piece of a message body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Body bytes; never empty.
    Data(Bytes),
    /// The message is complete; trailers when the peer sent some.
    End(Option<http::HeaderMap>),
    /// More input is needed.
    NeedMore,
}
