//! Forwarding: attempts on upstream hosts until one answers, then both bodies at once.
//!
//! [`run`] prepares the request once, then loops over attempts. [`pump`] moves bytes; [`timeouts`] says how long.
//! Deciding whether an attempt is worth another is `traffic`'s.

mod failure;
mod mirror;
mod prepare;
pub(super) use prepare::replace_path;
mod pump;
mod reshape;
mod select;
mod timeouts;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::SchemeRule;
use meltemi_traffic::headers::RequestHeadMut;
use meltemi_traffic::retry::{AttemptFailure, RequestRetry, RetryPolicy};
use meltemi_traffic::rewrite::HostRewrite;
use meltemi_traffic::route::Forward;
use meltemi_upstream::balance::Overload;
use meltemi_upstream::breaker::Gauge;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::exchange::{Exchange as Stream, Outgoing, ResponseStart, StreamError};
use meltemi_upstream::host::Host;
use meltemi_upstream::outlier::Outcome;
use meltemi_wire::http1::head::HeadLimits;

use super::downstream::Downstream;
use super::exchange::{Ended, Plan};
use super::filters;
use super::record::Exchange;
use super::reply::Reply;
use crate::idle::IdleTimer;
use failure::{Failure, connect_failure, max_duration, stream_failure};
use pump::{RequestBody, Waited};
use timeouts::Timeouts;

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");
/// A host asks in an answer to ordinary traffic that it be used no more.
const FAIL_AT_ONCE: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
/// Largest response head from upstreams, as Envoy's default for HTTP/1.
const MAX_RESPONSE_HEAD: usize = 80 * 1024;
/// Envoy's default `max_headers_count`.
const MAX_RESPONSE_HEADERS: usize = 100;

/// What the attempts of one exchange share.
struct Attempts {
    cluster: Arc<Cluster>,
    policy: Option<Arc<RetryPolicy>>,
    extra: RequestRetry,
    timeouts: Timeouts,
    body: RequestBody,
    tried: Vec<u64>,
    retry: Option<Gauge>,
    high_priority: bool,
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
                None => {
                    return Ok(attempts
                        .relay(exchange, down, plan, start, stream, idle)
                        .await);
                }
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
        .get("grpc-status")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Outcome::response(grpc.map_or(status, meltemi_traffic::access::http_status_of_grpc))
}

