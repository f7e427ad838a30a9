//! Connections of one worker, kept for reuse.
//!
//! HTTP/1: one request at a time on a connection, the most recently used idle one is taken first. HTTP/2: one
//! connection until its peer's stream limit is reached, then another; whoever asks while one is being dialled
//! waits for it. A pool belongs to one worker thread and is never locked; counters that the process shares are
//! atomics of the host and cluster.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use h2::client::SendRequest;
use meltemi_traffic::Str;
use meltemi_traffic::balance::PickState;
use meltemi_traffic::cluster::{ProxyProtocol, UpstreamProtocol};
use meltemi_traffic::tls::PeerIdentity;
use meltemi_wire::proxy_header::{write_v1, write_v2};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::Pick;
use crate::breaker::{Breaker, Gauge};
use crate::cluster::{Cluster, Transport, next_id};
use crate::connect::{ConnectError, Dial, SocketDefaults, dial};
use crate::distribution::Measured;
use crate::gather::gather;
use crate::host::Host;
use crate::http1::Conn;
use crate::keepalive::KeepAlive;
use crate::stream::Stream;
use crate::tls::{TlsSession, peer_identity};

/// Windows of HTTP/2 connections where the configuration says nothing. Envoy offers 16 MiB; a stream's window is
/// memory that a fast upstream can fill while its client is slow, so ours stay below the growth that one stream may cause.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams at once on one connection where neither side says less.
const DEFAULT_MAX_STREAMS: usize = 1024;
/// Idle connections of one key; more than that is memory without use.
const MAX_IDLE_PER_KEY: usize = 1024;
/// Idle time of pooled connections (Envoy's default).
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
/// Time between sweeps for closed and idle connections.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Protocols offered instead of the transport's own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AlpnOffer(pub Vec<Vec<u8>>);

/// What a request asks of its connection, beside host and transport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ConnectionNeeds {
    /// Protocols offered instead of the transport's own.
    pub alpn: Option<Arc<AlpnOffer>>,
    /// Server name sent instead of the transport's own.
    pub sni: Option<Str>,
    /// Source and destination that a PROXY header tells the host; each pair has its own connections.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
    /// High priority requests have their own connections.
    pub high_priority: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    host: u64,
    transport: u64,
    needs: ConnectionNeeds,
}

/// Facts of a connection for logs and statistics.
#[derive(Debug)]
pub struct ConnFacts {
    /// Number of the connection in this process.
    pub id: u64,
    /// Our address.
    pub local: Option<std::net::SocketAddr>,
    /// TLS is on.
    pub tls: bool,
    /// What logs can say of the TLS session.
    pub session: Option<Arc<TlsSession>>,
    /// The peer's verified identity.
    pub peer: Option<Arc<PeerIdentity>>,
    /// Counts it.
    measured: Measured,
    /// The host's [`drains`](crate::host::HostState::drains) then.
    drains: u32,
    _active: Gauge,
    _host_active: Gauge,
}

impl ConnFacts {
    /// No further request: the host is gone or gives its connections up, or the connection has lived long enough.
    fn is_over(&self, host: &Host, cluster: &Limits, now: impl FnOnce() -> Instant) -> bool {
        host.state.is_removed()
            || host.state.drains() != self.drains
            || cluster
                .max_age
                .is_some_and(|max| now() - self.measured.born() >= max)
    }
}

/// How long connections are kept.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Without requests.
    idle: Duration,
    /// In all.
    max_age: Option<Duration>,
    max_requests: Option<u32>,
}

impl Limits {
    fn of(cluster: &Cluster) -> Self {
        let http = &cluster.config.http;
        Self {
            idle: http.idle_timeout.unwrap_or(DEFAULT_IDLE),
            max_age: http.max_connection_duration,
            max_requests: http.max_requests_per_connection,
        }
    }
}

/// What the connections of one key share within a worker.
#[derive(Debug, Default)]
struct Shared {
    /// Connections, those that are being made included.
    live: Cell<usize>,
    /// A connection was given back or has ended.
    freed: Notify,
}

/// Counts a connection among those of its key while it lives.
#[derive(Debug)]
struct Slot(Rc<Shared>);

