//! What is remembered of an exchange until its end, and the one place where it is recorded.
//!
//! An [`Exchange`] records itself exactly once: when it is finished, or, should its task be dropped before that, when
//! it is dropped.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;
use meltemi_filters::istio::object::PeerObject;
use meltemi_traffic::Str;
use meltemi_traffic::access::{Heads, Protocol, StreamInfo, Times, Tls, grpc_status_of};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::metadata::Metadata;
use meltemi_traffic::mutation::{HeaderOp, apply_request};
use meltemi_traffic::route::Route;
use meltemi_upstream::clock;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::exchange::{BodyKind, ResponseLength};
use meltemi_upstream::host::Host;
use meltemi_upstream::pool::ConnFacts;
use meltemi_upstream::tls::TlsSession;
use meltemi_wire::grpc::MessageCounter;
use tokio::time::Instant;

use super::context::Context as Connection;
use super::early::{Early, X_REQUEST_ID};
use super::filters::Work;
use super::forward::{Followed, KeptBody};
use super::request::Request;
use super::trace::Trace;
use crate::idle::Ticker;
use crate::stats::responded;

/// Details of an exchange whose redirect was followed.
const FOLLOWED: &str = "internal_redirect";

/// Everything about one exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub context: Connection,
    pub request: Request,
    pub early: Early,
    /// Since the Unix epoch.
    pub started: Duration,
    pub clock: Instant,
    pub times: Times,
    pub flags: ResponseFlags,
    pub details: Cow<'static, str>,
    pub status: Option<StatusCode>,
    /// Kept for logs only where there are logs.
    pub response: Option<HeaderMap>,
    pub trailers: Option<HeaderMap>,
    pub received: u64,
    pub sent: u64,
    /// Bytes received from and sent to the client, framing included.
    pub wire: (u64, u64),
    /// gRPC messages of request and response.
    pub messages: [MessageCounter; 2],
    pub attempts: u32,
    pub route: Option<Arc<Route>>,
    pub route_name: Str,
    /// Virtual cluster that counts the request.
    pub virtual_cluster: Str,
    pub cluster: Option<Arc<Cluster>>,
    /// The cluster's name, also when it does not exist.
    pub cluster_name: Str,
    pub host: Option<Arc<Host>>,
    pub upstream: Upstream,
    pub metadata: Metadata,
    /// Filter state as text, by key.
    pub filter_state: Vec<(Str, Str)>,
    /// What filters left with the exchange.
    pub work: Option<Box<Work>>,
    /// Its spans, where there is tracing.
    pub trace: Option<Box<Trace>>,
    pub grpc: bool,
    /// The other side, as metadata exchange found it.
    pub peer: Option<PeerObject>,
    /// The client asked for our metadata.
    pub propagate_metadata: bool,
    /// Internal redirects that led to this exchange.
    pub followed: Option<Box<Followed>>,
    /// `set-cookie` that the hash policy asks for.
    pub cookie: Option<String>,
    /// There was no request that could be read: nothing of it is logged.
    pub refused: bool,
    /// When the next entry of a log is due before the end.
    periodic: Ticker,
    recorded: bool,
}

/// Facts of the connection that served the last attempt.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    pub local: Option<std::net::SocketAddr>,
    pub protocol: Option<Protocol>,
    pub failure: Str,
    pub connection_id: u64,
    pub peer: Option<Arc<meltemi_traffic::tls::PeerIdentity>>,
    pub session: Option<Arc<TlsSession>>,
    pub tls: bool,
    /// All of its response has come.
    pub complete: bool,
    /// Bytes sent and received.
    pub wire: (u64, u64),
}

impl Upstream {
    /// Remembers the connection.
    pub(crate) fn connected(&mut self, facts: &ConnFacts, http2: bool, keep_peer: bool) {
        self.local = facts.local;
        self.connection_id = facts.id;
        self.protocol = Some(if http2 {
            Protocol::Http2
        } else {
            Protocol::Http11
        });
        self.tls = facts.tls;
        if keep_peer {
            self.peer.clone_from(&facts.peer);
            self.session.clone_from(&facts.session);
        }
    }
}

