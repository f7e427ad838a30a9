//! Forwarding: attempts on upstream hosts until one answers, then both bodies at once.
//!
//! [`run`] prepares the request once, then loops over attempts. [`pump`] moves bytes; [`timeouts`] says how long.
//! Deciding whether an attempt is worth another is `traffic`'s.

mod again;
mod control;
mod failure;
mod mirror;
mod prepare;
pub(super) use prepare::replace_path;
mod pump;
mod redirect;
pub(crate) use redirect::{Followed, KeptBody};
mod reshape;
mod select;
mod timeouts;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{HeaderName, HeaderValue};
use meltemi_traffic::cluster::ClusterKind;
use meltemi_traffic::hcm::SchemeRule;
use meltemi_traffic::retry::{RequestRetry, RetryPolicy};
use meltemi_traffic::rewrite::HostRewrite;
use meltemi_traffic::route::{Connect, Forward};
use meltemi_upstream::balance::Overload;
use meltemi_upstream::breaker::Gauge;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::exchange::{Exchange as Stream, Outgoing, ResponseStart};
use meltemi_upstream::host::Host;
use meltemi_upstream::outlier::Outcome;
use meltemi_upstream::pool::{ConnFacts, Lease};
use meltemi_upstream::stream::Stream as ByteStream;
use meltemi_wire::http1::head::HeadLimits;
use smallvec::SmallVec;

use super::counted::{Counted, Event};
use super::downstream::Downstream;
use super::exchange::Ended;
use super::filters;
use super::plan::Plan;
use super::record::Exchange;
use super::reply::Reply;
use crate::idle::IdleTimer;
use failure::Failure;
use pump::{RequestBody, Waited};
use timeouts::Timeouts;

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");
/// A host asks in an answer to ordinary traffic that it be used no more.
const FAIL_AT_ONCE: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Largest response head from upstreams, as Envoy's default for HTTP/1.
pub(crate) const MAX_RESPONSE_HEAD: usize = 80 * 1024;
/// Envoy's default `max_headers_count`.
const MAX_RESPONSE_HEADERS: usize = 100;

/// A connection for an attempt.
enum Opened {
    /// Of a pool.
    Lease(Lease),
    /// Of its own, for bytes without HTTP.
    Raw(Box<(ByteStream, ConnFacts)>),
}

/// What the attempts of one exchange share.
struct Attempts {
    cluster: Arc<Cluster>,
    policy: Option<Arc<RetryPolicy>>,
    extra: RequestRetry,
    timeouts: Timeouts,
    body: RequestBody,
    tried: SmallVec<[u64; 4]>,
    /// Priorities of attempts since some were left, and those that were.
    tried_priorities: Vec<u32>,
    left_priorities: Vec<u32>,
    retry: Option<Gauge>,
    high_priority: bool,
    /// Statistics beside those of the cluster.
    counted: Counted,
    /// The payload of tunnels goes as raw TCP.
    ends_tunnels: Option<Connect>,
    /// The last attempt took too long.
    timed_out: bool,
}

/// Forwards a request and its response.
///
/// # Errors
/// The local reply when no response could be had.
pub(crate) async fn run(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    plan: &Plan,
    forward: &Forward,
    idle: &mut IdleTimer,
) -> Result<Ended, Reply> {
    let cluster = admit(exchange, forward)?;
    let mut attempts = Attempts::new(exchange, plan, forward, cluster);
    if let Some(limit) = forward.idle_timeout {
        idle.set_limit(limit);
    }
    loop {
        exchange.attempts += 1;
        attempts.body.rewind();
        let outcome = attempts.attempt(exchange, down, plan, forward, idle).await;
        let again = match outcome {
            Ok((start, stream)) => match attempts.retry_response(exchange, &start) {
                Some(wait) => {
                    super::trace::attempt_ended(exchange, Some(start.status.as_u16()), true);
                    stream.abort();
                    wait
                }
                None if refuses_websocket(exchange, &start, &stream) => {
                    stream.abort();
                    return Err(Reply::new(
                        start.status,
                        "",
                        "websocket_handshake_unsuccessful",
                    ));
                }
                None => match attempts.redirected(exchange, plan, forward, &start) {
                    Some(body) => {
                        exchange.status = Some(start.status);
                        exchange.response = Some(start.headers);
                        stream.finish();
                        return Ok(Ended::Redirected(body));
                    }
                    None => {
                        return Ok(attempts
                            .relay(exchange, down, plan, start, stream, idle)
                            .await);
                    }
                },
            },
            Err(Failure::Client(error)) => return Ok(Ended::ClientGone(error)),
            Err(failure) => match attempts.retry_failure(exchange, &failure) {
                Some(wait) => {
                    super::trace::attempt_ended(exchange, None, true);
                    wait
                }
                None => return Err(attempts.give_up(exchange, failure)),
            },
        };
        if let Err(failure) = attempts.back_off(down, again).await {
            return match failure {
                Failure::Client(error) => Ok(Ended::ClientGone(error)),
                failure => Err(attempts.give_up(exchange, failure)),
            };
        }
    }
}

