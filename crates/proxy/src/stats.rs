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
    /// HTTP/1 requests.
    pub rq_http1: AtomicU64,
    /// HTTP/2 requests.
    pub rq_http2: AtomicU64,
    /// Requests running.
    pub rq_active: AtomicU64,
    /// Responses by class, 1xx to 5xx.
    pub classes: [AtomicU64; 5],
    /// Requests without route.
    pub no_route: AtomicU64,
    /// Requests whose cluster does not exist.
    pub no_cluster: AtomicU64,
    /// Redirects: Envoy keeps the name, and counts them as direct responses.
    pub rq_redirect: AtomicU64,
    /// Direct responses.
    pub rq_direct_response: AtomicU64,
    /// Redirects that were not followed: no absolute URL.
    pub redirect_bad_location: AtomicU64,
    /// Redirects that were not followed: another scheme.
    pub redirect_unsafe_scheme: AtomicU64,
    /// Redirects that were not followed: too many before.
    pub redirect_too_many: AtomicU64,
    /// Redirects that were not followed: no route.
    pub redirect_no_route: AtomicU64,
    /// Redirects that were not followed: a predicate refused.
    pub redirect_predicate: AtomicU64,
    /// Connections that spoke HTTP/1.
    pub cx_http1: AtomicU64,
    /// Connections that spoke HTTP/2.
    pub cx_http2: AtomicU64,
    /// Connections open.
    pub cx_active: AtomicU64,
}

/// Counts a connection of a connection manager for as long as it lives.
#[derive(Debug)]
pub(crate) struct HttpConnection(Arc<HttpStats>);

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.0.cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

static BY_PREFIX: Mutex<BTreeMap<Str, Arc<HttpStats>>> = Mutex::new(BTreeMap::new());

impl HttpStats {
    /// The counters for a statistics prefix.
    pub(crate) fn named(prefix: &Str) -> Arc<Self> {
        Arc::clone(BY_PREFIX.lock().entry(prefix.clone()).or_default())
    }

    /// Counts a connection in.
    pub(crate) fn connection(self: &Arc<Self>, http2: bool) -> HttpConnection {
        let total = if http2 {
            &self.cx_http2
        } else {
            &self.cx_http1
        };
        total.fetch_add(1, Ordering::Relaxed);
        self.cx_active.fetch_add(1, Ordering::Relaxed);
        HttpConnection(Arc::clone(self))
    }

    /// Counts a request in.
    pub(crate) fn started(&self, http2: bool) {
        let total = if http2 {
            &self.rq_http2
        } else {
            &self.rq_http1
        };
        total.fetch_add(1, Ordering::Relaxed);
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

    /// Sets the counters, not the gauges, to zero.
    pub(crate) fn reset_all() {
        for stats in BY_PREFIX.lock().values() {
            let counters = [
                &stats.rq_http1,
                &stats.rq_http2,
                &stats.no_route,
                &stats.no_cluster,
                &stats.rq_redirect,
                &stats.rq_direct_response,
                &stats.redirect_bad_location,
                &stats.redirect_unsafe_scheme,
                &stats.redirect_too_many,
                &stats.redirect_no_route,
                &stats.redirect_predicate,
                &stats.cx_http1,
                &stats.cx_http2,
            ];
            for counter in counters.into_iter().chain(&stats.classes) {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Calls `each` with every counter of every prefix.
    pub(crate) fn for_each(mut each: impl FnMut(String, u64)) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        for (prefix, stats) in BY_PREFIX.lock().iter() {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let classes = stats.classes.each_ref().map(load);
            let (rq1, rq2) = (load(&stats.rq_http1), load(&stats.rq_http2));
            let (cx1, cx2) = (load(&stats.cx_http1), load(&stats.cx_http2));
            // table: name, value
            let all = [
                ("downstream_rq_total", rq1 + rq2),
                ("downstream_rq_http1_total", rq1),
                ("downstream_rq_http2_total", rq2),
                ("downstream_rq_active", load(&stats.rq_active)),
                ("downstream_rq_completed", classes.iter().sum()),
                ("downstream_cx_total", cx1 + cx2),
                ("downstream_cx_http1_total", cx1),
                ("downstream_cx_http2_total", cx2),
                ("downstream_cx_active", load(&stats.cx_active)),
                ("no_route", load(&stats.no_route)),
                ("no_cluster", load(&stats.no_cluster)),
                ("rq_redirect", load(&stats.rq_redirect)),
                ("rq_direct_response", load(&stats.rq_direct_response)),
                (
                    "passthrough_internal_redirect_bad_location",
                    load(&stats.redirect_bad_location),
                ),
                (
                    "passthrough_internal_redirect_unsafe_scheme",
                    load(&stats.redirect_unsafe_scheme),
                ),
                (
                    "passthrough_internal_redirect_too_many_redirects",
                    load(&stats.redirect_too_many),
                ),
                (
                    "passthrough_internal_redirect_no_route",
                    load(&stats.redirect_no_route),
                ),
                (
                    "passthrough_internal_redirect_predicate",
                    load(&stats.redirect_predicate),
                ),
            ];
            for (name, value) in all {
                each(format!("http.{prefix}.{name}"), value);
            }
            for (name, value) in CLASSES.iter().zip(classes) {
                each(format!("http.{prefix}.downstream_rq_{name}"), value);
            }
        }
    }
}
