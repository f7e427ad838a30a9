//! Counters of the server side: the process, its listeners and connection managers. Clusters count for themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meltemi_traffic::Str;
use parking_lot::Mutex;

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

/// Counters of one connection manager, shared by all that have its statistics prefix.
#[derive(Debug, Default)]
pub(crate) struct HttpStats {
    /// Requests.
    pub rq_total: AtomicU64,
    /// Requests running.
    pub rq_active: AtomicU64,
    /// Responses by class, 1xx to 5xx.
    pub classes: [AtomicU64; 5],
    /// Requests without route.
    pub no_route: AtomicU64,
    /// Requests whose cluster does not exist.
    pub no_cluster: AtomicU64,
}

static BY_PREFIX: Mutex<BTreeMap<Str, Arc<HttpStats>>> = Mutex::new(BTreeMap::new());

impl HttpStats {
    /// The counters for a statistics prefix.
    pub(crate) fn named(prefix: &Str) -> Arc<Self> {
        Arc::clone(BY_PREFIX.lock().entry(prefix.clone()).or_default())
    }

    /// Counts a request in.
    pub(crate) fn started(&self) {
        self.rq_total.fetch_add(1, Ordering::Relaxed);
        self.rq_active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request out.
    pub(crate) fn ended(&self, status: Option<u16>) {
        self.rq_active.fetch_sub(1, Ordering::Relaxed);
        let class = status.map_or(0, |status| usize::from(status / 100));
        if let Some(counter) = class.checked_sub(1).and_then(|at| self.classes.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls `each` with every counter of every prefix.
    pub(crate) fn for_each(mut each: impl FnMut(String, u64)) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        for (prefix, stats) in BY_PREFIX.lock().iter() {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            each(
                format!("http.{prefix}.downstream_rq_total"),
                load(&stats.rq_total),
            );
            each(
                format!("http.{prefix}.downstream_rq_active"),
                load(&stats.rq_active),
            );
            for (name, counter) in CLASSES.iter().zip(&stats.classes) {
                each(format!("http.{prefix}.downstream_rq_{name}"), load(counter));
            }
            each(format!("http.{prefix}.no_route"), load(&stats.no_route));
            each(format!("http.{prefix}.no_cluster"), load(&stats.no_cluster));
        }
    }
}
