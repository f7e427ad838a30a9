//! Counters of connection managers, by their statistics prefix.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meltemi_telemetry::distribution::Histogram;
use meltemi_traffic::Str;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{count, counters};

counters! {
    /// What only grows.
    HttpCounters {
        rq_http1 "downstream_rq_http1_total" "HTTP/1 requests.";
        rq_http2 "downstream_rq_http2_total" "HTTP/2 requests.";
        rq_routed "rq_total" "Requests that came as far as the router.";
        no_route "no_route" "Requests without route.";
        no_cluster "no_cluster" "Requests whose cluster does not exist.";
        rq_redirect "rq_redirect" "Redirects to another scheme.";
        rq_direct_response "rq_direct_response" "Direct responses and redirects of routes.";
        redirect_bad_location "passthrough_internal_redirect_bad_location" "Redirects that were not followed: no absolute URL.";
        redirect_unsafe_scheme "passthrough_internal_redirect_unsafe_scheme" "Redirects that were not followed: another scheme.";
        redirect_too_many "passthrough_internal_redirect_too_many_redirects" "Redirects that were not followed: too many before.";
        redirect_no_route "passthrough_internal_redirect_no_route" "Redirects that were not followed: no route.";
        redirect_predicate "passthrough_internal_redirect_predicate" "Redirects that were not followed: a predicate refused.";
        rq_early_response "downstream_rq_response_before_rq_complete" "Responses that ended before their request.";
        rq_rx_reset "downstream_rq_rx_reset" "Streams that ended by a reset, of whichever side.";
        rq_header_timeout "downstream_rq_header_timeout" "Requests whose head came too slowly.";
        rq_timeout "downstream_rq_timeout" "Requests that came too slowly.";
        rq_idle_timeout "downstream_rq_idle_timeout" "Exchanges that were idle for too long.";
        rq_max_duration "downstream_rq_max_duration_reached" "Exchanges that took too long.";
        rq_overload_close "downstream_rq_overload_close" "Requests that were refused under pressure.";
        rq_too_large "downstream_rq_too_large" "Requests whose body was too large to be buffered.";
        rs_too_large "rs_too_large" "Responses whose body was too large to be buffered.";
        rq_non_relative "downstream_rq_non_relative_path" "Requests whose path does not begin with a slash.";
        rq_bad_path "downstream_rq_failed_path_normalization" "Requests whose path cannot be normalized.";
        rq_normalized "downstream_rq_redirected_with_normalized_path" "Requests that were redirected to their normalized path.";
        rq_upgrade_refused "downstream_rq_ws_on_non_ws_route" "Upgrades that their route does not allow.";
        cx_http1 "downstream_cx_http1_total" "Connections that spoke HTTP/1.";
        cx_http2 "downstream_cx_http2_total" "Connections that spoke HTTP/2.";
        cx_ssl "downstream_cx_ssl_total" "Connections with TLS.";
        cx_destroyed "downstream_cx_destroy" "Connections that ended.";
        cx_protocol_error "downstream_cx_protocol_error" "Connections that broke the protocol.";
        cx_idle_timeout "downstream_cx_idle_timeout" "Connections that were idle for too long.";
        cx_max_duration "downstream_cx_max_duration_reached" "Connections that reached their age.";
        cx_max_requests "downstream_cx_max_requests_reached" "Connections that served as many requests as they may.";
        cx_drained "downstream_cx_drain_close" "Connections that were closed because of a drain.";
        cx_no_keepalive "downstream_cx_overload_disable_keepalive" "Connections that were not kept under pressure.";
        upgrades "downstream_cx_upgrades_total" "Upgrades.";
    }
}

/// Statistics of one connection manager, shared by all that have its statistics prefix.
#[derive(Debug, Default)]
pub(crate) struct HttpStats {
    /// What only grows.
    pub counters: HttpCounters,
    /// Responses by class, 1xx to 5xx.
    classes: [AtomicU64; 5],
    rq_active: AtomicU64,
    cx_active: [AtomicU64; 2],
    ssl_active: AtomicU64,
    rq_time: Histogram,
    cx_length: Histogram,
}