/// An HTTP/1 upstream answered a WebSocket handshake with something else: its body is not passed on.
fn refuses_websocket(exchange: &Exchange, start: &ResponseStart, stream: &Stream) -> bool {
    !start.tunnel && !stream.is_http2() && exchange.early.upgrade.as_deref() == Some(b"websocket")
}

/// The cluster, unless the control plane wants this request dropped.
fn admit(exchange: &Exchange, forward: &Forward) -> Result<Arc<Cluster>, Reply> {
    let Some(cluster) = exchange.cluster.clone() else {
        crate::stats::count(&exchange.context.runtime().stats.counters.no_cluster);
        return Err(Reply::no_cluster(forward.cluster_not_found));
    };
    match cluster.hosts.load().overload() {
        None => Ok(cluster),
        Some(overload) => {
            let suppress = exchange.context.runtime().suppress_envoy_headers;
            Err(Reply::drop_overload(overload == Overload::All, suppress))
        }
    }
}

/// The names that a request is counted under.
fn counted(exchange: &mut Exchange, plan: &Plan) -> Counted {
    let mut counted = Counted::default();
    if let Some(clusters) = &plan.route.virtual_clusters {
        let of_request = clusters.of(&exchange.request);
        exchange.virtual_cluster = of_request.name.clone();
        counted.name(&of_request.stat_prefix);
    }
    counted.name(&plan.route.stat_prefix);
    counted
}

/// How outlier detection sees a response: by its gRPC status when it has one already, else by its class, unless the
/// cluster says what a failure is.
fn judged(cluster: &Cluster, start: &ResponseStart) -> Outcome {
    let status = start.status.as_u16();
    if let Some(matchers) = &cluster.config.http.error_statuses {
        let failed = matchers
            .iter()
            .any(|matcher| matcher.matches(start.status.as_str().as_bytes()));
        return Outcome::Response { status, failed };
    }
    let grpc = start
        .headers
        .get(GRPC_STATUS)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Outcome::response(grpc.map_or(status, meltemi_traffic::access::http_status_of_grpc))
}

impl Attempts {
    fn new(exchange: &mut Exchange, plan: &Plan, forward: &Forward, cluster: Arc<Cluster>) -> Self {
        let timeouts = Timeouts::new(exchange, forward);
        prepare::prepare(exchange, plan, forward, &timeouts);
        let tunnel = exchange.early.upgrade.is_some();
        let (policy, extra) = control::retries(exchange, forward, tunnel);
        let buffer = || u64::from(exchange.context.info().listener.config.buffer_limit);
        let limit = plan.route.retry_buffer_limit.unwrap_or_else(buffer);
        let keeps = policy.is_some() || forward.internal_redirects.is_some();
        let mut body = RequestBody::new(exchange.request.body, keeps, limit);
        if !tunnel {
            body.mirror_to(mirror::start(exchange, forward));
        }
        Self {
            cluster,
            policy,
            extra,
            timeouts,
            body,
            tried: SmallVec::new(),
            tried_priorities: Vec::new(),
            left_priorities: Vec::new(),
            retry: None,
            high_priority: forward.high_priority,
            counted: counted(exchange, plan),
            ends_tunnels: forward.connect,
            timed_out: false,
        }
    }

