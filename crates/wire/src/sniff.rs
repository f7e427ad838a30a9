//! Recognising a protocol from the first bytes of a connection, as Envoy's `tls_inspector` and `http_inspector`.

pub mod client_hello;
pub mod http;

/// The HTTP/2 connection preface (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
