//! Counters of `istio.metadata_exchange`, shared by listeners and clusters as in Istio's proxy.

use std::sync::LazyLock;

use crate::counters::Counter;

/// The counters.
#[derive(Debug)]
pub struct Stats {
    /// Connections that negotiated the protocol.
    pub found: Counter,
    /// Connections that did not.
    pub not_found: Counter,
    /// Preambles sent.
    pub added: Counter,
    /// Peers without preamble.
    pub no_header: Counter,
    /// Preambles that could not be read.
    pub unreadable: Counter,
}

static STATS: LazyLock<Stats> = LazyLock::new(|| {
    let named = |name: &str| Counter::named(format!("metadata_exchange.{name}"));
    Stats {
        found: named("alpn_protocol_found"),
        not_found: named("alpn_protocol_not_found"),
        added: named("metadata_added"),
        no_header: named("initial_header_not_found"),
        unreadable: named("header_not_found"),
    }
});

/// The counters of this process.
#[must_use]
pub fn stats() -> &'static Stats {
    &STATS
}

impl Stats {
    /// Counts a connection whose chain or cluster exchanges metadata.
    pub fn opened(&self, negotiated: bool) {
        if negotiated {
            self.found.inc();
            self.added.inc();
        } else {
            self.not_found.inc();
        }
    }
}
