//! `tcp_proxy`: bytes both ways, half-close, back-pressure, and the network filters before it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use meltemi_filters::network::Refused;
use meltemi_telemetry::istio::{
    Labels, Protocol, Reporter, Service, ServiceFacts, TcpConnection, WorkloadMetadata,
};
use meltemi_traffic::Str;
use meltemi_traffic::access::{AccessLog, StreamInfo};
use meltemi_traffic::cluster::ClusterKind;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::headers::SimpleRequest;
use meltemi_traffic::listener::{Direction, NetworkFilterKind, TcpProxy};
use meltemi_traffic::metadata::{Criteria, Metadata};
use meltemi_traffic::rbac::AuthzFacts;
use meltemi_traffic::tls::PeerIdentity;
use meltemi_upstream::balance::Pick;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::host::Host;
use meltemi_upstream::outlier::Outcome;
use meltemi_upstream::pool::{ConnFacts, ConnectionNeeds};
use meltemi_upstream::stream::Stream;
use meltemi_upstream::tls::TlsSession;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::connection::ConnInfo;
use crate::idle::{IdleTimer, Ticker};
use crate::stats::TcpStats;

/// Copy buffers start small, for connections that say little, and grow with the traffic.
const SMALL_BUFFER: usize = 4 * 1024;
/// Largest copy buffer: what one read of a busy socket yields.
const LARGE_BUFFER: usize = 64 * 1024;

/// What is remembered of a connection until it is logged, once, when this is dropped.
struct Record {
    info: Rc<ConnInfo>,
    proxy: Arc<TcpProxy>,
    started: std::time::Duration,
    clock: Instant,
    flags: ResponseFlags,
    details: std::borrow::Cow<'static, str>,
    metadata: Metadata,
    cluster_name: Str,
    criteria: Criteria,
    cluster: Option<Arc<Cluster>>,
    host: Option<Arc<Host>>,
    failure: Str,
    local: Option<std::net::SocketAddr>,
    connection_id: u64,
    session: Option<Arc<TlsSession>>,
    peer: Option<Arc<PeerIdentity>>,
    attempts: u32,
    /// From the client, to the client.
    bytes: (u64, u64),
    counted: Option<TcpConnection>,
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(stats) = &self.info.chain.tcp {
            stats.received.fetch_add(self.bytes.0, Ordering::Relaxed);
            stats.sent.fetch_add(self.bytes.1, Ordering::Relaxed);
        }
        let of_listener = &self.info.listener.config.access_log;
        self.log("TcpConnectionEnd", &[&self.proxy.access_log, of_listener]);
    }
}

impl Record {
    fn count(&self, counter: impl FnOnce(&TcpStats) -> &AtomicU64) {
        if let Some(stats) = &self.info.chain.tcp {
            crate::stats::count(counter(stats));
        }
    }

    /// Writes an entry before the connection's end; the listener's logs have none of these.
    fn log_early(&self, log_type: &'static str) {
        self.log(log_type, &[&self.proxy.access_log]);
    }

    fn log(&self, log_type: &'static str, lists: &[&Vec<AccessLog>]) {
        if lists.iter().all(|logs| logs.is_empty()) {
            return;
        }
        let stream_id = crate::http::new_request_id();
        let stream_id = String::from_utf8_lossy(&stream_id);
        let mut info = StreamInfo {
            start: self.started,
            duration: Some(self.clock.elapsed()),
            flags: self.flags,
            response_code: Some(0),
            connection_termination_details: &self.details,
            metadata: Some(&self.metadata),
            bytes_received: self.bytes.0,
            bytes_sent: self.bytes.1,
            upstream_connection_id: self.connection_id,
            upstream_wire: self.bytes,
            downstream_wire: self.bytes,
            stream_id: &stream_id,
            upstream_failure: &self.failure,
            upstream_local: self.local,
            attempts: self.attempts,
            log_type,
            ..StreamInfo::default()
        };
        self.info.describe(&mut info);
        if let Some(cluster) = &self.cluster {
            info.upstream_cluster = cluster.stat_name();
            info.upstream_cluster_raw = &self.cluster_name;
            info.cluster_metadata = Some(&cluster.config.metadata);
        }
        if let Some(host) = &self.host {
            info.upstream_host = Some(&host.address);
            info.upstream_hostname = &host.endpoint.hostname;
            info.host_metadata = Some(&host.endpoint.metadata);
        }
        info.upstream_tls.peer = self.peer.as_deref();
        if let Some(session) = &self.session {
            info.upstream_tls.version = session.version;
            info.upstream_tls.cipher = session.cipher;
            info.upstream_tls.server_name = &session.server_name;
            info.upstream_tls.local = session.local.as_deref();
        }
        let shared = &self.info.worker.shared;
        for logs in lists {
            if !logs.is_empty() {
                shared
                    .logs
                    .record(shared, logs, &info, Default::default(), fastrand::u64(..));
            }
        }
    }

