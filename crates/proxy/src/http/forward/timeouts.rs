//! How long a forwarded request may take.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use meltemi_traffic::retry::RetryPolicy;
use meltemi_traffic::route::Forward;
use tokio::time::{Instant, Sleep};

use super::Failure;
use crate::http::record::Exchange;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const UPSTREAM_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");

/// The route's timeout and the attempt's.
#[derive(Debug)]
pub(super) struct Timeouts {
    global: Option<Duration>,
    per_try: Option<Duration>,
    global_at: Option<Instant>,
    attempt_at: Option<Instant>,
    /// The stream itself may not live longer.
    stream_at: Option<Instant>,
    /// The whole request must have arrived.
    arrival_at: Option<Instant>,
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Which limit is next.
#[derive(Clone, Copy)]
enum Limit {
    Global,
    Attempt,
    Stream,
    Arrival,
}

impl Timeouts {
    /// What the route asks for this request.
    pub(super) fn new(exchange: &mut Exchange, forward: &Forward) -> Self {
        let global = effective(exchange, forward);
        let per_try = forward
            .retry
            .as_ref()
            .and_then(|policy| policy.per_try_timeout);
        let per_try = per_try.filter(|per_try| global.is_none_or(|global| *per_try < global));
        let longest = forward
            .max_stream_duration
            .unwrap_or(exchange.context.hcm().max_stream_duration);
        let stream_at = longest
            .filter(|longest| !longest.is_zero())
            .map(|longest| exchange.clock + longest);
        Self {
            global,
            per_try,
            global_at: None,
            attempt_at: None,
            stream_at,
            arrival_at: exchange
                .context
                .hcm()
                .request_timeout
                .map(|limit| exchange.clock + limit),
            sleep: None,
        }
    }

    /// What the upstream is told; `None` when nothing limits it.
    pub(super) fn expected(&self) -> Option<Duration> {
        match (self.global, self.per_try) {
            (Some(global), Some(per_try)) => Some(global.min(per_try)),
            (global, per_try) => global.or(per_try),
        }
    }

    /// The attempt's time begins.
    pub(super) fn start_attempt(&mut self, policy: Option<&RetryPolicy>) {
        self.attempt_at = policy.and(self.per_try).map(|limit| Instant::now() + limit);
    }

    /// The attempt's time ends.
    pub(super) fn end_attempt(&mut self) {
        self.attempt_at = None;
    }

    /// Ready when a timeout has passed. The route's starts when the request is complete.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, request_complete: bool) -> Poll<Failure> {
        if request_complete && self.global_at.is_none() {
            self.global_at = self.global.map(|limit| Instant::now() + limit);
        }
        let all = [
            (self.global_at, Limit::Global),
            (self.attempt_at, Limit::Attempt),
            (self.stream_at, Limit::Stream),
            (
                self.arrival_at.filter(|_| !request_complete),
                Limit::Arrival,
            ),
        ];
        let first = all
            .into_iter()
            .filter_map(|(at, limit)| Some((at?, limit)))
            .min_by_key(|(at, _)| *at);
        let Some((due, limit)) = first else {
            return Poll::Pending;
        };
        if self.sleep.as_ref().is_none_or(|(at, _)| *at != due) {
            self.sleep = Some((due, Box::pin(tokio::time::sleep_until(due))));
        }
        match &mut self.sleep {
            Some((_, sleep)) => sleep.as_mut().poll(cx).map(|()| match limit {
                Limit::Global => Failure::Timeout,
                Limit::Attempt => Failure::PerTryTimeout,
                Limit::Stream => Failure::MaxDuration { request_complete },
                Limit::Arrival => Failure::Late,
            }),
            None => Poll::Pending,
        }
    }
}

fn effective(exchange: &mut Exchange, forward: &Forward) -> Option<Duration> {
    let mut timeout = forward.timeout;
    if exchange.grpc {
        let asked = exchange
            .request
            .text(&GRPC_TIMEOUT)
            .and_then(parse_grpc_timeout);
        if let Some(cap) = forward.max_grpc_timeout {
            let asked = asked
                .map(|asked| asked.saturating_sub(forward.grpc_timeout_offset.unwrap_or_default()));
            timeout = match (asked, cap) {
                (Some(asked), Some(cap)) => Some(asked.min(cap)),
                (asked, cap) => asked.or(cap),
            };
        }
        if let (Some(asked), Some(cap)) = (asked, forward.grpc_timeout_header_max) {
            let asked =
                asked.saturating_sub(forward.grpc_timeout_header_offset.unwrap_or_default());
            timeout = Some(cap.map_or(asked, |cap| asked.min(cap)));
        }
    }
    // A filter may have added it; to look at the names costs less than to hash this one.
    let asks = |headers: &HeaderMap| headers.keys().any(|name| *name == UPSTREAM_TIMEOUT);
    if !asks(&exchange.request.headers) {
        return timeout.filter(|timeout| !timeout.is_zero());
    }
    if exchange.early.internal
        && let Some(millis) = exchange
            .request
            .text(&UPSTREAM_TIMEOUT)
            .and_then(|text| text.trim().parse().ok())
    {
        timeout = Some(Duration::from_millis(millis));
    }
    exchange.request.headers.remove(UPSTREAM_TIMEOUT);
    timeout.filter(|timeout| !timeout.is_zero())
}

/// `grpc-timeout`: up to eight digits and a unit.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_digits_and_a_unit() {
        assert_eq!(parse_grpc_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_grpc_timeout("2H"), Some(Duration::from_secs(7200)));
        for bad in ["", "m", "123456789S", "1x", "-1S", "1é"] {
            assert_eq!(parse_grpc_timeout(bad), None, "{bad}");
        }
    }
}