impl Exchange {
    pub(crate) fn new(context: &Connection, request: Request) -> Self {
        context
            .runtime()
            .stats
            .started(request.protocol == Protocol::Http2);
        Self {
            grpc: request.is_grpc(),
            context: context.clone(),
            request,
            early: Early::default(),
            started: crate::logs::now(),
            clock: clock::now(),
            times: Times::default(),
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            status: None,
            response: None,
            trailers: None,
            received: 0,
            sent: 0,
            wire: (0, 0),
            messages: [MessageCounter::default(); 2],
            attempts: 0,
            route: None,
            route_name: Str::default(),
            virtual_cluster: Str::default(),
            cluster: None,
            cluster_name: Str::default(),
            host: None,
            upstream: Upstream::default(),
            metadata: context.info().metadata.clone(),
            filter_state: context.info().filter_state.clone(),
            work: None,
            trace: None,
            peer: None,
            propagate_metadata: false,
            followed: None,
            cookie: None,
            refused: false,
            periodic: Ticker::new(context.hcm().log_interval),
            recorded: false,
        }
    }

    /// Records this exchange and begins that of the redirect which its request has become.
    pub(crate) fn redirected(mut self, body: KeptBody) -> Self {
        self.details = FOLLOWED.into();
        self.record();
        let request = std::mem::replace(&mut self.request, Request::placeholder());
        let mut next = Self::new(&self.context, request);
        next.early = std::mem::take(&mut self.early);
        next.followed = self.followed.take();
        next.received = body.pieces.iter().map(|piece| piece.len() as u64).sum();
        if next.request.body != BodyKind::None {
            next.work().replay(body);
        }
        next
    }

    /// What filters left with the exchange, to leave more.
    pub(crate) fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    /// Applies header changes to the request.
    pub(crate) fn change_request(&mut self, ops: &[HeaderOp]) {
        if ops.is_empty() {
            return;
        }
        // The request is lifted out for the call: formats read the exchange while the request changes.
        let protocol = self.request.protocol;
        let mut request = std::mem::replace(&mut self.request, Request::placeholder());
        self.request.protocol = protocol;
        apply_request(ops, &mut request, &self.info());
        self.request = request;
    }

    /// Whether anything reads response fields after they were sent.
    pub(crate) fn keeps_response(&self) -> bool {
        !self.context.hcm().access_log.is_empty() || self.grpc || self.trace.is_some()
    }

    /// Keeps the response's fields for logs; Content-Length is the codec's, so it is not among them.
    pub(crate) fn keep_response(&mut self, headers: &HeaderMap, length: ResponseLength) {
        let mut kept = headers.clone();
        if let ResponseLength::Known(length) = length {
            kept.insert(http::header::CONTENT_LENGTH, length.into());
        }
        self.response = Some(kept);
    }

    /// Counts bytes of the request's body.
    pub(crate) fn count_request(&mut self, data: &[u8]) {
        self.received += data.len() as u64;
        if self.grpc {
            self.messages[0].feed(data);
        }
    }

    /// Counts bytes of the response's body.
    pub(crate) fn count_response(&mut self, data: &[u8]) {
        self.sent += data.len() as u64;
        self.count_response_messages(data);
    }