impl Slot {
    fn take(shared: &Rc<Shared>) -> Self {
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

/// The pools of one worker.
#[derive(Debug)]
pub struct Pools {
    http1: RefCell<AHashMap<Key, Http1Pool>>,
    http2: RefCell<AHashMap<Key, Rc<Http2Pool>>>,
    /// Balancing positions by cluster.
    picks: RefCell<AHashMap<Str, PickState>>,
    defaults: SocketDefaults,
}

/// The HTTP/1 connections of one key.
#[derive(Debug, Default)]
struct Http1Pool {
    #[allow(
        clippy::vec_box,
        reason = "the box is lent as it is; moving half a kilobyte in and out costs more"
    )]
    idle: Vec<Box<Pooled>>,
    shared: Rc<Shared>,
}

/// A pooled HTTP/1 connection; boxed once, so that lending it moves a pointer.
#[derive(Debug)]
struct Pooled {
    conn: Conn,
    facts: ConnFacts,
    host: Arc<Host>,
    since: Instant,
    limits: Limits,
    served: u32,
    slot: Slot,
}

#[derive(Debug, Default)]
struct Http2Pool {
    conns: RefCell<Vec<Rc<Http2Conn>>>,
    dialling: RefCell<Option<Rc<Dialling>>>,
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Dialling {
    done: Notify,
    failure: RefCell<Option<ConnectError>>,
}

#[derive(Debug)]
struct Http2Conn {
    send: SendRequest<Bytes>,
    active: Cell<usize>,
    served: Cell<u32>,
    idle_since: Cell<Instant>,
    closed: Cell<bool>,
    max_streams: usize,
    limits: Limits,
    facts: ConnFacts,
    host: Arc<Host>,
    slot: Slot,
    driver: RefCell<Option<tokio::task::AbortHandle>>,
}

impl Drop for Http2Conn {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get_mut().take() {
            driver.abort();
        }
    }
}

/// A connection lent for one exchange.
#[derive(Debug)]
pub enum Lease {
    /// HTTP/1: the connection itself.
    Http1(Http1Lease),
    /// HTTP/2: room for one stream.
    Http2(Http2Lease),
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
        pooled.since = Instant::now();
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

/// Room for one HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Lease {
    conn: Rc<Http2Conn>,
    send: SendRequest<Bytes>,
    _running: Gauge,
}

impl Http2Lease {
    pub(crate) fn sender(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.send
    }

    /// Facts for logs.
    pub fn facts(&self) -> &ConnFacts {
        &self.conn.facts
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.conn.active.set(self.conn.active.get() - 1);
        if self.conn.active.get() == 0 {
            self.conn.idle_since.set(Instant::now());
        }
        self.conn.slot.0.freed.notify_one();
    }
}

impl Pools {
    /// Empty pools of a worker.
    pub fn new(defaults: SocketDefaults) -> Rc<Self> {
        Rc::new(Self {
            http1: RefCell::default(),
            http2: RefCell::default(),
            picks: RefCell::default(),
            defaults,
        })
    }

    /// Picks a host by the cluster's policy.
    pub fn pick(&self, cluster: &Cluster, pick: &Pick<'_>) -> Option<Arc<Host>> {
        let mut picks = self.picks.borrow_mut();
        let name = &cluster.config.name;
        if !picks.contains_key(name) {
            picks.insert(name.clone(), PickState::default());
        }
        let state = picks.get_mut(name)?;
        let host = cluster.hosts.load().pick(state, pick).cloned();
        let panics = state.take_panics();
        if panics > 0 {
            let counter = &cluster.stats.healthy_panic;
            counter.fetch_add(panics, Ordering::Relaxed);
        }
        host
    }

    /// Lends a connection to `host` that speaks `protocol`, dialling one when none is free.
    ///
    /// # Errors
    /// See [`ConnectError`]. Cancel-safe: others that wait for the same dial take over.
    pub async fn acquire(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        protocol: UpstreamProtocol,
        needs: &ConnectionNeeds,
    ) -> Result<Lease, ConnectError> {
        let key = Key {
            host: host.state.id,
            transport: host.transport.id,
            needs: needs.clone(),
        };
        let acquired = match protocol {
            UpstreamProtocol::Http2 => self.acquire_http2(cluster, host, key).await,
            UpstreamProtocol::Auto => self.acquire_auto(cluster, host, key).await,
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => {
                self.acquire_http1(cluster, host, key).await
            }
        };
        if matches!(&acquired, Err(error) if !matches!(error, ConnectError::Overflow)) {
            let ejected = &cluster.stats.rq_pending_failure_eject;
            ejected.fetch_add(1, Ordering::Relaxed);
        }
        acquired
    }

