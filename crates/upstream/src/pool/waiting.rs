//! Who may connect, wait and run: counts of one key within a worker, and the breakers of the cluster.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::{ConnectionNeeds, Key, Pools};
use crate::breaker::{Breaker, Gauge};
use crate::cluster::Cluster;
use crate::connect::ConnectError;
use crate::host::Host;

/// What the connections of one key share within a worker.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Connections, those that are being made included.
    pub(super) live: Cell<usize>,
    /// A connection was given back or has ended.
    pub(super) freed: Notify,
}

/// Counts a connection among those of its key while it lives.
#[derive(Debug)]
pub(super) struct Slot(pub(super) Rc<Shared>);

impl Slot {
    pub(super) fn take(shared: &Rc<Shared>) -> Self {
        shared.live.set(shared.live.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
        self.0.freed.notify_one();
    }
}

impl Pools {
    /// Room for one more connection of a key. One is always allowed, so that no request waits for what never comes.
    pub(super) fn slot(
        &self,
        cluster: &Cluster,
        host: &Host,
        key: &Key,
        shared: &Rc<Shared>,
    ) -> Option<Slot> {
        if !may_connect(cluster, host, &key.needs) {
            cluster.stats.cx_overflow.fetch_add(1, Ordering::Relaxed);
            if shared.live.get() > 0 {
                return None;
            }
        }
        Some(Slot::take(shared))
    }
}

/// Whether cluster and host allow one more connection.
pub(super) fn may_connect(cluster: &Cluster, host: &Host, needs: &ConnectionNeeds) -> bool {
    let breaker = cluster.breaker(needs.high_priority);
    let limits = &breaker.limits;
    breaker.connections.get() < limits.max_connections
        && limits
            .max_connections_per_host
            .is_none_or(|max| host.state.cx_active.get() < max)
}

/// Lets one more request wait for a connection.
pub(super) fn admit_pending(cluster: &Cluster, key: &Key) -> Result<Gauge, ConnectError> {
    let breaker: &Breaker = cluster.breaker(key.needs.high_priority);
    let pending = breaker.pending.admit(breaker.limits.max_pending);
    let pending = pending.ok_or_else(|| overflow(&cluster.stats.rq_pending_overflow))?;
    cluster
        .stats
        .rq_pending_total
        .fetch_add(1, Ordering::Relaxed);
    Ok(pending)
}

/// Lets one more request run.
pub(super) fn admit_request(cluster: &Cluster, key: &Key) -> Result<Gauge, ConnectError> {
    let breaker: &Breaker = cluster.breaker(key.needs.high_priority);
    let running = breaker.requests.admit(breaker.limits.max_requests);
    running.ok_or_else(|| overflow(&cluster.stats.rq_active_overflow))
}

fn overflow(refused: &AtomicU64) -> ConnectError {
    refused.fetch_add(1, Ordering::Relaxed);
    ConnectError::Overflow
}
