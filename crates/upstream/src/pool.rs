//! Connections of one worker, kept for reuse.
//!
//! HTTP/1: one request at a time on a connection, the most recently used idle one is taken first. HTTP/2: one
//! connection until its peer's stream limit is reached, then another; whoever asks while one is being dialled
//! waits for it. A pool belongs to one worker thread and is never locked; counters that the process shares are
//! atomics of the host and cluster.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use h2::client::SendRequest;
use meltemi_traffic::Str;
use meltemi_traffic::balance::PickState;
use meltemi_traffic::cluster::UpstreamProtocol;
use meltemi_traffic::tls::PeerIdentity;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::Pick;
use crate::cluster::{Cluster, Gauge, Host, Transport};
use crate::connect::{ConnectError, Dial, SocketDefaults, dial};
use crate::gather::gather;
use crate::http1::Conn;
use crate::stream::Stream;
use crate::tls::peer_identity;

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
    /// Our address.
    pub local: Option<std::net::SocketAddr>,
    /// TLS is on.
    pub tls: bool,
    /// The peer's verified identity.
    pub peer: Option<PeerIdentity>,
    _active: Gauge,
    _host_active: Gauge,
}

/// The pools of one worker.
#[derive(Debug)]
pub struct Pools {
    #[allow(
        clippy::vec_box,
        reason = "the box is lent as it is; moving half a kilobyte in and out costs more"
    )]
    http1: RefCell<AHashMap<Key, Vec<Box<Pooled>>>>,
    http2: RefCell<AHashMap<Key, Rc<Http2Pool>>>,
    /// Balancing positions by cluster.
    picks: RefCell<AHashMap<Str, PickState>>,
    defaults: SocketDefaults,
}

/// A pooled HTTP/1 connection; boxed once, so that lending it moves a pointer.
#[derive(Debug)]
struct Pooled {
    conn: Conn,
    facts: ConnFacts,
    host: Arc<Host>,
    since: Instant,
    expires: Duration,
    served: u32,
}

#[derive(Debug, Default)]
struct Http2Pool {
    conns: RefCell<Vec<Rc<Http2Conn>>>,
    dialling: RefCell<Option<Rc<Dialling>>>,
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
    max_requests: Option<u32>,
    idle_timeout: Duration,
    facts: ConnFacts,
    host: Arc<Host>,
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
    max_requests: Option<u32>,
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
            max_requests,
        } = self;
        pooled.served += 1;
        let done =
            max_requests.is_some_and(|max| pooled.served >= max) || pooled.host.state.is_removed();
        if done {
            return;
        }
        pooled.conn.release_buffers();
        pooled.since = Instant::now();
        let mut lists = pools.http1.borrow_mut();
        let idle = lists.entry(key).or_default();
        if idle.len() < MAX_IDLE_PER_KEY {
            idle.push(pooled);
        }
    }
}

