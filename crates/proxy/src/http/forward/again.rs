//! Whether a failed attempt, or one with an unwanted response, is followed by another; the wait before it; and the
//! reply when it is not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::retry::{AttemptFailure, RetryPolicy};
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::exchange::{ResponseStart, StreamError};

use super::Attempts;
use super::failure::{self, Failure, connect_failure, max_duration, stream_failure};
use crate::http::counted::Event;
use crate::http::downstream::Downstream;
use crate::http::record::Exchange;
use crate::http::reply::Reply;

impl Attempts {
    /// The wait before another attempt; `None` when this response is the answer.
    pub(super) fn retry_response(
        &mut self,
        exchange: &mut Exchange,
        start: &ResponseStart,
    ) -> Option<Duration> {
        let policy = self.policy.clone()?;
        self.timed_out = false;
        if !policy.retries_response(&self.extra, start.status.as_u16(), &start.headers) {
            if exchange.attempts > 1 {
                self.counted.count(Event::RetrySuccess);
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

    pub(super) fn retry_failure(
        &mut self,
        exchange: &mut Exchange,
        failure: &Failure,
    ) -> Option<Duration> {
        let policy = self.policy.clone()?;
        self.timed_out = matches!(failure, Failure::PerTryTimeout { .. });
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
            Failure::PerTryTimeout { .. } => AttemptFailure::PerTryTimeout,
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
        let most = self.extra.max_retries.unwrap_or(policy.num_retries);
        if exchange.attempts > most {
            exchange
                .flags
                .add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            self.cluster
                .stats
                .rq_retry_limit
                .fetch_add(1, Ordering::Relaxed);
            self.counted.count(Event::RetryLimit);
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
            self.counted.count(Event::RetryOverflow);
            return None;
        }
        let stats = &self.cluster.stats;
        stats.rq_retry.fetch_add(1, Ordering::Relaxed);
        self.counted.count(Event::Retry);
        let kind = match asked {
            Some(_) => &stats.rq_back_off_asked,
            None => &stats.rq_back_off,
        };
        kind.fetch_add(1, Ordering::Relaxed);
        Some(asked.unwrap_or_else(|| policy.back_off(exchange.attempts, fastrand::u64(..))))
    }

    /// Waits before the next attempt; the client and the route's timeout can end the wait.
    pub(super) async fn back_off(
        &mut self,
        down: &mut Downstream<'_>,
        wait: Duration,
    ) -> Result<(), Failure> {
        self.timeouts.pause();
        let pause = tokio::time::sleep(wait);
        self.timeouts.unless_over(down, pause).await
    }

    /// The local reply for a failure that is final.
    pub(super) fn give_up(&self, exchange: &mut Exchange, failure: Failure) -> Reply {
        let mut reply = self.final_reply(exchange, failure);
        if exchange.attempts > 1 {
            reply.body = failure::after_retries(&reply.body);
        }
        // A failure counts as the response that it leads to.
        let status = reply.status.as_u16();
        self.cluster.stats.response(status);
        self.cluster.statuses(exchange.early.internal).add(status);
        self.counted.count(Event::Response(status));
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
            Failure::PerTryTimeout { idle: false } => Reply::timeout("upstream_per_try_timeout"),
            Failure::PerTryTimeout { idle: true } => {
                Reply::timeout("upstream_per_try_idle_timeout")
            }
            Failure::Idle { request_complete } => Reply::idle(request_complete),
        }
    }
}