    fn new(info: &Rc<ConnInfo>, proxy: &Arc<TcpProxy>) -> Self {
        let target = proxy.target(fastrand::u64(..));
        let filters = &info.chain.config.filters;
        let by_name = filters
            .iter()
            .any(|filter| matches!(filter.kind, NetworkFilterKind::SniCluster));
        let cluster_name = if by_name {
            info.inspected.server_name.clone()
        } else {
            target.map_or_else(Str::default, |target| target.cluster.clone())
        };
        Self {
            started: crate::logs::now(),
            clock: Instant::now(),
            flags: ResponseFlags::NONE,
            details: "".into(),
            metadata: info.metadata.clone(),
            cluster_name,
            criteria: target.map_or_else(Vec::new, |target| target.criteria.clone()),
            cluster: None,
            host: None,
            failure: Str::default(),
            local: None,
            connection_id: 0,
            session: None,
            peer: None,
            attempts: 0,
            bytes: (0, 0),
            counted: None,
            info: Rc::clone(info),
            proxy: Arc::clone(proxy),
        }
    }
}

/// Serves one connection.
pub(crate) async fn serve(info: Rc<ConnInfo>, proxy: Arc<TcpProxy>, stream: Stream) {
    let mut record = Record::new(&info, &proxy);
    record.count(|stats| &stats.cx_total);
    let _room = match info.chain.network.open() {
        Ok(room) => room,
        Err(refused) => {
            record.flags.add(refused.flags);
            tokio::time::sleep(refused.delay.unwrap_or_default()).await;
            return;
        }
    };
    let Some((upstream, facts)) = connect(&mut record).await else {
        return;
    };
    record.local = facts.local;
    record.connection_id = facts.id;
    record.session.clone_from(&facts.session);
    record.peer.clone_from(&facts.peer);
    record.counted = count(&record, &facts);
    if proxy.log_on_connected {
        record.log_early("TcpUpstreamConnected");
    }
    let host = record.host.clone();
    let _active = host.as_ref().map(|host| host.state.active.enter());
    let closes = record
        .cluster
        .as_ref()
        .is_some_and(|cluster| cluster.config.close_on_health_failure);
    let copied = async {
        let copied = copy(&mut record, stream, upstream);
        match &host {
            Some(host) if closes => tokio::select! {
                biased;
                () = host.state.given_up() => {}
                () = copied => {}
            },
            _ => copied.await,
        }
    };
    match proxy.max_duration {
        Some(limit) => {
            if tokio::time::timeout(limit, copied).await.is_err() {
                record.flags.add(ResponseFlags::DURATION_TIMEOUT);
                record.count(|stats| &stats.max_duration);
            }
        }
        None => copied.await,
    }
}

/// Judges the connection, whose client speaks.
fn judge(record: &mut Record) -> Result<(), Refused> {
    let info = Rc::clone(&record.info);
    let metadata = std::mem::take(&mut record.metadata);
    let mut changed = metadata.clone();
    let judged = info.with_facts(|connection| {
        let facts = AuthzFacts::<SimpleRequest> {
            request: None,
            connection,
            remote_ip: info.remote.ip(),
            tls: info.tls.is_some(),
            peer: info.tls.as_ref().and_then(|tls| tls.peer.as_ref()),
            metadata: Some(&metadata),
            filter_state: &[],
        };
        info.chain.network.judge(&facts, &mut changed)
    });
    record.metadata = changed;
    judged
}

