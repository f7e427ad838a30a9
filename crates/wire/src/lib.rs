//! Sans-I/O codecs for everything that peers put on the wire.
//!
//! Owns: HTTP/1 heads and bodies ([`http1`]), counting HTTP/2 frames ([`frames`]) and gRPC messages ([`grpc`]), PROXY protocol
//! headers ([`proxy_protocol`]), the preamble of TCP metadata exchange ([`peer_exchange`]), and recognising a protocol from its first bytes ([`sniff`]).
//! Never does: sockets, clocks, allocation beyond the stated limits, or policy. Every function takes bytes and
//! returns values, so the whole crate is tested and fuzzed with byte strings.
//!
//! Invariant: nothing a peer sends panics, and every length, count and size has a limit.

pub mod frames;
pub mod grpc;
pub mod http1;
pub mod mongo;
pub mod peer_exchange;
pub mod proxy_header;
pub mod proxy_protocol;
pub mod sniff;