/// Counts a connection of a connection manager for as long as it lives.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    stats: Arc<HttpStats>,
    http2: bool,
    tls: bool,
    since: Instant,
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.cx_active[usize::from(self.http2)].fetch_sub(1, Ordering::Relaxed);
        if self.tls {
            stats.ssl_active.fetch_sub(1, Ordering::Relaxed);
        }
        count(&stats.counters.cx_destroyed);
        stats.cx_length.record_time(self.since.elapsed());
    }
}

static BY_PREFIX: Mutex<BTreeMap<Str, Arc<HttpStats>>> = Mutex::new(BTreeMap::new());

impl HttpStats {
    /// The counters for a statistics prefix.
    pub(crate) fn named(prefix: &Str) -> Arc<Self> {
        Arc::clone(BY_PREFIX.lock().entry(prefix.clone()).or_default())
    }

    /// Counts a connection in.
    pub(crate) fn connection(self: &Arc<Self>, http2: bool, tls: bool) -> HttpConnection {
        let counters = &self.counters;
        count(if http2 {
            &counters.cx_http2
        } else {
            &counters.cx_http1
        });
        self.cx_active[usize::from(http2)].fetch_add(1, Ordering::Relaxed);
        if tls {
            count(&counters.cx_ssl);
            self.ssl_active.fetch_add(1, Ordering::Relaxed);
        }
        HttpConnection {
            stats: Arc::clone(self),
            http2,
            tls,
            since: Instant::now(),
        }
    }

    /// Counts a request in.
    pub(crate) fn started(&self, http2: bool) {
        let counters = &self.counters;
        count(if http2 {
            &counters.rq_http2
        } else {
            &counters.rq_http1
        });
        self.rq_active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request out, with the time that it took.
    pub(crate) fn ended(&self, status: Option<u16>, took: Duration) {
        self.rq_active.fetch_sub(1, Ordering::Relaxed);
        if let Some(counter) = status.and_then(|status| class_of(&self.classes, status)) {
            count(counter);
        }
        self.rq_time.record_time(took);
    }

    /// Sets the counters, not the gauges, to zero.
    pub(crate) fn reset_all() {
        for stats in BY_PREFIX.lock().values() {
            stats.counters.reset();
            for counter in &stats.classes {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Calls `each` with every prefix and its statistics.
    pub(crate) fn all(mut each: impl FnMut(&Str, &Self)) {
        for (prefix, stats) in BY_PREFIX.lock().iter() {
            each(prefix, stats);
        }
    }

    /// Calls `each` with every counter and gauge.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.counters.for_each(&mut each);
        let counters = &self.counters;
        let (cx1, cx2) = (load(&self.cx_active[0]), load(&self.cx_active[1]));
        // table: name, value
        let all = [
            (
                "downstream_rq_total",
                load(&counters.rq_http1) + load(&counters.rq_http2),
            ),
            ("downstream_rq_active", load(&self.rq_active)),
            (
                "downstream_cx_total",
                load(&counters.cx_http1) + load(&counters.cx_http2),
            ),
            ("downstream_cx_active", cx1 + cx2),
            ("downstream_cx_http1_active", cx1),
            ("downstream_cx_http2_active", cx2),
            ("downstream_cx_ssl_active", load(&self.ssl_active)),
        ];
        for (name, value) in all {
            each(name, value);
        }
        each_class(&self.classes, &mut each);
    }

    /// Calls `each` with every histogram.
    pub(crate) fn for_each_histogram(&self, mut each: impl FnMut(&'static str, &Histogram)) {
        each("downstream_rq_time", &self.rq_time);
        each("downstream_cx_length_ms", &self.cx_length);
    }
}

/// The counter of a status's class.
pub(super) fn class_of(classes: &[AtomicU64; 5], status: u16) -> Option<&AtomicU64> {
    classes.get(usize::from(status / 100).checked_sub(1)?)
}

/// Calls `each` with the responses of every class and with those of all.
pub(super) fn each_class(classes: &[AtomicU64; 5], each: &mut impl FnMut(&'static str, u64)) {
    const NAMES: [&str; 5] = [
        "downstream_rq_1xx",
        "downstream_rq_2xx",
        "downstream_rq_3xx",
        "downstream_rq_4xx",
        "downstream_rq_5xx",
    ];
    let counts = classes
        .each_ref()
        .map(|count| count.load(Ordering::Relaxed));
    each("downstream_rq_completed", counts.iter().sum());
    for (name, count) in NAMES.into_iter().zip(counts) {
        each(name, count);
    }
}
