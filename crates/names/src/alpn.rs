//! ALPN tokens by which mesh peers recognise each other and the protocol inside the tunnel.

/// A mesh peer speaking HTTP/1.0.
pub const ISTIO_HTTP_10: &str = "istio-http/1.0";
/// A mesh peer speaking HTTP/1.1.
pub const ISTIO_HTTP_11: &str = "istio-http/1.1";
/// A mesh peer speaking HTTP/2.
pub const ISTIO_H2: &str = "istio-h2";
/// A mesh peer; the protocol inside is not stated.
pub const ISTIO: &str = "istio";
/// A mesh peer that sends a metadata preamble before the payload.
pub const PEER_EXCHANGE: &str = "istio-peer-exchange";
/// HTTP/2 over TLS.
pub const H2: &str = "h2";
/// HTTP/2 in clear text, as the HTTP inspector reports it.
pub const H2C: &str = "h2c";
/// HTTP/1.1.
pub const HTTP_11: &str = "http/1.1";
/// HTTP/1.0.
pub const HTTP_10: &str = "http/1.0";

/// Offers of a mesh client whose payload is HTTP.
pub const MESH_HTTP: [&str; 3] = [ISTIO_HTTP_10, ISTIO_HTTP_11, ISTIO_H2];
/// Offers of a mesh client whose payload is an opaque byte stream.
pub const MESH_TCP: [&str; 2] = [PEER_EXCHANGE, ISTIO];
/// Every offer that marks a mesh client.
pub const MESH_ALL: [&str; 5] = [ISTIO, PEER_EXCHANGE, ISTIO_HTTP_10, ISTIO_HTTP_11, ISTIO_H2];
/// What the HTTP inspector reports for clear-text HTTP.
pub const PLAIN_HTTP: [&str; 2] = [HTTP_11, H2C];