/// Connects, trying further hosts as configured.
async fn connect(record: &mut Record) -> Option<(Stream, ConnFacts)> {
    let worker = Rc::clone(&record.info.worker);
    let Some(cluster) = worker.shared.clusters.get(&record.cluster_name) else {
        record.flags.add(ResponseFlags::NO_CLUSTER_FOUND);
        record.count(|stats| &stats.no_route);
        return None;
    };
    record.cluster = Some(Arc::clone(&cluster));
    let mut tried = Vec::new();
    for _ in 0..record.proxy.max_connect_attempts.max(1) {
        let host = pick(record, &cluster, &tried);
        let Some(host) = host else {
            cluster
                .stats
                .rq_none_healthy
                .fetch_add(1, Ordering::Relaxed);
            record.flags.add(ResponseFlags::NO_HEALTHY_UPSTREAM);
            return None;
        };
        record.attempts += 1;
        record.host = Some(Arc::clone(&host));
        tried.push(host.state.id);
        match worker
            .pools
            .connect(&cluster, &host, &needs(record, &host))
            .await
        {
            Ok(connected) => {
                cluster.report(&host, Outcome::ConnectedFinal);
                return Some(connected);
            }
            Err(ConnectError::Overflow) => {
                record.flags.add(ResponseFlags::UPSTREAM_OVERFLOW);
                return None;
            }
            Err(error) => {
                let slow = matches!(error, ConnectError::Timeout);
                let outcome = if slow {
                    Outcome::Timeout
                } else {
                    Outcome::ConnectFailed
                };
                cluster.report(&host, outcome);
                record.failure = error.transport_failure().unwrap_or_default();
            }
        }
    }
    record.flags.add(
        ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
    );
    None
}

/// The host of the next attempt.
fn pick(record: &Record, cluster: &Cluster, tried: &[u64]) -> Option<Arc<Host>> {
    if let ClusterKind::OriginalDst(settings) = &cluster.config.kind {
        let mut destination = record.info.restored_destination()?;
        if let Some(port) = settings.port_override {
            destination.set_port(port);
        }
        return Some(cluster.original_destination(destination));
    }
    let by_source = record.proxy.hash_source_ip;
    let pick = Pick {
        hash: by_source.then(|| source_hash(record.info.remote.ip())),
        avoid: tried,
        attempts: 3,
        criteria: &record.criteria,
        ..Pick::default()
    };
    record.info.worker.pools.pick(cluster, &pick)
}

/// What the connection must be like.
fn needs(record: &Record, host: &Host) -> ConnectionNeeds {
    let proxied = host.transport.proxy_protocol.as_ref();
    ConnectionNeeds {
        proxied: proxied.map(|_| (record.info.remote, record.info.local)),
        ..ConnectionNeeds::default()
    }
}

fn source_hash(ip: std::net::IpAddr) -> u64 {
    meltemi_traffic::hash::xx64(ip.to_string().as_bytes(), 0)
}

/// Counts the connection in Istio's metrics, when the chain has `istio.stats`.
fn count(record: &Record, facts: &ConnFacts) -> Option<TcpConnection> {
    let info = &record.info;
    let has_stats = |kind: &NetworkFilterKind| matches!(kind, NetworkFilterKind::IstioStats(_));
    info.chain
        .config
        .filters
        .iter()
        .find(|filter| has_stats(&filter.kind))?;
    let shared = &info.worker.shared;
    let inbound = info.listener.config.direction == Direction::Inbound;
    let (peer_principal, local_principal) = if inbound {
        let own = info
            .tls
            .as_ref()
            .and_then(|tls| tls.local_uris.first().cloned());
        (
            info.peer_principal().cloned(),
            own.filter(|_| info.is_mutual_tls()),
        )
    } else {
        let peer = facts
            .peer
            .as_ref()
            .and_then(|peer| peer.uri_sans.first().cloned());
        (peer, shared.own_principal().filter(|_| facts.tls))
    };
    let workload = record
        .host
        .as_ref()
        .and_then(|host| host.endpoint.istio_workload())
        .filter(|_| !inbound);
    let known = record
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.service.clone());
    let labels = Labels {
        reporter: if inbound {
            Reporter::Destination
        } else {
            Reporter::Source
        },
        protocol: Protocol::Tcp,
        peer: workload.and_then(|text| {
            shared
                .peers
                .get(text.as_bytes(), |_| WorkloadMetadata::from_endpoint(text))
        }),
        peer_principal: peer_principal.unwrap_or_default(),
        local_principal: local_principal.unwrap_or_default(),
        service: known.unwrap_or_else(|| {
            Service::resolve(&ServiceFacts {
                cluster: &record.cluster_name,
                ..ServiceFacts::default()
            })
        }),
    };
    Some(shared.istio.edge(&labels).connection(&record.flags.short()))
}