/// Room for one HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Lease {
    conn: Rc<Http2Conn>,
    send: SendRequest<Bytes>,
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
        cluster.hosts.load().pick(state, pick).cloned()
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
        match protocol {
            UpstreamProtocol::Http2 => self.acquire_http2(cluster, host, key).await,
            UpstreamProtocol::Auto => self.acquire_auto(cluster, host, key).await,
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => {
                if let Some(lease) = self.take_idle(&key, cluster) {
                    return Ok(Lease::Http1(lease));
                }
                let (stream, facts) = self.connect(cluster, host, needs).await?;
                Ok(Lease::Http1(
                    self.lease_http1(stream, facts, cluster, host, key),
                ))
            }
        }
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
        let breaker = cluster.breaker(needs.high_priority);
        let Some(active) = breaker.connections.admit(breaker.limits.max_connections) else {
            cluster.stats.cx_overflow.fetch_add(1, Ordering::Relaxed);
            return Err(ConnectError::Overflow);
        };
        let transport: &Transport = &host.transport;
        let result = dial(Dial {
            target: &host.target,
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
                cluster.stats.cx_total.fetch_add(1, Ordering::Relaxed);
                host.state.cx_total.fetch_add(1, Ordering::Relaxed);
                let peer = stream.tls().and_then(|state| peer_identity(state, true));
                let facts = ConnFacts {
                    local: stream.socket().local_addr(),
                    tls: stream.tls().is_some(),
                    peer,
                    _active: active,
                    _host_active: host.state.cx_active.enter(),
                };
                Ok((stream, facts))
            }
            Err(error) => {
                cluster
                    .stats
                    .cx_connect_fail
                    .fetch_add(1, Ordering::Relaxed);
                host.state.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
                if matches!(error, ConnectError::Timeout) {
                    cluster
                        .stats
                        .cx_connect_timeout
                        .fetch_add(1, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    fn take_idle(self: &Rc<Self>, key: &Key, cluster: &Cluster) -> Option<Http1Lease> {
        let mut pools = self.http1.borrow_mut();
        let list = pools.get_mut(key)?;
        while let Some(mut pooled) = list.pop() {
            if pooled.conn.is_reusable() {
                return Some(Http1Lease {
                    pooled,
                    pools: Rc::clone(self),
                    key: key.clone(),
                    max_requests: cluster.config.http.max_requests_per_connection,
                });
            }
        }
        None
    }

    fn lease_http1(
        self: &Rc<Self>,
        stream: Stream,
        facts: ConnFacts,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Http1Lease {
        let pooled = Pooled {
            conn: Conn::new(stream),
            facts,
            host: Arc::clone(host),
            since: Instant::now(),
            expires: cluster.config.http.idle_timeout.unwrap_or(DEFAULT_IDLE),
            served: 0,
        };
        Http1Lease {
            pooled: Box::new(pooled),
            pools: Rc::clone(self),
            key,
            max_requests: cluster.config.http.max_requests_per_connection,
        }
    }

    async fn acquire_auto(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<Lease, ConnectError> {
        let pool = self.http2_pool(&key);
        if let Some(lease) = pool.usable() {
            return Ok(Lease::Http2(lease));
        }
        if let Some(lease) = self.take_idle(&key, cluster) {
            return Ok(Lease::Http1(lease));
        }
        let (stream, facts) = self.connect(cluster, host, &key.needs).await?;
        if stream.alpn() == Some(b"h2") {
            return Ok(Lease::Http2(
                pool.adopt(stream, facts, cluster, host).await?,
            ));
        }
        Ok(Lease::Http1(
            self.lease_http1(stream, facts, cluster, host, key),
        ))
    }

    async fn acquire_http2(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<Lease, ConnectError> {
        let pool = self.http2_pool(&key);
        loop {
            if let Some(lease) = pool.usable() {
                return Ok(Lease::Http2(lease));
            }
            let waiting_for = pool.dialling.borrow().clone();
            let Some(dialling) = waiting_for else { break };
            dialling.done.notified().await;
            if let Some(failure) = dialling.failure.borrow().clone() {
                return Err(failure);
            }
        }
        let dialling = Rc::new(Dialling::default());
        *pool.dialling.borrow_mut() = Some(Rc::clone(&dialling));
        // Also when this future is dropped: the waiters wake up and one of them dials.
        let _guard = DialGuard {
            pool: &pool,
            dialling: &dialling,
        };
        let result = match self.connect(cluster, host, &key.needs).await {
            Ok((stream, facts)) => pool.adopt(stream, facts, cluster, host).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            *dialling.failure.borrow_mut() = Some(error.clone());
        }
        result.map(Lease::Http2)
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
            list.retain_mut(|idle| {
                !idle.host.state.is_removed()
                    && now - idle.since < idle.expires
                    && idle.conn.is_reusable()
            });
            !list.is_empty()
        });
        self.http2.borrow_mut().retain(|_, pool| {
            pool.conns.borrow_mut().retain(|conn| {
                let idle = conn.active.get() == 0;
                let gone = conn.host.state.is_removed()
                    || now - conn.idle_since.get() >= conn.idle_timeout;
                !(conn.closed.get() || (idle && gone))
            });
            !pool.conns.borrow().is_empty() || pool.dialling.borrow().is_some()
        });
    }
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
    fn usable(&self) -> Option<Http2Lease> {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| !conn.closed.get());
        let conn = conns.iter().find(|conn| conn.has_room())?;
        Some(conn.lease())
    }

    async fn adopt(
        &self,
        stream: Stream,
        facts: ConnFacts,
        cluster: &Cluster,
        host: &Arc<Host>,
    ) -> Result<Http2Lease, ConnectError> {
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
            max_requests: cluster.config.http.max_requests_per_connection,
            idle_timeout: cluster.config.http.idle_timeout.unwrap_or(DEFAULT_IDLE),
            facts,
            host: Arc::clone(host),
            driver: RefCell::new(None),
        });
        let weak = Rc::downgrade(&conn);
        let driver = tokio::task::spawn_local(async move {
            let driven = std::future::poll_fn(|cx| {
                gather.poll_with(cx, |cx| Pin::new(&mut connection).poll(cx))
            });
            if let Err(error) = driven.await {
                tracing::debug!(%error, "http2 upstream connection ended");
            }
            if let Some(conn) = weak.upgrade() {
                conn.closed.set(true);
            }
        });
        *conn.driver.borrow_mut() = Some(driver.abort_handle());
        self.conns.borrow_mut().push(Rc::clone(&conn));
        Ok(conn.lease())
    }
}

impl Http2Conn {
    fn has_room(&self) -> bool {
        let limit = self
            .max_streams
            .min(self.send.current_max_send_streams().max(1));
        let fresh = self.max_requests.is_none_or(|max| self.served.get() < max);
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

    fn lease(self: &Rc<Self>) -> Http2Lease {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
        Http2Lease {
            conn: Rc::clone(self),
            send: self.send.clone(),
        }
    }
}