    /// One attempt, up to the response head.
    async fn attempt(
        &mut self,
        exchange: &mut Exchange,
        down: &mut Downstream<'_>,
        plan: &Plan,
        forward: &Forward,
        idle: &mut IdleTimer,
    ) -> Result<(ResponseStart, Stream), Failure> {
        if let ClusterKind::DynamicForwardProxy(settings) = &self.cluster.config.kind {
            Box::pin(self.look_up(exchange, settings)).await;
        }
        let host = self.pick(exchange, plan)?;
        let active = host.state.active.enter();
        self.tried.push(host.state.id);
        exchange.host = Some(Arc::clone(&host));
        self.announce(exchange, plan, forward, &host);
        self.timeouts.start_attempt();
        let mut stream = self.open(exchange, down, &host).await?;
        let keep_peer = !exchange.context.hcm().access_log.is_empty()
            || exchange.context.runtime().istio_stats.is_some();
        exchange
            .upstream
            .connected(stream.connection(), stream.is_http2(), keep_peer);
        let started = exchange.elapsed();
        exchange.times.pool_ready.get_or_insert(started);
        exchange.times.upstream_first_tx = Some(started);
        let waited = pump::until_head(
            &mut pump::Sides {
                exchange,
                down,
                stream: &mut stream,
            },
            &mut self.body,
            &mut self.timeouts,
            idle,
        )
        .await;
        drop(active);
        if self.body.take_abandoned() {
            let stats = &self.cluster.stats;
            stats.rq_retry_abandoned.fetch_add(1, Ordering::Relaxed);
        }
        match waited {
            Waited::Head(start) => {
                let status = start.status.as_u16();
                self.cluster.stats.response(status);
                self.cluster.statuses(exchange.early.internal).add(status);
                self.counted.count(Event::Response(status));
                self.cluster.report(&host, judged(&self.cluster, &start));
                if !self.cluster.config.health_checks.is_empty()
                    && start.headers.contains_key(FAIL_AT_ONCE)
                {
                    self.cluster.fail_at_once(&host);
                }
                Ok((start, stream))
            }
            Waited::Failed(failure) => {
                exchange.upstream.wire = stream.take_wire();
                stream.abort();
                self.blame(&host, &failure);
                Err(failure)
            }
        }
    }

    /// What the request says of this attempt.
    fn announce(&self, exchange: &mut Exchange, plan: &Plan, forward: &Forward, host: &Host) {
        if matches!(forward.host_rewrite, HostRewrite::Auto)
            && let Some(name) = forward
                .host_rewrite
                .apply(&exchange.request, Some(&host.endpoint.hostname))
        {
            // Every attempt has another name; the original is the client's.
            let is_first = exchange.attempts == 1;
            let shows = is_first && !exchange.context.runtime().suppress_envoy_headers;
            let appends = is_first && forward.append_forwarded_host;
            prepare::replace_host(&mut exchange.request, &name, appends, shows);
        }
        if plan.route.attempt_count_in_request {
            exchange
                .request
                .headers
                .insert(ATTEMPT_COUNT, exchange.attempts.into());
        }
        filters::before_attempt(exchange, host);
        super::trace::before_attempt(exchange);
        if exchange.attempts > 1 {
            let suppress = exchange.context.runtime().suppress_envoy_headers;
            let headers = &mut exchange.request.headers;
            self.timeouts.tell(headers, suppress);
            if plan.route.is_timeout_retry_header {
                let timed_out = if self.timed_out { "true" } else { "false" };
                headers.insert(IS_TIMEOUT_RETRY, HeaderValue::from_static(timed_out));
            }
        }
    }

