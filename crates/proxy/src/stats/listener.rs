//! Counters of listeners, by the name that they have in statistics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meltemi_telemetry::distribution::Histogram;
use meltemi_traffic::Str;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::listener::Listener;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::http::{class_of, each_class};
use super::{count, counters};

counters! {
    /// What only grows.
    ListenerCounters {
        cx_total "downstream_cx_total" "Connections accepted.";
        cx_destroyed "downstream_cx_destroy" "Connections that ended.";
        cx_overflow "downstream_cx_overflow" "Connections refused by the listener's limit.";
        cx_overload "downstream_cx_overload_reject" "Connections refused under pressure.";
        global_overflow "downstream_global_cx_overflow" "Connections refused by the process's limit.";
        pre_cx_timeout "downstream_pre_cx_timeout" "Connections whose listener filters took too long.";
        handshake_timeout "downstream_cx_transport_socket_connect_timeout" "Connections whose handshake took too long.";
        filter_error "downstream_listener_filter_error" "Connections that a listener filter refused.";
        filter_remote_close "downstream_listener_filter_remote_close" "Connections whose client left during the listener filters.";
        no_chain "no_filter_chain_match" "Connections that found no filter chain.";
    }
}

counters! {
    /// What only grows, of the connections with TLS.
    TlsCounters {
        handshake "ssl.handshake" "Handshakes that succeeded.";
        connection_error "ssl.connection_error" "Handshakes that failed, but for their certificate.";
        no_certificate "ssl.no_certificate" "Handshakes without a client's certificate.";
        fail_verify_error "ssl.fail_verify_error" "Certificates that failed the verification.";
        fail_verify_no_cert "ssl.fail_verify_no_cert" "Handshakes that lacked a certificate.";
    }
}

/// Statistics of one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerStats {
    /// What only grows.
    pub counters: ListenerCounters,
    /// Handshakes, where there is TLS.
    pub tls: TlsCounters,
    has_tls: std::sync::atomic::AtomicBool,
    cx_active: AtomicU64,
    pre_cx_active: AtomicU64,
    length: Histogram,
    /// Responses by class, by the prefix of the connection manager that gave them.
    responses: Mutex<BTreeMap<Str, Arc<[AtomicU64; 5]>>>,
}

/// Counts a connection that has found its chain, for as long as it lives.
#[derive(Debug)]
pub(crate) struct ListenerConnection {
    stats: Arc<ListenerStats>,
    since: Instant,
}

impl Drop for ListenerConnection {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.cx_active.fetch_sub(1, Ordering::Relaxed);
        count(&stats.counters.cx_destroyed);
        stats.length.record_time(self.since.elapsed());
    }
}

/// Counts a connection on its way to a chain.
#[derive(Debug)]
pub(crate) struct Arriving(Arc<ListenerStats>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.pre_cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Responses by class of one connection manager at one listener.
pub(crate) type Responses = Arc<[AtomicU64; 5]>;

static BY_NAME: Mutex<BTreeMap<Str, Arc<ListenerStats>>> = Mutex::new(BTreeMap::new());

impl ListenerStats {
    /// The statistics of a listener; they outlive its versions.
    pub(crate) fn of(listener: &Listener) -> Arc<Self> {
        let stats = Arc::clone(BY_NAME.lock().entry(name_of(listener)).or_default());
        let mut chains = listener.chains.iter().chain(&listener.default_chain);
        if chains.any(|chain| chain.tls.is_some()) {
            stats.has_tls.store(true, Ordering::Relaxed);
        }
        stats
    }

    /// Counts a connection in that waits for its first bytes.
    pub(crate) fn arriving(self: &Arc<Self>) -> Arriving {
        self.pre_cx_active.fetch_add(1, Ordering::Relaxed);
        Arriving(Arc::clone(self))
    }

    /// Counts a connection in that has found its chain.
    pub(crate) fn connection(self: &Arc<Self>) -> ListenerConnection {
        count(&self.counters.cx_total);
        self.cx_active.fetch_add(1, Ordering::Relaxed);
        ListenerConnection {
            stats: Arc::clone(self),
            since: Instant::now(),
        }
    }

    /// Where responses of a connection manager are counted.
    pub(crate) fn responses(&self, prefix: &Str) -> Responses {
        Arc::clone(self.responses.lock().entry(prefix.clone()).or_default())
    }

    /// Sets the counters, not the gauges, to zero.
    pub(crate) fn reset_all() {
        for stats in BY_NAME.lock().values() {
            stats.counters.reset();
            stats.tls.reset();
            for classes in stats.responses.lock().values() {
                for counter in &**classes {
                    counter.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Calls `each` with every listener's name and statistics.
    pub(crate) fn all(mut each: impl FnMut(&Str, &Self)) {
        for (name, stats) in BY_NAME.lock().iter() {
            each(name, stats);
        }
    }

    /// Calls `each` with every counter and gauge.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&str, u64)) {
        self.counters.for_each(&mut each);
        if self.has_tls.load(Ordering::Relaxed) {
            self.tls.for_each(&mut each);
        }
        let load = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        each("downstream_cx_active", load(&self.cx_active));
        each("downstream_pre_cx_active", load(&self.pre_cx_active));
        for (prefix, classes) in self.responses.lock().iter() {
            each_class(classes, &mut |name, value| {
                each(&format!("http.{prefix}.{name}"), value);
            });
        }
    }

    /// Calls `each` with every histogram.
    pub(crate) fn for_each_histogram(&self, mut each: impl FnMut(&'static str, &Histogram)) {
        each("downstream_cx_length_ms", &self.length);
    }
}

/// Counts a response.
pub(crate) fn responded(responses: &Responses, status: Option<u16>) {
    if let Some(counter) = status.and_then(|status| class_of(responses, status)) {
        count(counter);
    }
}

/// `stat_prefix`, or the first address.
fn name_of(listener: &Listener) -> Str {
    if !listener.stat_prefix.is_empty() {
        return listener.stat_prefix.clone();
    }
    match listener.addresses.first() {
        Some(Address::Socket(address)) => address.to_string().into(),
        Some(Address::Pipe(path)) => path.clone(),
        Some(other) => other.to_string().into(),
        None => listener.name.clone(),
    }
}