    async fn acquire_http1(
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

    /// Room for one more connection of a key. One is always allowed, so that no request waits for what never comes.
    fn slot(&self, cluster: &Cluster, host: &Host, key: &Key, shared: &Rc<Shared>) -> Option<Slot> {
        if !may_connect(cluster, host, &key.needs) {
            cluster.stats.cx_overflow.fetch_add(1, Ordering::Relaxed);
            if shared.live.get() > 0 {
                return None;
            }
        }
        Some(Slot::take(shared))
    }

    fn http1_shared(&self, key: &Key) -> Rc<Shared> {
        let mut pools = self.http1.borrow_mut();
        if let Some(pool) = pools.get(key) {
            return Rc::clone(&pool.shared);
        }
        let pool = Http1Pool::default();
        let shared = Rc::clone(&pool.shared);
        pools.insert(key.clone(), pool);
        shared
    }

    /// A raw connection, for TCP proxying; never pooled.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        cluster: &Cluster,
        host: &Arc<Host>,
        needs: &ConnectionNeeds,
    ) -> Result<(Stream, ConnFacts), ConnectError> {
        if !may_connect(cluster, host, needs) {
            cluster.stats.cx_overflow.fetch_add(1, Ordering::Relaxed);
            return Err(ConnectError::Overflow);
        }
        self.dial(cluster, host, needs).await
    }

    async fn dial(
        &self,
        cluster: &Cluster,
        host: &Arc<Host>,
        needs: &ConnectionNeeds,
    ) -> Result<(Stream, ConnFacts), ConnectError> {
        let active = cluster.breaker(needs.high_priority).connections.enter();
        let host_active = host.state.cx_active.enter();
        let drains = host.state.drains();
        let transport: &Transport = &host.transport;
        let began = Instant::now();
        cluster.stats.cx_total.fetch_add(1, Ordering::Relaxed);
        host.state.cx_total.fetch_add(1, Ordering::Relaxed);
        let header = transport
            .proxy_protocol
            .as_deref()
            .map(|settings| proxy_header(settings, needs.proxied));
        let result = dial(Dial {
            target: &host.target,
            more_targets: &host.more_targets,
            proxy_protocol: header.as_deref(),
            bind: &cluster.config.bind,
            keepalive: cluster.config.keepalive,
            defaults: self.defaults,
            timeout: cluster.config.connect_timeout,
            tls: transport.tls.as_ref(),
            alpn: needs.alpn.as_ref().map(|offer| offer.0.as_slice()),
            sni: needs.sni.as_deref(),
        })
        .await;
        match result {
            Ok(stream) => {
                cluster.distributions().connected(began.elapsed());
                let peer = stream.tls().and_then(|state| peer_identity(state, true));
                let facts = ConnFacts {
                    id: next_id(),
                    session: stream.tls().map(|state| {
                        Arc::new(TlsSession::new(
                            state,
                            transport.tls.as_ref(),
                            needs.sni.as_ref(),
                        ))
                    }),
                    local: stream.socket().local_addr(),
                    tls: stream.tls().is_some(),
                    peer: peer.map(Arc::new),
                    measured: cluster.measured(),
                    drains,
                    _active: active,
                    _host_active: host_active,
                };
                Ok((stream, facts))
            }
            Err(error) => {
                count_failure(cluster, host, &error);
                Err(error)
            }
        }
    }

