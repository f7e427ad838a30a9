//! Counters of the server side: the process, its listeners and connection managers. Clusters count for themselves.

mod http;
mod listener;
mod tcp;

pub(crate) use http::HttpStats;
pub(crate) use listener::{ListenerConnection, ListenerStats, Responses, responded};
pub(crate) use tcp::TcpStats;

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of counters with the names that Envoy gives them.
macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($field:ident $label:literal $doc:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $(#[doc = $doc] pub $field: std::sync::atomic::AtomicU64,)*
        }
        impl $name {
            /// Calls `each` with every counter's name and value.
            pub(crate) fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
                $(each($label, self.$field.load(std::sync::atomic::Ordering::Relaxed));)*
            }

            /// Sets all to zero.
            pub(crate) fn reset(&self) {
                $(self.$field.store(0, std::sync::atomic::Ordering::Relaxed);)*
            }
        }
    };
}
use counters;

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counters of the process.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Most connections at once; unset is no limit.
    max_connections: std::sync::OnceLock<u64>,
    connections_refused: AtomicU64,
    connections_total: AtomicU64,
    connections_active: AtomicU64,
    no_filter_chain: AtomicU64,
}

impl Stats {
    /// Sets the limit, once.
    pub(crate) fn limit_connections(&self, max: u64) {
        let _ = self.max_connections.set(max);
    }

    /// Whether one more connection may be served; counts a refusal.
    pub(crate) fn admits_connection(&self) -> bool {
        let admitted = self
            .max_connections
            .get()
            .is_none_or(|max| self.active() < *max);
        if !admitted {
            self.connections_refused.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Connections refused by the limit.
    pub(crate) fn refused(&self) -> u64 {
        self.connections_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn connection_opened(&self) {
        self.connections_total.fetch_add(1, Ordering::Relaxed);
        self.connections_active.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections_active.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn no_filter_chain_match(&self) {
        self.no_filter_chain.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that are open now.
    pub(crate) fn active(&self) -> u64 {
        self.connections_active.load(Ordering::Relaxed)
    }

    /// All connections so far.
    pub(crate) fn total(&self) -> u64 {
        self.connections_total.load(Ordering::Relaxed)
    }

    /// Connections that found no filter chain.
    pub(crate) fn without_chain(&self) -> u64 {
        self.no_filter_chain.load(Ordering::Relaxed)
    }
}
