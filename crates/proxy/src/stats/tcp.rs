//! Counters of TCP proxies, by their statistics prefix.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_traffic::Str;
use parking_lot::Mutex;

use super::counters;

counters! {
    /// What only grows.
    TcpStats {
        cx_total "downstream_cx_total" "Connections.";
        no_route "downstream_cx_no_route" "Connections whose cluster does not exist.";
        received "downstream_cx_rx_bytes_total" "Bytes received from clients.";
        sent "downstream_cx_tx_bytes_total" "Bytes sent to clients.";
        idle_timeout "idle_timeout" "Connections on which nothing moved for too long.";
        max_duration "max_downstream_connection_duration" "Connections that reached their age.";
    }
}

static BY_PREFIX: Mutex<BTreeMap<Str, Arc<TcpStats>>> = Mutex::new(BTreeMap::new());

impl TcpStats {
    /// The counters for a statistics prefix.
    pub(crate) fn named(prefix: &Str) -> Arc<Self> {
        Arc::clone(BY_PREFIX.lock().entry(prefix.clone()).or_default())
    }

    /// Sets all counters to zero.
    pub(crate) fn reset_all() {
        for stats in BY_PREFIX.lock().values() {
            stats.reset();
        }
    }

    /// Calls `each` with every prefix and its counters.
    pub(crate) fn all(mut each: impl FnMut(&Str, &Self)) {
        for (prefix, stats) in BY_PREFIX.lock().iter() {
            each(prefix, stats);
        }
    }
}