    /// Gets a connection and sends the head.
    async fn open(
        &mut self,
        exchange: &Exchange,
        down: &mut Downstream<'_>,
        host: &Arc<Host>,
    ) -> Result<Stream, Failure> {
        let lease = match self.connect(exchange, down, host).await {
            Ok(lease) => {
                self.cluster.stats.rq_total.fetch_add(1, Ordering::Relaxed);
                self.counted.count(Event::Attempt);
                host.state.rq_total.fetch_add(1, Ordering::Relaxed);
                self.cluster.report(host, Outcome::Connected);
                lease
            }
            Err(failure) => {
                self.blame(host, &failure);
                return Err(failure);
            }
        };
        let lease = match lease {
            Opened::Lease(lease) => lease,
            Opened::Raw(raw) => {
                let tunnel = exchange.request.method == http::Method::CONNECT;
                return Ok(Stream::raw(raw.0, raw.1, tunnel));
            }
        };
        let http = &self.cluster.config.http;
        let limits = HeadLimits {
            max_bytes: http
                .max_response_headers_kb
                .map_or(MAX_RESPONSE_HEAD, |kb| kb as usize * 1024),
            max_headers: http
                .max_headers_count
                .map_or(MAX_RESPONSE_HEADERS, |count| count as usize),
            allow_chunked_length: http.http1.allow_chunked_length,
            keep_case: crate::http::keep_case(&http.http1),
        };
        let request = &exchange.request;
        let outgoing = Outgoing {
            method: &request.method,
            https: match exchange.context.hcm().scheme {
                SchemeRule::MatchUpstream => host.transport.tls.is_some(),
                SchemeRule::Keep | SchemeRule::Overwrite(_) => request.https,
            },
            authority: &request.authority,
            path: &request.path,
            headers: &request.headers,
            body: request.body,
            case: request.case.as_ref(),
        };
        Stream::start(lease, &outgoing, limits).map_err(|error| Failure::Stream {
            error,
            request_sent: false,
        })
    }

    /// Gets a connection; the client and the timeouts can end the wait.
    async fn connect(
        &mut self,
        exchange: &Exchange,
        down: &mut Downstream<'_>,
        host: &Arc<Host>,
    ) -> Result<Opened, Failure> {
        let (protocol, needs) = self.needs(exchange, host);
        let ends_here = self
            .ends_tunnels
            .is_some_and(|connect| connect.ends(&exchange.request.method));
        let pools = &exchange.context.worker().pools;
        let cluster = &self.cluster;
        let acquire = async {
            if ends_here {
                let (stream, facts) = pools.connect(cluster, host, &needs).await?;
                return Ok(Opened::Raw(Box::new((stream, facts))));
            }
            let lease = pools.acquire(cluster, host, protocol, &needs).await;
            lease.map(Opened::Lease)
        };
        let acquired = self.timeouts.unless_over(down, acquire).await?;
        acquired.map_err(Failure::Connect)
    }

    /// Counts a failed attempt against cluster and host.
    fn blame(&self, host: &Host, failure: &Failure) {
        let stats = &self.cluster.stats;
        let outcome = match failure {
            Failure::Connect(ConnectError::Overflow)
            | Failure::Client(_)
            | Failure::Late
            | Failure::NoHost => return,
            Failure::Connect(_) => Outcome::ConnectFailed,
            Failure::Stream { .. } => {
                stats.rq_rx_reset.fetch_add(1, Ordering::Relaxed);
                Outcome::ConnectFailed
            }
            Failure::Timeout | Failure::Idle { .. } | Failure::MaxDuration { .. } => {
                stats.rq_timeout.fetch_add(1, Ordering::Relaxed);
                self.counted.count(Event::Timeout);
                host.state.rq_timeout.fetch_add(1, Ordering::Relaxed);
                Outcome::Timeout
            }
            Failure::PerTryTimeout { idle } => {
                let counter = if *idle {
                    &stats.rq_per_try_idle_timeout
                } else {
                    &stats.rq_per_try_timeout
                };
                counter.fetch_add(1, Ordering::Relaxed);
                Outcome::Timeout
            }
        };
        self.cluster.report(host, outcome);
    }

    /// Sends the response on and moves both bodies to their ends.
    async fn relay(
        &mut self,
        exchange: &mut Exchange,
        down: &mut Downstream<'_>,
        plan: &Plan,
        start: ResponseStart,
        mut stream: Stream,
        idle: &mut IdleTimer,
    ) -> Ended {
        self.body.forget();
        self.timeouts.end_attempt();
        let host = exchange.host.clone();
        let _active = host.as_ref().map(|host| host.state.active.enter());
        if let Err(error) = pump::send_head(exchange, down, plan, start) {
            stream.abort();
            return Ended::ClientGone(error);
        }
        let sides = &mut pump::Sides {
            exchange,
            down,
            stream: &mut stream,
        };
        let ended = pump::both(sides, &mut self.body, &mut self.timeouts, idle).await;
        exchange.upstream.wire = stream.take_wire();
        exchange.upstream.complete = matches!(ended, Ended::Complete);
        match ended {
            Ended::Complete => stream.finish(),
            Ended::Broken | Ended::ClientGone(_) | Ended::Redirected(_) => stream.abort(),
        }
        ended
    }
}
