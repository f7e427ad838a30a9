//! HTTP/1: one request at a time on a connection, the most recently used idle one is taken first.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::waiting::{Shared, Slot, admit_pending, admit_request};
use super::{ConnFacts, Key, Lease, Limits, Pools};
use crate::breaker::Gauge;
use crate::clock;
use crate::cluster::Cluster;
use crate::connect::ConnectError;
use crate::host::Host;
use crate::http1::Conn;
use crate::stream::Stream;

/// Idle connections of one key; more than that is memory without use.
const MAX_IDLE_PER_KEY: usize = 1024;

/// The HTTP/1 connections of one key.
#[derive(Debug, Default)]
pub(super) struct Http1Pool {
    #[allow(
        clippy::vec_box,
        reason = "the box is lent as it is; moving half a kilobyte in and out costs more"
    )]
    idle: Vec<Box<Pooled>>,
    shared: Rc<Shared>,
}

/// A pooled HTTP/1 connection; boxed once, so that lending it moves a pointer.
#[derive(Debug)]
pub(super) struct Pooled {
    conn: Conn,
    facts: ConnFacts,
    host: Arc<Host>,
    since: Instant,
    limits: Limits,
    served: u32,
    slot: Slot,
}

/// An HTTP/1 connection lent for one exchange; dropping it closes the connection.
#[derive(Debug)]
pub struct Http1Lease {
    pooled: Box<Pooled>,
    pools: Rc<Pools>,
    key: Key,
    _running: Gauge,
}

impl Http1Lease {
    /// The connection.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.pooled.conn
    }

    /// The connection, to look at.
    pub fn look(&self) -> &Conn {
        &self.pooled.conn
    }

    /// Facts for logs.
    pub fn facts(&self) -> &ConnFacts {
        &self.pooled.facts
    }

    /// Gives the connection back for the next request.
    pub fn release(self) {
        let Self {
            mut pooled,
            pools,
            key,
            ..
        } = self;
        pooled.served += 1;
        pooled.since = clock::now();
        let served = pooled.limits.max_requests;
        let done = served.is_some_and(|max| pooled.served >= max)
            || pooled
                .facts
                .is_over(&pooled.host, &pooled.limits, || pooled.since);
        if done {
            return;
        }
        pooled.conn.release_buffers();
        let mut lists = pools.http1.borrow_mut();
        let list = lists.entry(key).or_default();
        if list.idle.len() < MAX_IDLE_PER_KEY {
            let shared = Rc::clone(&pooled.slot.0);
            list.idle.push(pooled);
            drop(lists);
            shared.freed.notify_one();
        }
    }
}

impl Pools {
    /// Drops connections that closed, were idle for too long, or whose host is gone.
    pub(super) fn sweep_http1(&self, now: Instant) {
        self.http1.borrow_mut().retain(|_, list| {
            list.idle.retain_mut(|idle| {
                !idle.facts.is_over(&idle.host, &idle.limits, || now)
                    && now - idle.since < idle.limits.idle
                    && idle.conn.is_reusable()
            });
            list.shared.live.get() > 0 || Rc::strong_count(&list.shared) > 1
        });
    }

    pub(super) async fn acquire_http1(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<Lease, ConnectError> {
        if let Some(pooled) = self.take_idle(&key) {
            return self.lend(pooled, cluster, key).map(Lease::Http1);
        }
        let _pending = admit_pending(cluster, &key)?;
        let shared = self.http1_shared(&key);
        loop {
            let Some(slot) = self.slot(cluster, host, &key, &shared) else {
                shared.freed.notified().await;
                if let Some(pooled) = self.take_idle(&key) {
                    return self.lend(pooled, cluster, key).map(Lease::Http1);
                }
                continue;
            };
            cluster.stats.cx_http1.fetch_add(1, Ordering::Relaxed);
            let (stream, facts) = self.dial(cluster, host, &key.needs).await?;
            let pooled = pooled(stream, facts, slot, cluster, host);
            return self.lend(pooled, cluster, key).map(Lease::Http1);
        }
    }

    pub(super) fn http1_shared(&self, key: &Key) -> Rc<Shared> {
        let mut pools = self.http1.borrow_mut();
        if let Some(pool) = pools.get(key) {
            return Rc::clone(&pool.shared);
        }
        let pool = Http1Pool::default();
        let shared = Rc::clone(&pool.shared);
        pools.insert(key.clone(), pool);
        shared
    }

    pub(super) fn take_idle(&self, key: &Key) -> Option<Box<Pooled>> {
        let mut pools = self.http1.borrow_mut();
        let list = &mut pools.get_mut(key)?.idle;
        while let Some(mut pooled) = list.pop() {
            let over = pooled
                .facts
                .is_over(&pooled.host, &pooled.limits, Instant::now);
            if !over && pooled.conn.is_reusable() {
                return Some(pooled);
            }
        }
        None
    }

    /// Lends a connection for a request, unless there are too many requests; then it stays for the next one.
    pub(super) fn lend(
        self: &Rc<Self>,
        pooled: Box<Pooled>,
        cluster: &Cluster,
        key: Key,
    ) -> Result<Http1Lease, ConnectError> {
        match admit_request(cluster, &key) {
            Ok(running) => {
                pooled.facts.measured.request();
                Ok(Http1Lease {
                    pooled,
                    pools: Rc::clone(self),
                    key,
                    _running: running,
                })
            }
            Err(error) => {
                let mut pools = self.http1.borrow_mut();
                pools.entry(key).or_default().idle.push(pooled);
                Err(error)
            }
        }
    }
}

pub(super) fn pooled(
    stream: Stream,
    facts: ConnFacts,
    slot: Slot,
    cluster: &Cluster,
    host: &Arc<Host>,
) -> Box<Pooled> {
    let mut conn = Conn::new(stream);
    conn.set_proper_case(cluster.config.http.http1.proper_case);
    conn.set_buffer_limit(cluster.config.buffer_limit);
    Box::new(Pooled {
        conn,
        facts,
        host: Arc::clone(host),
        since: Instant::now(),
        limits: Limits::of(cluster),
        served: 0,
        slot,
    })
}
