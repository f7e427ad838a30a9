//! `tcp_proxy`: bytes both ways, half-close, back-pressure, and the network filters before it.

mod peers;
mod tunnel;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use meltemi_filters::network::Refused;
use meltemi_filters::network::mongo::{Sender, Session};
use meltemi_telemetry::istio::TcpConnection;
use meltemi_traffic::Str;
use meltemi_traffic::access::{AccessLog, StreamInfo};
use meltemi_traffic::cluster::ClusterKind;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::headers::SimpleRequest;
use meltemi_traffic::listener::{NetworkFilterKind, TcpProxy};
use meltemi_traffic::metadata::{Criteria, Metadata};
use meltemi_traffic::rbac::AuthzFacts;
use meltemi_traffic::tls::PeerIdentity;
use meltemi_upstream::balance::Pick;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::host::Host;
use meltemi_upstream::outlier::Outcome;
use meltemi_upstream::output::high_water;
use meltemi_upstream::pool::{AlpnOffer, ConnFacts, ConnectionNeeds};
use meltemi_upstream::stream::{Stream, Told};
use meltemi_upstream::tls::TlsSession;
use meltemi_upstream::tunnel::Tunnel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::connection::ConnInfo;
use crate::idle::{IdleTimer, Ticker};
use crate::stats::TcpStats;
use tunnel::NoTunnel;

/// Copy buffers start small, for connections that say little, and grow with the traffic.
const SMALL_BUFFER: usize = 4 * 1024;

/// Filter state that names the cluster, whatever the configuration says.
const CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// Filter state with the server name that TLS to the upstream sends.
pub(crate) const SERVER_NAME: &str = "envoy.network.upstream_server_name";
/// Filter state with the protocols that TLS to the upstream offers, comma separated.
pub(crate) const PROTOCOLS: &str = "envoy.network.application_protocols";

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
    /// Who is at both ends, where that is exchanged.
    peers: peers::Peers,
}

impl Drop for Record {
    fn drop(&mut self) {
        peers::close(self);
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
        info.peers = self.peers.objects();
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

    /// So many bytes have passed from the client and from the upstream, in all.
    fn moved(&mut self, from_client: u64, from_upstream: u64) {
        if let Some(counted) = &self.counted {
            counted.received(from_client - self.bytes.0);
            counted.sent(from_upstream - self.bytes.1);
        }
        self.bytes = (from_client, from_upstream);
    }

    /// Remembers the upstream connection.
    fn connected(&mut self, facts: &ConnFacts) {
        self.local = facts.local;
        self.connection_id = facts.id;
        self.session.clone_from(&facts.session);
        self.peer.clone_from(&facts.peer);
    }

    fn new(info: &Rc<ConnInfo>, proxy: &Arc<TcpProxy>) -> Self {
        let target = proxy.target(fastrand::u64(..));
        let filters = &info.chain.config.filters;
        let by_name = filters
            .iter()
            .any(|filter| matches!(filter.kind, NetworkFilterKind::SniCluster));
        let cluster_name = if let Some(chosen) = info.state(CLUSTER) {
            chosen.clone()
        } else if by_name {
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
            peers: peers::Peers::default(),
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
    match connect(&mut record).await {
        Some(Upstream::Direct(upstream, facts)) => {
            record.connected(&facts);
            peers::open(&mut record, &stream, upstream.told());
            relay(&mut record, stream, upstream).await;
        }
        Some(Upstream::Tunnel(upstream)) => {
            record.connected(upstream.facts());
            peers::open(&mut record, &stream, None);
            relay(&mut record, stream, upstream).await;
        }
        None => {}
    }
}

/// The other side of a connection.
enum Upstream {
    /// A connection of its own.
    Direct(Stream, ConnFacts),
    /// A stream inside HTTP.
    Tunnel(Tunnel),
}

/// What bytes are copied to and from.
trait ServerSide: AsyncRead + AsyncWrite + Unpin {
    /// What the server has said of itself, where it is asked.
    fn told(&self) -> Option<&Told>;
}

impl ServerSide for Stream {
    fn told(&self) -> Option<&Told> {
        self.told()
    }
}

impl ServerSide for Tunnel {
    fn told(&self) -> Option<&Told> {
        None
    }
}

/// Copies until both sides are done, time is up, or the host is given up.
async fn relay(record: &mut Record, stream: Stream, upstream: impl ServerSide) {
    let proxy = Arc::clone(&record.proxy);
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
        let copied = copy(record, stream, upstream);
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
            filter_state: &info.filter_state,
        };
        info.chain.network.judge(&facts, &mut changed)
    });
    record.metadata = changed;
    judged
}

