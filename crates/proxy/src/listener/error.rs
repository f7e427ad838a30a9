//! Why a resource is refused at the last moment.

use std::io;

use meltemi_traffic::Str;

/// Why a resource could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A listener's address could not be bound.
    #[error("listener {listener}: cannot bind {address}: {source}")]
    Bind {
        /// Which listener.
        listener: Str,
        /// Which address.
        address: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another listener has one of its addresses.
    #[error("listener {listener}: address {address} is that of listener {other}")]
    DuplicateAddress {
        /// Which listener.
        listener: Str,
        /// The address.
        address: String,
        /// Who has it.
        other: Str,
    },
    /// A route names a cluster that does not exist.
    #[error("{kind} {name}: route_config: cluster {cluster} is unknown")]
    UnknownCluster {
        /// `listener`.
        kind: &'static str,
        /// Which one.
        name: Str,
        /// The cluster.
        cluster: Str,
    },
    /// A certificate, key or trust anchor cannot be used.
    #[error("{kind} {name}: {reason}")]
    Tls {
        /// `listener`, `cluster` or `secret`.
        kind: &'static str,
        /// Which one.
        name: Str,
        /// What is wrong with it.
        reason: String,
    },
    /// The resource asks for something that is understood but not carried out yet.
    #[error("{kind} {name}: {what} is not supported")]
    Unsupported {
        /// `listener` or `cluster`.
        kind: &'static str,
        /// Which one.
        name: Str,
        /// What it asks for.
        what: &'static str,
    },
}