/// One direction of a copy.
struct OneWay {
    buffer: BytesMut,
    /// Grows while reads fill it.
    size: usize,
    state: CopyState,
    bytes: u64,
    unflushed: bool,
}

/// Whether bytes may go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Closed for the next bytes.
    Closed,
    /// Bytes wait before it.
    Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CopyState {
    Running,
    /// The source ended; its end is to be passed on.
    Ending,
    Done,
}

impl OneWay {
    fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            size: SMALL_BUFFER,
            state: CopyState::Running,
            bytes: 0,
            unflushed: false,
        }
    }

    /// Moves bytes until one side has to wait. Ready when the end was passed on. While `gate` is closed, bytes that
    /// were read stay here: the caller judges them and opens it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        idle: &mut IdleTimer,
        gate: &mut Gate,
    ) -> Poll<io::Result<()>> {
        loop {
            if *gate == Gate::Closed && !self.buffer.is_empty() {
                *gate = Gate::Waiting;
            }
            if *gate == Gate::Waiting {
                return Poll::Pending;
            }
            while !self.buffer.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(written);
                self.bytes += written as u64;
                self.unflushed = true;
                idle.touch();
            }
            match self.state {
                CopyState::Done => return Poll::Ready(Ok(())),
                CopyState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = CopyState::Done;
                    continue;
                }
                CopyState::Running => {}
            }
            match self.poll_read(cx, from) {
                Poll::Ready(Ok(0)) => self.state = CopyState::Ending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    // An idle connection holds no buffer.
                    self.buffer = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Stream) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() < self.size {
            self.buffer.reserve(self.size);
        }
        let read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(from, &mut self.buffer));
        let count = ready!(read.poll(cx))?;
        if count >= self.size {
            self.size = LARGE_BUFFER;
        }
        Poll::Ready(Ok(count))
    }
}

/// Copies both ways until both ends were passed on, one side failed, or nothing moved for too long.
async fn copy(record: &mut Record, mut client: Stream, mut upstream: Stream) {
    let mut idle = IdleTimer::new(record.proxy.idle_timeout);
    let (mut up, mut down) = (OneWay::new(), OneWay::new());
    let mut gate = if record.info.chain.network.judges() {
        Gate::Closed
    } else {
        Gate::Open
    };
    let mut delay = None;
    let mut periodic = Ticker::new(record.proxy.log_interval);
    std::future::poll_fn(|cx| {
        let mut sent = up.poll(cx, &mut client, &mut upstream, &mut idle, &mut gate);
        while gate == Gate::Waiting {
            if let Err(refused) = judge(record) {
                record.bytes.0 += up.buffer.len() as u64;
                record.details = refused.details.into();
                record.flags.add(refused.flags);
                delay = refused.delay;
                return Poll::Ready(());
            }
            gate = Gate::Open;
            sent = up.poll(cx, &mut client, &mut upstream, &mut idle, &mut gate);
            if record.info.chain.network.judges_all() {
                gate = Gate::Closed;
            }
        }
        let received = down.poll(cx, &mut upstream, &mut client, &mut idle, &mut Gate::Open);
        if let Some(counted) = &record.counted {
            counted.received(up.bytes - record.bytes.0);
            counted.sent(down.bytes - record.bytes.1);
        }
        record.bytes = (up.bytes, down.bytes);
        while periodic.ticks(cx) {
            record.log_early("TcpPeriodic");
        }
        match (sent, received) {
            (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_)))
            | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready(());
            }
            _ => {}
        }
        let idle = idle.poll(cx);
        if idle.is_ready() {
            record.count(|stats| &stats.idle_timeout);
        }
        idle
    })
    .await;
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
}
