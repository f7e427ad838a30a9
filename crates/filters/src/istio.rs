//! Istio's own filters: who the peer is ([`peer`]) and the standard metrics about both ends ([`stats`]).

pub mod peer;
pub mod stats;

pub use peer::Peer;