    fn take_idle(&self, key: &Key) -> Option<Box<Pooled>> {
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
    fn lend(
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

    async fn acquire_auto(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<Lease, ConnectError> {
        let pool = self.http2_pool(&key);
        if let Some(conn) = pool.usable() {
            return conn.lend(cluster, &key).map(Lease::Http2);
        }
        if let Some(pooled) = self.take_idle(&key) {
            return self.lend(pooled, cluster, key).map(Lease::Http1);
        }
        let _pending = admit_pending(cluster, &key)?;
        let shared = self.http1_shared(&key);
        loop {
            let Some(slot) = self.slot(cluster, host, &key, &shared) else {
                shared.freed.notified().await;
                if let Some(conn) = pool.usable() {
                    return conn.lend(cluster, &key).map(Lease::Http2);
                }
                if let Some(pooled) = self.take_idle(&key) {
                    return self.lend(pooled, cluster, key).map(Lease::Http1);
                }
                continue;
            };
            let (stream, facts) = self.dial(cluster, host, &key.needs).await?;
            if stream.alpn() == Some(b"h2") {
                cluster.stats.cx_http2.fetch_add(1, Ordering::Relaxed);
                let conn = pool.adopt(stream, facts, slot, cluster, host).await?;
                return conn.lend(cluster, &key).map(Lease::Http2);
            }
            cluster.stats.cx_http1.fetch_add(1, Ordering::Relaxed);
            let pooled = pooled(stream, facts, slot, cluster, host);
            return self.lend(pooled, cluster, key).map(Lease::Http1);
        }
    }

    async fn acquire_http2(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<Lease, ConnectError> {
        let pool = self.http2_pool(&key);
        if let Some(conn) = pool.usable() {
            return conn.lend(cluster, &key).map(Lease::Http2);
        }
        let _pending = admit_pending(cluster, &key)?;
        loop {
            if let Some(conn) = pool.usable() {
                return conn.lend(cluster, &key).map(Lease::Http2);
            }
            let waiting_for = pool.dialling.borrow().clone();
            if let Some(dialling) = waiting_for {
                dialling.done.notified().await;
                if let Some(failure) = dialling.failure.borrow().clone() {
                    return Err(failure);
                }
                continue;
            }
            let Some(slot) = self.slot(cluster, host, &key, &pool.shared) else {
                pool.shared.freed.notified().await;
                continue;
            };
            let conn = self.dial_http2(&pool, slot, cluster, host, &key).await?;
            return conn.lend(cluster, &key).map(Lease::Http2);
        }
    }

    async fn dial_http2(
        &self,
        pool: &Http2Pool,
        slot: Slot,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: &Key,
    ) -> Result<Rc<Http2Conn>, ConnectError> {
        let dialling = Rc::new(Dialling::default());
        *pool.dialling.borrow_mut() = Some(Rc::clone(&dialling));
        // Also when this future is dropped: the waiters wake up and one of them dials.
        let _guard = DialGuard {
            pool,
            dialling: &dialling,
        };
        cluster.stats.cx_http2.fetch_add(1, Ordering::Relaxed);
        let result = match self.dial(cluster, host, &key.needs).await {
            Ok((stream, facts)) => pool.adopt(stream, facts, slot, cluster, host).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            *dialling.failure.borrow_mut() = Some(error.clone());
        }
        result
    }

    fn http2_pool(&self, key: &Key) -> Rc<Http2Pool> {
        let mut pools = self.http2.borrow_mut();
        if let Some(pool) = pools.get(key) {
            return Rc::clone(pool);
        }
        let pool = Rc::<Http2Pool>::default();
        pools.insert(key.clone(), Rc::clone(&pool));
        pool
    }

    /// Drops connections that closed, were idle for too long, or whose host is gone. Call every [`SWEEP_INTERVAL`].
    pub fn sweep(&self) {
        let now = Instant::now();
        self.http1.borrow_mut().retain(|_, list| {
            list.idle.retain_mut(|idle| {
                !idle.facts.is_over(&idle.host, &idle.limits, || now)
                    && now - idle.since < idle.limits.idle
                    && idle.conn.is_reusable()
            });
            list.shared.live.get() > 0 || Rc::strong_count(&list.shared) > 1
        });
        self.http2.borrow_mut().retain(|_, pool| {
            pool.conns.borrow_mut().retain(|conn| {
                let idle = conn.active.get() == 0;
                let gone = conn.facts.is_over(&conn.host, &conn.limits, || now)
                    || now - conn.idle_since.get() >= conn.limits.idle;
                !(conn.closed.get() || (idle && gone))
            });
            !pool.conns.borrow().is_empty() || Rc::strong_count(pool) > 1
        });
    }
}

/// Counts a connection that could not be made.
fn count_failure(cluster: &Cluster, host: &Host, error: &ConnectError) {
    let stats = &cluster.stats;
    stats.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
    host.state.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
    stats.cx_destroyed.fetch_add(1, Ordering::Relaxed);
    if matches!(error, ConnectError::Timeout) {
        stats.cx_connect_timeout.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether cluster and host allow one more connection.
fn may_connect(cluster: &Cluster, host: &Host, needs: &ConnectionNeeds) -> bool {
    let breaker = cluster.breaker(needs.high_priority);
    let limits = &breaker.limits;
    breaker.connections.get() < limits.max_connections
        && limits
            .max_connections_per_host
            .is_none_or(|max| host.state.cx_active.get() < max)
}

/// Lets one more request wait for a connection.
fn admit_pending(cluster: &Cluster, key: &Key) -> Result<Gauge, ConnectError> {
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
fn admit_request(cluster: &Cluster, key: &Key) -> Result<Gauge, ConnectError> {
    let breaker: &Breaker = cluster.breaker(key.needs.high_priority);
    let running = breaker.requests.admit(breaker.limits.max_requests);
    running.ok_or_else(|| overflow(&cluster.stats.rq_active_overflow))
}

fn overflow(refused: &AtomicU64) -> ConnectError {
    refused.fetch_add(1, Ordering::Relaxed);
    ConnectError::Overflow
}

/// The PROXY header of a connection; without a client's addresses it speaks for itself.
fn proxy_header(settings: &ProxyProtocol, proxied: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = Vec::new();
    match proxied {
        Some((source, destination)) if settings.version_1 => {
            write_v1(source, destination, &mut header);
        }
        None if settings.version_1 => header.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        addresses => {
            let tlvs = settings.added.iter();
            let tlvs = tlvs.map(|(kind, value)| (*kind, value.as_slice()));
            write_v2(addresses, tlvs, &mut header);
        }
    }
    header
}

fn pooled(
    stream: Stream,
    facts: ConnFacts,
    slot: Slot,
    cluster: &Cluster,
    host: &Arc<Host>,
) -> Box<Pooled> {
    let mut conn = Conn::new(stream);
    conn.set_proper_case(cluster.config.http.http1.proper_case);
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

struct DialGuard<'a> {
    pool: &'a Http2Pool,
    dialling: &'a Rc<Dialling>,
}

impl Drop for DialGuard<'_> {
    fn drop(&mut self) {
        *self.pool.dialling.borrow_mut() = None;
        self.dialling.done.notify_waiters();
    }
}

impl Http2Pool {
    fn usable(&self) -> Option<Rc<Http2Conn>> {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| !conn.closed.get());
        conns.iter().find(|conn| conn.has_room()).cloned()
    }

    async fn adopt(
        &self,
        stream: Stream,
        facts: ConnFacts,
        slot: Slot,
        cluster: &Cluster,
        host: &Arc<Host>,
    ) -> Result<Rc<Http2Conn>, ConnectError> {
        let options = &cluster.config.http.http2;
        let (stream, gather) = gather(stream);
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(options.initial_stream_window.unwrap_or(STREAM_WINDOW))
            .initial_connection_window_size(
                options
                    .initial_connection_window
                    .unwrap_or(CONNECTION_WINDOW),
            )
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ConnectError::Socket(error.to_string().into()))?;
        let conn = Rc::new(Http2Conn {
            send,
            active: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            closed: Cell::new(false),
            max_streams: options
                .max_concurrent_streams
                .map_or(DEFAULT_MAX_STREAMS, |max| max as usize),
            limits: Limits::of(cluster),
            facts,
            host: Arc::clone(host),
            slot,
            driver: RefCell::new(None),
        });
        let weak = Rc::downgrade(&conn);
        let mut keepalive = KeepAlive::new(connection.ping_pong(), options.keepalive);
        let driver = tokio::task::spawn_local(async move {
            let running = std::future::poll_fn(|cx| {
                if let Some(keepalive) = &mut keepalive
                    && keepalive.poll_dead(cx).is_ready()
                {
                    tracing::debug!("http2 upstream does not answer PINGs");
                    return std::task::Poll::Ready(Ok(()));
                }
                gather.poll_with(cx, |cx| Pin::new(&mut connection).poll(cx))
            });
            if let Err(error) = running.await {
                tracing::debug!(%error, "http2 upstream connection ended");
            }
            if let Some(conn) = weak.upgrade() {
                conn.closed.set(true);
            }
        });
        *conn.driver.borrow_mut() = Some(driver.abort_handle());
        self.conns.borrow_mut().push(Rc::clone(&conn));
        Ok(conn)
    }
}

impl Http2Conn {
    fn has_room(&self) -> bool {
        let limit = self
            .max_streams
            .min(self.send.current_max_send_streams().max(1));
        let served = self.limits.max_requests;
        let fresh = served.is_none_or(|max| self.served.get() < max)
            && !self.facts.is_over(&self.host, &self.limits, Instant::now);
        if self.closed.get() || !fresh || self.active.get() >= limit {
            return false;
        }
        // After GOAWAY or an error no new stream can be opened.
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let usable = !matches!(
            self.send.clone().poll_ready(&mut cx),
            std::task::Poll::Ready(Err(_))
        );
        if !usable {
            self.closed.set(true);
        }
        usable
    }

    fn lend(self: &Rc<Self>, cluster: &Cluster, key: &Key) -> Result<Http2Lease, ConnectError> {
        let running = admit_request(cluster, key)?;
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
        self.facts.measured.request();
        Ok(Http2Lease {
            conn: Rc::clone(self),
            send: self.send.clone(),
            _running: running,
        })
    }
}