/// Connects, trying further hosts as configured.
async fn connect(record: &mut Record) -> Option<Upstream> {
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
        match dial(record, &cluster, &host).await {
            Ok(connected) => {
                cluster.report(&host, Outcome::ConnectedFinal);
                return Some(connected);
            }
            Err(NoTunnel::Connect(ConnectError::Overflow)) => {
                record.flags.add(ResponseFlags::UPSTREAM_OVERFLOW);
                return None;
            }
            Err(NoTunnel::Stream(error)) => {
                tracing::debug!(%error, "tunnel not opened");
                cluster.report(&host, Outcome::ConnectFailed);
            }
            Err(NoTunnel::Refused(status)) => {
                tracing::debug!(%status, "tunnel refused");
                cluster.report(&host, Outcome::ConnectFailed);
            }
            Err(NoTunnel::Connect(error)) => {
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

/// A connection to a host, or a tunnel through it.
async fn dial(record: &Record, cluster: &Cluster, host: &Arc<Host>) -> Result<Upstream, NoTunnel> {
    if let Some(settings) = &record.proxy.tunnel {
        let opened = tunnel::open(record, cluster, host, settings).await;
        return opened.map(Upstream::Tunnel);
    }
    let pools = &record.info.worker.pools;
    let needs = needs(record, host);
    match pools.connect(cluster, host, &needs).await {
        Ok((stream, facts)) => Ok(Upstream::Direct(stream, facts)),
        Err(error) => Err(NoTunnel::Connect(error)),
    }
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
    let info = &record.info;
    let proxied = host.transport.proxy_protocol.as_ref();
    let alpn = info.state(PROTOCOLS).map(|list| {
        let offers = list.split(',').filter(|offer| !offer.is_empty());
        Arc::new(AlpnOffer(offers.map(|offer| offer.into()).collect()))
    });
    ConnectionNeeds {
        proxied: proxied.map(|_| (info.remote, info.local)),
        sni: info.state(SERVER_NAME).cloned(),
        alpn,
        ..ConnectionNeeds::default()
    }
}

fn source_hash(ip: std::net::IpAddr) -> u64 {
    meltemi_traffic::hash::xx64(ip.to_string().as_bytes(), 0)
}

/// One direction of a copy.
struct OneWay {
    buffer: BytesMut,
    /// Grows while reads fill it.
    size: usize,
    state: CopyState,
    bytes: u64,
    unflushed: bool,
    /// Reads along.
    reader: Option<Along>,
    /// Largest copy buffer: bytes for a connection that takes no more.
    most: usize,
    /// Until then bytes that were read are held up.
    held: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Who reads one direction along.
type Along = (Rc<RefCell<Session>>, Sender);

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
    /// To the upstream and back, each with its side's buffer limit.
    fn both(record: &Record) -> (Self, Self) {
        let of_cluster = record.cluster.as_ref();
        let of_cluster = of_cluster.map_or(0, |cluster| cluster.config.buffer_limit);
        let of_listener = record.info.listener.config.buffer_limit;
        (Self::new(of_cluster), Self::new(of_listener))
    }

    /// Towards a connection with this buffer limit.
    fn new(buffer_limit: u32) -> Self {
        let most = high_water(buffer_limit);
        Self {
            buffer: BytesMut::new(),
            size: SMALL_BUFFER.min(most),
            most,
            state: CopyState::Running,
            bytes: 0,
            unflushed: false,
            reader: None,
            held: None,
        }
    }

    /// Moves bytes until one side has to wait. Ready when the end was passed on. While `gate` is closed, bytes that
    /// were read stay here: the caller judges them and opens it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        idle: &mut IdleTimer,
        gate: &mut Gate,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(held) = &mut self.held {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                ready!(held.as_mut().poll(cx));
                self.held = None;
            }
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

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() < self.size {
            self.buffer.reserve(self.size);
        }
        let before = self.buffer.len();
        let read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(from, &mut self.buffer));
        let count = ready!(read.poll(cx))?;
        if let Some((session, sender)) = &self.reader {
            let delay = session.borrow_mut().read(*sender, &self.buffer[before..]);
            self.held = delay.map(|delay| Box::pin(tokio::time::sleep(delay)));
        }
        if count >= self.size {
            self.size = self.most;
        }
        Poll::Ready(Ok(count))
    }
}

/// Copies both ways until both ends were passed on, one side failed, or nothing moved for too long.
async fn copy(record: &mut Record, mut client: Stream, mut upstream: impl ServerSide) {
    let mut idle = IdleTimer::new(record.proxy.idle_timeout);
    let (mut up, mut down) = OneWay::both(record);
    let along = record.info.chain.network.reads_mongo();
    let along = along.map(|session| Rc::new(RefCell::new(session)));
    if let Some(session) = &along {
        up.reader = Some((Rc::clone(session), Sender::Client));
        down.reader = Some((Rc::clone(session), Sender::Server));
    }
    let mut gate = if record.info.chain.network.judges() {
        Gate::Closed
    } else {
        Gate::Open
    };
    let mut delay = None;
    let mut periodic = Ticker::new(record.proxy.log_interval);
    std::future::poll_fn(|cx| {
        let mut sent = up.poll(cx, &mut client, &mut upstream, &mut idle, &mut gate);
        let awaited = record.peers.awaited();
        if awaited && peers::listen(record, &client, upstream.told()) && gate == Gate::Closed {
            // Who the client is counts as its first word.
            gate = Gate::Waiting;
        }
        if let Some(session) = &along {
            session.borrow().publish(&mut record.metadata);
        }
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
        if awaited {
            peers::listen(record, &client, upstream.told());
        }
        record.moved(up.bytes, down.bytes);
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
        idle.poll(cx)
            .map(|()| record.count(|stats| &stats.idle_timeout))
    })
    .await;
    if let Some(session) = &along {
        session.borrow().publish(&mut record.metadata);
        session.borrow_mut().close(up.state != CopyState::Running);
    }
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
}
