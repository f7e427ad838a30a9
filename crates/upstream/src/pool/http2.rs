//! HTTP/2: one connection until its peer's stream limit is reached, then another; whoever asks while one is being
//! dialled waits for it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::waiting::{Shared, Slot, admit_pending, admit_request};
use super::{ConnFacts, Key, Lease, Limits, Pools};
use crate::breaker::Gauge;
use crate::cluster::Cluster;
use crate::connect::ConnectError;
use crate::gather::gather;
use crate::host::Host;
use crate::http2::send_buffer;
use crate::keepalive::KeepAlive;
use crate::stream::Stream;

/// Windows of HTTP/2 connections where the configuration says nothing. Envoy offers 16 MiB; a stream's window is
/// memory that a fast upstream can fill while its client is slow, so ours stay below the growth that one stream may cause.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams at once on one connection where neither side says less.
const DEFAULT_MAX_STREAMS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Http2Pool {
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
pub(super) struct Http2Conn {
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
    /// Drops connections that closed, and those without streams that were idle for too long or whose host is gone.
    pub(super) fn sweep_http2(&self, now: Instant) {
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

    pub(super) async fn acquire_http2(
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

    pub(super) fn http2_pool(&self, key: &Key) -> Rc<Http2Pool> {
        let mut pools = self.http2.borrow_mut();
        if let Some(pool) = pools.get(key) {
            return Rc::clone(pool);
        }
        let pool = Rc::<Http2Pool>::default();
        pools.insert(key.clone(), Rc::clone(&pool));
        pool
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
    pub(super) fn usable(&self) -> Option<Rc<Http2Conn>> {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| !conn.closed.get());
        conns.iter().find(|conn| conn.has_room()).cloned()
    }

    pub(super) async fn adopt(
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
            .max_send_buffer_size(send_buffer(cluster.config.buffer_limit))
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

    pub(super) fn lend(
        self: &Rc<Self>,
        cluster: &Cluster,
        key: &Key,
    ) -> Result<Http2Lease, ConnectError> {
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
