//! The proxy over real sockets on loopback, with hyper and plain sockets as independent peers.

mod http1;
mod http2;
mod support;
mod tcp;
mod tls;
