//! Connections of one worker, kept for reuse: `http1`, `http2`, and `negotiated` where TLS decides between them.
//!
//! A pool belongs to one worker thread and is never locked; counters that the process shares are atomics of the host
//! and cluster.

mod http1;
mod http2;
mod negotiated;
mod waiting;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use meltemi_traffic::Str;
use meltemi_traffic::balance::PickState;
use meltemi_traffic::cluster::{ProxyProtocol, UpstreamFilter, UpstreamProtocol};
use meltemi_traffic::tls::PeerIdentity;
use meltemi_wire::proxy_header::{write_v1, write_v2};
use tokio::time::Instant;

use crate::balance::Pick;
use crate::breaker::Gauge;
use crate::cluster::{Cluster, Transport, next_id};
use crate::connect::{ConnectError, Dial, SocketDefaults, dial};
use crate::distribution::Measured;
use crate::host::Host;
use crate::stream::Stream;
use crate::tls::{TlsSession, peer_identity};
pub use http1::Http1Lease;
use http1::Http1Pool;
pub use http2::Http2Lease;
use http2::Http2Pool;
use waiting::may_connect;

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
    /// No further request: the host or its cluster is gone or gives its connections up, or the connection has lived long
    /// enough.
    fn is_over(&self, host: &Host, cluster: &Limits, now: impl FnOnce() -> Instant) -> bool {
        host.state.is_removed()
            || host.transport.is_retired()
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

/// The pools of one worker.
#[derive(Debug)]
pub struct Pools {
    http1: RefCell<AHashMap<Key, Http1Pool>>,
    http2: RefCell<AHashMap<Key, Rc<Http2Pool>>>,
    /// Balancing positions by cluster.
    picks: RefCell<AHashMap<Str, PickState>>,
    defaults: SocketDefaults,
    /// Who we are, for clusters whose connections exchange metadata.
    preamble: Bytes,
}

/// A connection lent for one exchange.
#[derive(Debug)]
pub enum Lease {
    /// HTTP/1: the connection itself.
    Http1(Http1Lease),
    /// HTTP/2: room for one stream.
    Http2(Http2Lease),
}

impl Pools {
    /// Empty pools of a worker. `preamble` goes first where a cluster exchanges metadata
    /// ([`peer_exchange`](meltemi_wire::peer_exchange)).
    pub fn new(defaults: SocketDefaults, preamble: Bytes) -> Rc<Self> {
        Rc::new(Self {
            http1: RefCell::default(),
            http2: RefCell::default(),
            picks: RefCell::default(),
            defaults,
            preamble,
        })
    }

    /// Begins the connection with preambles where the cluster asks for it and the peer agreed to it.
    fn introduce(&self, cluster: &Cluster, stream: Stream) -> Stream {
        let exchanges = cluster.config.filters.iter().any(|filter| match filter {
            UpstreamFilter::MetadataExchange { protocol } => {
                stream.alpn() == Some(protocol.as_bytes())
            }
        });
        if exchanges {
            stream.exchanging(self.preamble.clone())
        } else {
            stream
        }
    }

    /// Picks a host by the cluster's policy.
    pub fn pick(&self, cluster: &Cluster, pick: &Pick<'_>) -> Option<Arc<Host>> {
        let mut picks = self.picks.borrow_mut();
        let name = &cluster.config.name;
        let state = match picks.get_mut(name) {
            Some(state) => state,
            None => picks.entry(name.clone()).or_default(),
        };
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
                Ok((self.introduce(cluster, stream), facts))
            }
            Err(error) => {
                count_failure(cluster, host, &error);
                Err(error)
            }
        }
    }

    /// Drops connections that closed, were idle for too long, or whose host is gone. Call every [`SWEEP_INTERVAL`].
    pub fn sweep(&self) {
        let now = Instant::now();
        self.sweep_http1(now);
        self.sweep_http2(now);
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
