//! An HTTP backend: which version a connection speaks.

use serde_json::Value;

use super::{Server, http1, http2};
use crate::client::wire::{Duplex, Wire};

/// The start of every HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
pub(crate) async fn serve(io: Box<dyn Duplex>, server: &Server, number: u32, tls: Value) {
    let mut wire = Wire::new(io, tls);
    while wire.buffer.len() < PREFACE.len() && PREFACE.starts_with(&wire.buffer) {
        match wire.more().await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    if wire.buffer.starts_with(PREFACE) {
        http2::serve(wire, server, number).await;
    } else {
        http1::serve(wire, server, number).await;
    }
}
