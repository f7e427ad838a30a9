//! Shared vocabulary: hostnames, ports and their protocols, SPIFFE identities, labels, localities, durations and the
//! names that the two planes agree on (cluster names, fixed ports, ALPN tokens).
//!
//! This crate holds values and their text forms. It never does I/O and knows no Kubernetes or xDS type, so every
//! other crate can use it.

pub mod alpn;
pub mod cluster;
pub mod duration;
pub mod host;
pub mod labels;
pub mod locality;
pub mod ports;
pub mod protocol;
pub mod spiffe;

/// Cheaply cloned immutable string: the interned form of names that live in many objects at once.
pub use arcstr::{self, ArcStr};
pub use cluster::{ClusterName, Direction};
pub use duration::{DurationError, format_duration, parse_duration};
pub use host::Hostname;
pub use labels::Labels;
pub use locality::Locality;
pub use protocol::Protocol;
pub use spiffe::{SpiffeError, SpiffeId};
