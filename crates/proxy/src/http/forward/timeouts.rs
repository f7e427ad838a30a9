//! How long a forwarded request may take.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use meltemi_traffic::route::Forward;
use tokio::time::{Instant, Sleep};

use super::Failure;
use crate::http::downstream::Downstream;
use crate::http::record::Exchange;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const UPSTREAM_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// A `grpc-timeout` has up to eight digits.
const MOST_GRPC_UNITS: u128 = 99_999_999;

/// The route's timeout and the attempt's.
#[derive(Debug)]
pub(super) struct Timeouts {
    global: Option<Duration>,
    per_try: Option<Duration>,
    /// Without a byte of an attempt.
    per_try_idle: Option<Duration>,
    idle_at: Option<Instant>,
    /// A gRPC upstream is told in its own header too.
    tells_grpc: bool,
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
    AttemptIdle,
    Stream,
    Arrival,
}

impl Timeouts {
    /// What the route asks for this request.
    pub(super) fn new(exchange: &mut Exchange, forward: &Forward) -> Self {
        let global = for_all(exchange, forward);
        let policy = forward.retry.as_ref();
        let own = take_millis(exchange, &PER_TRY_TIMEOUT);
        let per_try = own.or_else(|| policy.and_then(|policy| policy.per_try_timeout));
        let per_try = per_try
            .filter(|per_try| !per_try.is_zero() && global.is_none_or(|global| *per_try < global));
        let stream_at = for_stream(exchange, forward).map(|longest| exchange.clock + longest);
        Self {
            global,
            per_try,
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            idle_at: None,
            tells_grpc: exchange.grpc && forward.max_grpc_timeout.is_some(),
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

    /// Tells the upstream how long it has; nothing when nothing limits it.
    pub(super) fn tell(&self, headers: &mut HeaderMap, suppress: bool) {
        let Some(longest) = self.per_try.or(self.global) else {
            return;
        };
        // Out of time, but 0 would be no limit.
        let left = self.global_at.map_or(self.global, |at| {
            let left = at.saturating_duration_since(Instant::now());
            Some(left.max(Duration::from_millis(1)))
        });
        let expected = left.map_or(longest, |left| left.min(longest));
        if !suppress {
            let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, millis.into());
        }
        if self.tells_grpc {
            headers.insert(GRPC_TIMEOUT, grpc_timeout(expected));
        }
    }

    /// The attempt's time begins.
    pub(super) fn start_attempt(&mut self) {
        self.attempt_at = self.per_try.map(|limit| Instant::now() + limit);
        self.touch();
    }

    /// Something of the attempt has come.
    pub(super) fn touch(&mut self) {
        if let Some(limit) = self.per_try_idle {
            self.idle_at = Some(Instant::now() + limit);
        }
    }

    /// No attempt runs.
    pub(super) fn pause(&mut self) {
        self.attempt_at = None;
        self.idle_at = None;
    }

    /// The attempt's time ends; its response may still idle too long.
    pub(super) fn end_attempt(&mut self) {
        self.attempt_at = None;
    }

    /// Waits for `waited`, unless the client leaves or a timeout passes before.
    pub(super) async fn unless_over<T>(
        &mut self,
        down: &mut Downstream<'_>,
        waited: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut waited = std::pin::pin!(waited);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = waited.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if down.body_finished()
                && let Poll::Ready(error) = down.poll_gone(cx)
            {
                return Poll::Ready(Err(Failure::Client(error)));
            }
            self.poll(cx, down.body_finished()).map(Err)
        })
        .await
    }

    /// Ready when a timeout has passed. The route's starts when the request is complete.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, request_complete: bool) -> Poll<Failure> {
        if request_complete && self.global_at.is_none() {
            self.global_at = self.global.map(|limit| Instant::now() + limit);
        }
        let all = [
            (self.global_at, Limit::Global),
            (self.attempt_at, Limit::Attempt),
            (self.idle_at, Limit::AttemptIdle),
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
                Limit::Attempt => Failure::PerTryTimeout { idle: false },
                Limit::AttemptIdle => Failure::PerTryTimeout { idle: true },
                Limit::Stream => Failure::MaxDuration { request_complete },
                Limit::Arrival => Failure::Late,
            }),
            None => Poll::Pending,
        }
    }
}

/// The time for the whole response. A route with `max_stream_duration` has none but that of the request itself.
fn for_all(exchange: &mut Exchange, forward: &Forward) -> Option<Duration> {
    let caps_stream =
        forward.max_stream_duration.is_some() || forward.grpc_timeout_header_max.is_some();
    let of_route = match forward.max_grpc_timeout {
        _ if caps_stream => None,
        Some(cap) if exchange.grpc => {
            let asked = asked_by_grpc(exchange).filter(|asked| !asked.is_zero());
            let offset = forward.grpc_timeout_offset.unwrap_or_default();
            let asked = asked.map(|asked| {
                if offset < asked {
                    asked - offset
                } else {
                    asked
                }
            });
            match (asked, cap.filter(|cap| !cap.is_zero())) {
                (Some(asked), Some(cap)) => Some(asked.min(cap)),
                (asked, cap) => asked.or(cap),
            }
        }
        _ => forward.timeout,
    };
    let own = take_millis(exchange, &UPSTREAM_TIMEOUT);
    own.or(of_route).filter(|timeout| !timeout.is_zero())
}

/// Milliseconds in a control header, which goes no further. Only internal requests still have any.
fn take_millis(exchange: &mut Exchange, name: &HeaderName) -> Option<Duration> {
    if !exchange.early.internal {
        return None;
    }
    let value = exchange.request.headers.remove(name)?;
    let millis = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn asked_by_grpc(exchange: &Exchange) -> Option<Duration> {
    let text = exchange.request.text(&GRPC_TIMEOUT)?;
    parse_grpc_timeout(text)
}

/// How long the stream may live: by the `grpc-timeout` of the request where the route honours it, else by route or
/// connection manager.
fn for_stream(exchange: &mut Exchange, forward: &Forward) -> Option<Duration> {
    let asked = forward
        .grpc_timeout_header_max
        .and_then(|cap| Some((asked_by_grpc(exchange)?, cap)));
    let longest = match asked {
        Some((asked, cap)) => {
            let cap = cap.filter(|cap| !cap.is_zero());
            let capped = cap.map_or(asked, |cap| asked.min(cap));
            let offset = forward.grpc_timeout_header_offset.unwrap_or_default();
            Some(capped.saturating_sub(offset))
        }
        None => forward
            .max_stream_duration
            .unwrap_or(exchange.context.hcm().max_stream_duration)
            .filter(|longest| !longest.is_zero()),
    };
    if exchange.grpc
        && let Some(longest) = longest
    {
        let headers = &mut exchange.request.headers;
        headers.insert(GRPC_TIMEOUT, grpc_timeout(longest));
    }
    longest
}

/// Milliseconds, or seconds where eight digits do not hold them.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis();
    let text = if millis <= MOST_GRPC_UNITS {
        format!("{millis}m")
    } else {
        format!("{}S", (millis / 1000).min(MOST_GRPC_UNITS))
    };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("99999999S"))
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