    /// Counts gRPC messages of the response's body as the upstream sent it.
    pub(crate) fn count_response_messages(&mut self, data: &[u8]) {
        if self.grpc {
            self.messages[1].feed(data);
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        clock::now() - self.clock
    }

    /// What formats can ask of the exchange as it is now.
    pub(crate) fn info(&self) -> StreamInfo<'_> {
        let mut info = StreamInfo {
            start: self.started,
            times: self.times,
            protocol: Some(self.request.protocol),
            upstream_protocol: self.upstream.protocol,
            response_code: self.status.map(|status| status.as_u16()),
            response_code_details: &self.details,
            flags: self.flags,
            bytes_received: self.received,
            bytes_sent: self.sent,
            upstream_wire: self.upstream.wire,
            downstream_wire: self.wire,
            upstream_connection_id: self.upstream.connection_id,
            upstream_local: self.upstream.local,
            upstream_failure: &self.upstream.failure,
            attempts: self.attempts,
            route_name: &self.route_name,
            virtual_cluster: &self.virtual_cluster,
            metadata: Some(&self.metadata),
            grpc_status: self.logged_grpc_status(),
            log_type: "DownstreamEnd",
            ..StreamInfo::default()
        };
        self.context.info().describe(&mut info);
        info.filter_state = &self.filter_state;
        if let Some(peer) = &self.peer {
            info.peers = self.context.info().peers(peer);
        }
        if let Some(address) = self.early.remote {
            let peer = self.context.info().remote;
            // The port of an address from X-Forwarded-For is not known; Envoy prints 0.
            let port = if address == peer.ip() { peer.port() } else { 0 };
            info.downstream_remote = Some((address, port).into());
        }
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
        if let Some(route) = &self.route {
            info.route_metadata = Some(&route.metadata);
        }
        info.upstream_tls = Tls {
            peer: self.upstream.peer.as_deref(),
            ..Tls::default()
        };
        if let Some(session) = &self.upstream.session {
            info.upstream_tls.version = session.version;
            info.upstream_tls.cipher = session.cipher;
            info.upstream_tls.server_name = &session.server_name;
            info.upstream_tls.local = session.local.as_deref();
        }
        if let Some(trace) = &self.trace {
            info.trace_id = &trace.trace_id;
            info.span_id = &trace.span_id;
            info.traced = trace.forced;
        }
        if !self.refused {
            info.stream_id = self.request.text(&X_REQUEST_ID).unwrap_or_default();
        }
        info
    }

    /// The gRPC status for logs: without one the HTTP status stands for it.
    fn logged_grpc_status(&self) -> Option<u32> {
        let inferred = || {
            self.status
                .filter(|_| self.grpc)
                .map(|status| grpc_status_of(Some(status.as_u16())))
        };
        self.grpc_status().or_else(inferred)
    }

    /// `grpc-status` of a gRPC exchange.
    pub(crate) fn grpc_status(&self) -> Option<u32> {
        if !self.grpc {
            return None;
        }
        let heads = [self.trailers.as_ref(), self.response.as_ref()];
        let value = heads
            .into_iter()
            .flatten()
            .find_map(|map| map.get("grpc-status"))?;
        value.to_str().ok()?.trim().parse().ok()
    }

    /// Writes the log line and counts; does so once.
    pub(crate) fn record(&mut self) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        let duration = self.elapsed();
        self.times.last_tx.get_or_insert(duration);
        let runtime = self.context.runtime();
        // A redirect that was followed is no response.
        let status = self.status.filter(|_| self.details != FOLLOWED);
        let status = status.map(|status| status.as_u16());
        runtime.stats.ended(status, duration);
        responded(&runtime.responses, status);
        self.charge_upstream();
        if self.times.upstream_first_rx.is_some() {
            self.times.upstream_last_rx.get_or_insert(duration);
        }
        super::trace::finish(self, duration);
        super::filters::report(self, duration);
        self.log("DownstreamEnd", Some(duration));
    }

    /// Counts how long the upstream took from the request's end to its response's.
    fn charge_upstream(&self) {
        let Some(cluster) = self.cluster.as_ref().filter(|_| self.upstream.complete) else {
            return;
        };
        let end = self.times.last_tx.unwrap_or_default();
        let took = end.saturating_sub(self.times.request_end.unwrap_or_default());
        cluster.distributions().answered(took, self.early.internal);
    }

    /// Writes the entries that are due before the end.
    pub(crate) fn poll_log(&mut self, cx: &mut Context<'_>) {
        while self.periodic.ticks(cx) {
            self.log("DownstreamPeriodic", Some(self.elapsed()));
        }
    }

    /// Writes an entry to every log that wants it.
    pub(crate) fn log(&self, log_type: &'static str, duration: Option<Duration>) {
        let hcm = self.context.hcm();
        if hcm.access_log.is_empty() {
            return;
        }
        let mut info = self.info();
        info.log_type = log_type;
        info.duration = duration;
        let heads = Heads {
            request: (!self.refused).then_some(&self.request as _),
            response: self.response.as_ref().map(|map| map as _),
            trailers: self.trailers.as_ref().map(|map| map as _),
        };
        let shared = &self.context.worker().shared;
        shared
            .logs
            .record(shared, &hcm.access_log, &info, heads, self.early.random);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.recorded {
            if self.details.is_empty() {
                self.details = Cow::Borrowed("downstream_remote_disconnect");
            }
            self.flags
                .add(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            self.record();
        }
    }
}