impl Attempts {
    fn new(exchange: &mut Exchange, plan: &Plan, forward: &Forward, cluster: Arc<Cluster>) -> Self {
        let timeouts = Timeouts::new(exchange, forward);
        prepare::prepare(exchange, plan, forward, &timeouts);
        let tunnel = exchange.early.upgrade.is_some();
        let policy = forward.retry.clone();
        let policy = policy.filter(|policy| !tunnel && policy.covers(&exchange.request));
        let buffer = || u64::from(exchange.context.info().listener.config.buffer_limit);
        let limit = plan.route.retry_buffer_limit.unwrap_or_else(buffer);
        let mut body = RequestBody::new(exchange.request.body, policy.is_some(), limit);
        if !tunnel {
            body.mirror_to(mirror::start(exchange, forward));
        }
        Self {
            cluster,
            policy,
            extra: RequestRetry::default(),
            timeouts,
            body,
            tried: Vec::new(),
            retry: None,
            high_priority: forward.high_priority,
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
        let host = self.pick(exchange, plan)?;
        let active = host.state.active.enter();
        self.tried.push(host.state.id);
        exchange.host = Some(Arc::clone(&host));
        self.announce(exchange, plan, forward, &host);
        self.timeouts.start_attempt(self.policy.as_deref());
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
        match waited {
            Waited::Head(start) => {
                let status = start.status.as_u16();
                self.cluster.stats.response(status);
                self.cluster.statuses(exchange.early.internal).add(status);
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
            exchange.request.set_authority(&name);
        }
        if plan.route.attempt_count_in_request {
            exchange
                .request
                .headers
                .insert(ATTEMPT_COUNT, exchange.attempts.into());
        }
        filters::before_attempt(exchange, host);
        super::trace::before_attempt(exchange);
        if plan.route.is_timeout_retry_header && self.timed_out {
            exchange
                .request
                .headers
                .insert(IS_TIMEOUT_RETRY, HeaderValue::from_static("true"));
        }
    }

    /// Gets a connection and sends the head.
    async fn open(
        &mut self,
        exchange: &Exchange,
        down: &mut Downstream<'_>,
        host: &Arc<Host>,
    ) -> Result<Stream, Failure> {
        let (protocol, needs) = self.needs(exchange, host);
        let lease = {
            let pools = &exchange.context.worker().pools;
            let mut acquire = std::pin::pin!(pools.acquire(&self.cluster, host, protocol, &needs));
            let timeouts = &mut self.timeouts;
            std::future::poll_fn(|cx| {
                if let Poll::Ready(result) = acquire.as_mut().poll(cx) {
                    return Poll::Ready(result.map_err(Failure::Connect));
                }
                if down.body_finished()
                    && let Poll::Ready(error) = down.poll_gone(cx)
                {
                    return Poll::Ready(Err(Failure::Client(error)));
                }
                timeouts.poll(cx, down.body_finished()).map(Err)
            })
            .await
        };
        let lease = match lease {
            Ok(lease) => {
                self.cluster.stats.rq_total.fetch_add(1, Ordering::Relaxed);
                host.state.rq_total.fetch_add(1, Ordering::Relaxed);
                self.cluster.report(host, Outcome::Connected);
                lease
            }
            Err(failure) => {
                self.blame(host, &failure);
                return Err(failure);
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
                host.state.rq_timeout.fetch_add(1, Ordering::Relaxed);
                Outcome::Timeout
            }
            Failure::PerTryTimeout => {
                stats.rq_per_try_timeout.fetch_add(1, Ordering::Relaxed);
                Outcome::Timeout
            }
        };
        self.cluster.report(host, outcome);
    }

    /// The wait before another attempt; `None` when this response is the answer.
    fn retry_response(
        &mut self,
        exchange: &mut Exchange,
        start: &ResponseStart,
    ) -> Option<Duration> {
        let policy = self.policy.clone()?;
        if !policy.retries_response(&self.extra, start.status.as_u16(), &start.headers) {
            if exchange.attempts > 1 {
                self.cluster
                    .stats
                    .rq_retry_success
                    .fetch_add(1, Ordering::Relaxed);
            }
            return None;
        }
        let asked = policy.asked_back_off(&start.headers, crate::logs::now(), fastrand::u64(..));
        self.admit_retry(exchange, &policy, asked)
    }

    fn retry_failure(&mut self, exchange: &mut Exchange, failure: &Failure) -> Option<Duration> {
        let policy = self.policy.clone()?;
        self.timed_out = matches!(failure, Failure::PerTryTimeout);
        let kind = match failure {
            Failure::Connect(ConnectError::Overflow) => AttemptFailure::Overflow,
            Failure::Connect(_) => AttemptFailure::Connect,
            Failure::Stream {
                error: StreamError::Refused,
                ..
            } => AttemptFailure::RefusedStream,
            Failure::Stream { request_sent, .. } => AttemptFailure::Reset {
                request_sent: *request_sent,
            },
            Failure::PerTryTimeout => AttemptFailure::PerTryTimeout,
            Failure::Client(_)
            | Failure::NoHost
            | Failure::Timeout
            | Failure::Idle { .. }
            | Failure::MaxDuration { .. }
            | Failure::Late => {
                return None;
            }
        };
        if !policy.retries_failure(&self.extra, kind) {
            return None;
        }
        self.admit_retry(exchange, &policy, None)
    }

    fn admit_retry(
        &mut self,
        exchange: &mut Exchange,
        policy: &RetryPolicy,
        asked: Option<Duration>,
    ) -> Option<Duration> {
        if !self.body.can_rewind() {
            return None;
        }
        let most = self
            .extra
            .max_retries
            .map_or(policy.num_retries, |max| max.min(policy.num_retries));
        if exchange.attempts > most {
            exchange
                .flags
                .add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            self.cluster
                .stats
                .rq_retry_limit
                .fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.retry = None;
        self.retry = self.cluster.breaker(self.high_priority).admit_retry();
        if self.retry.is_none() {
            exchange.flags.add(ResponseFlags::UPSTREAM_OVERFLOW);
            self.cluster
                .stats
                .rq_retry_overflow
                .fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.cluster.stats.rq_retry.fetch_add(1, Ordering::Relaxed);
        Some(asked.unwrap_or_else(|| policy.back_off(exchange.attempts, fastrand::u64(..))))
    }

    /// Waits before the next attempt; the client and the route's timeout can end the wait.
    async fn back_off(&mut self, down: &mut Downstream<'_>, wait: Duration) -> Result<(), Failure> {
        let mut pause = std::pin::pin!(tokio::time::sleep(wait));
        let timeouts = &mut self.timeouts;
        timeouts.end_attempt();
        std::future::poll_fn(|cx| {
            if pause.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if down.body_finished()
                && let Poll::Ready(error) = down.poll_gone(cx)
            {
                return Poll::Ready(Err(Failure::Client(error)));
            }
            timeouts.poll(cx, down.body_finished()).map(Err)
        })
        .await
    }

    /// The local reply for a failure that is final.
    fn give_up(&self, exchange: &mut Exchange, failure: Failure) -> Reply {
        let mut reply = self.final_reply(exchange, failure);
        if exchange.attempts > 1 {
            reply.body = failure::after_retries(&reply.body);
        }
        // A failure counts as the response that it leads to.
        let status = reply.status.as_u16();
        self.cluster.stats.response(status);
        self.cluster.statuses(exchange.early.internal).add(status);
        reply
    }

    fn final_reply(&self, exchange: &mut Exchange, failure: Failure) -> Reply {
        match failure {
            Failure::Client(_) | Failure::NoHost => Reply::no_healthy_upstream(),
            Failure::Connect(ConnectError::Overflow) => Reply::overflow(),
            Failure::Connect(error) => {
                exchange.upstream.failure = error.transport_failure().unwrap_or_default();
                connect_failure(&error)
            }
            Failure::Stream { error, .. } => stream_failure(&error),
            Failure::Timeout => Reply::timeout("response_timeout"),
            Failure::MaxDuration { request_complete } => max_duration(request_complete),
            Failure::Late => failure::late(),
            Failure::PerTryTimeout => Reply::timeout("upstream_per_try_timeout"),
            Failure::Idle { request_complete } => Reply::idle(request_complete),
        }
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
            Ended::Broken | Ended::ClientGone(_) => stream.abort(),
        }
        ended
    }
}
