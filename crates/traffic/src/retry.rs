//! Retry conditions and back-off.

use std::time::Duration;

use http::header::HeaderName;

use crate::headers::{Headers, RequestHead};
use crate::matcher::{Field, HeaderMatcher, HeaderTest};
use crate::{Limit, Str};

/// `RetryPolicy` with Envoy's defaults filled in.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Retries after the first attempt.
    pub num_retries: u32,
    /// Time for one attempt.
    pub per_try_timeout: Limit,
    /// Inactivity of one attempt.
    pub per_try_idle_timeout: Limit,
    /// Statuses of `retriable-status-codes`.
    pub retriable_codes: Vec<u16>,
    /// Response fields of `retriable-headers`.
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Requests that may be retried; empty is all.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// First back-off bound.
    pub base_interval: Duration,
    /// Largest back-off bound.
    pub max_interval: Duration,
    /// Hosts already tried are avoided.
    pub avoid_previous_hosts: bool,
    /// Canary hosts are avoided.
    pub avoid_canary_hosts: bool,
    /// Priorities already tried are avoided, recomputed after so many attempts.
    pub avoid_previous_priorities: Option<u32>,
    /// Picks until a rejected one is used anyway.
    pub host_selection_attempts: u32,
    /// Back-off that the response asks for.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
}

/// Back-off from response headers.
#[derive(Debug, Clone)]
pub struct RateLimitedBackOff {
    /// Headers in order; true: Unix time, false: seconds.
    pub reset_headers: Vec<(HeaderName, bool)>,
    /// Longest wait honoured.
    pub max_interval: Duration,
}

/// Default bounds of Envoy's back-off.
pub const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);

/// A set of retry conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($($bit:literal $name:ident $token:literal;)*) => {
        impl RetryOn {
            $(#[doc = concat!("`", $token, "`")] pub const $name: Self = Self(1 << $bit);)*
        }
        const TOKENS: &[(&str, RetryOn)] = &[$(($token, RetryOn::$name)),*];
    };
}

conditions! {
    0 SERVER_ERROR "5xx";
    1 GATEWAY_ERROR "gateway-error";
    2 RESET "reset";
    3 RESET_BEFORE_REQUEST "reset-before-request";
    4 CONNECT_FAILURE "connect-failure";
    5 REFUSED_STREAM "refused-stream";
    6 RETRIABLE_4XX "retriable-4xx";
    7 RETRIABLE_STATUS_CODES "retriable-status-codes";
    8 RETRIABLE_HEADERS "retriable-headers";
    9 ENVOY_RATELIMITED "envoy-ratelimited";
    10 HTTP3_POST_CONNECT "http3-post-connect-failure";
    11 GRPC_CANCELLED "cancelled";
    12 GRPC_DEADLINE "deadline-exceeded";
    13 GRPC_INTERNAL "internal";
    14 GRPC_EXHAUSTED "resource-exhausted";
    15 GRPC_UNAVAILABLE "unavailable";
}

impl RetryOn {
    /// Reads a comma list; unknown tokens are ignored, as Envoy does.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let mut on = Self::default();
        for token in list.split(',') {
            if let Some((_, bit)) = TOKENS.iter().find(|(name, _)| *name == token.trim()) {
                on.0 |= bit.0;
            }
        }
        on
    }

    /// No condition.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds the conditions of another set.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// How an attempt failed without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection (connect timeout included).
    Connect,
    /// A breaker was full: never retried.
    Overflow,
    /// The stream was refused before the upstream looked at it.
    RefusedStream,
    /// Reset or closed; `request_sent`: its head was written.
    Reset {
        /// The request's head was written.
        request_sent: bool,
    },
    /// The attempt's own timeout.
    PerTryTimeout,
}

/// Additional conditions that one request brings along (internal requests only).
#[derive(Debug, Clone, Default)]
pub struct RequestRetry {
    /// x-envoy-retry-on and x-envoy-retry-grpc-on.
    pub on: RetryOn,
    /// x-envoy-retriable-status-codes.
    pub codes: Vec<u16>,
    /// x-envoy-retriable-header-names.
    pub headers: Vec<HeaderName>,
    /// x-envoy-max-retries.
    pub max_retries: Option<u32>,
}

impl RetryPolicy {
    /// Envoy's defaults for a list of conditions.
    #[must_use]
    pub fn new(on: RetryOn) -> Self {
        Self {
            on,
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            retriable_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            base_interval: DEFAULT_BASE_INTERVAL,
            max_interval: DEFAULT_BASE_INTERVAL * 10,
            avoid_previous_hosts: false,
            avoid_canary_hosts: false,
            avoid_previous_priorities: None,
            host_selection_attempts: 1,
            rate_limited_back_off: None,
        }
    }

    /// Whether this request may be retried at all.
    #[must_use]
    pub fn covers<R: RequestHead + ?Sized>(&self, request: &R) -> bool {
        self.retriable_request_headers.is_empty()
            || self
                .retriable_request_headers
                .iter()
                .any(|matcher| matcher.matches(request))
    }

    /// Whether a failed attempt is worth another.
    #[must_use]
    pub fn retries_failure(&self, extra: &RequestRetry, failure: AttemptFailure) -> bool {
        let on = self.on.with(extra.on);
        match failure {
            AttemptFailure::Overflow => false,
            AttemptFailure::Connect => on.has(
                RetryOn::CONNECT_FAILURE
                    .with(RetryOn::SERVER_ERROR)
                    .with(RetryOn::GATEWAY_ERROR)
                    .with(RetryOn::RESET)
                    .with(RetryOn::RESET_BEFORE_REQUEST),
            ),
            AttemptFailure::RefusedStream => on.has(
                RetryOn::REFUSED_STREAM
                    .with(RetryOn::SERVER_ERROR)
                    .with(RetryOn::GATEWAY_ERROR)
                    .with(RetryOn::RESET),
            ),
            AttemptFailure::Reset { request_sent } => {
                on.has(
                    RetryOn::SERVER_ERROR
                        .with(RetryOn::GATEWAY_ERROR)
                        .with(RetryOn::RESET),
                ) || (!request_sent && on.has(RetryOn::RESET_BEFORE_REQUEST))
            }
            AttemptFailure::PerTryTimeout => on.has(
                RetryOn::SERVER_ERROR
                    .with(RetryOn::GATEWAY_ERROR)
                    .with(RetryOn::RESET),
            ),
        }
    }

    /// Whether a response is worth another attempt.
    #[must_use]
    pub fn retries_response<H: Headers + ?Sized>(
        &self,
        extra: &RequestRetry,
        status: u16,
        response: &H,
    ) -> bool {
        let on = self.on.with(extra.on);
        // Someone limits our rate: more of the same makes it worse.
        if response.has(&RATELIMITED) {
            return on.has(RetryOn::ENVOY_RATELIMITED);
        }
        (on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
            || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES)
                && (self.retriable_codes.contains(&status) || extra.codes.contains(&status)))
            || (on.has(RetryOn::RETRIABLE_HEADERS) && self.header_asks(extra, response))
            || self.grpc_asks(on, response)
    }

    fn header_asks<H: Headers + ?Sized>(&self, extra: &RequestRetry, response: &H) -> bool {
        extra.headers.iter().any(|name| response.has(name))
            || self
                .retriable_headers
                .iter()
                .any(|matcher| response_matches(matcher, response))
    }

    fn grpc_asks<H: Headers + ?Sized>(&self, on: RetryOn, response: &H) -> bool {
        let bit = match response.get(&GRPC_STATUS) {
            Some(b"1") => RetryOn::GRPC_CANCELLED,
            Some(b"4") => RetryOn::GRPC_DEADLINE,
            Some(b"8") => RetryOn::GRPC_EXHAUSTED,
            Some(b"13") => RetryOn::GRPC_INTERNAL,
            Some(b"14") => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        on.has(bit)
    }

    /// Wait before retry number `retry` (1 is the first): uniform below a doubling bound.
    #[must_use]
    pub fn back_off(&self, retry: u32, random: u64) -> Duration {
        let doublings = retry.saturating_sub(1).min(31);
        let bound = self
            .base_interval
            .saturating_mul(1 << doublings)
            .min(self.max_interval);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }

    /// Wait that the response asks for, when the policy honours it. `now` is Unix time.
    #[must_use]
    pub fn asked_back_off<H: Headers + ?Sized>(
        &self,
        response: &H,
        now: Duration,
        random: u64,
    ) -> Limit {
        let policy = self.rate_limited_back_off.as_ref()?;
        policy.reset_headers.iter().find_map(|(name, unix)| {
            let text = std::str::from_utf8(response.get(name)?).ok()?;
            let seconds = Duration::from_secs(text.trim().parse().ok()?);
            let wait = if *unix {
                seconds.checked_sub(now)?
            } else {
                seconds
            };
            // Jitter spreads the clients over half the wait again.
            let jitter = wait.mul_f64((random % 1000) as f64 / 2000.0);
            (wait <= policy.max_interval).then(|| wait + jitter)
        })
    }
}

const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

fn response_matches<H: Headers + ?Sized>(matcher: &HeaderMatcher, response: &H) -> bool {
    let Field::Name(name) = &matcher.field else {
        return false;
    };
    let value = response.get(name);
    let hit = match (&matcher.test, value) {
        (HeaderTest::Present(wanted), value) => value.is_some() == *wanted,
        (HeaderTest::Value(test), Some(value)) => test.matches(value),
        (HeaderTest::Range(start, end), Some(value)) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok())
            .is_some_and(|n| (*start..*end).contains(&n)),
        _ => return false,
    };
    hit != matcher.invert
}

/// Statistics name of a policy's conditions, for logs.
#[must_use]
pub fn tokens(on: RetryOn) -> Vec<Str> {
    TOKENS
        .iter()
        .filter(|(_, bit)| on.has(*bit))
        .map(|(name, _)| Str::from(*name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    const ISTIO: &str =
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

    #[test]
    fn istios_default_policy_retries_connects_but_not_plain_503() {
        let policy = RetryPolicy::new(RetryOn::parse(ISTIO));
        let none = RequestRetry::default();
        assert!(policy.retries_failure(&none, AttemptFailure::Connect));
        assert!(policy.retries_failure(&none, AttemptFailure::RefusedStream));
        assert!(!policy.retries_failure(&none, AttemptFailure::Reset { request_sent: true }));
        assert!(!policy.retries_failure(&none, AttemptFailure::Overflow));
        assert!(!policy.retries_response(&none, 503, &HeaderMap::new()));
        let codes = RetryPolicy {
            retriable_codes: vec![503],
            ..policy
        };
        assert!(codes.retries_response(&none, 503, &HeaderMap::new()));
    }

    #[test]
    fn grpc_conditions_read_the_status_in_response_headers() {
        let policy = RetryPolicy::new(RetryOn::parse(ISTIO));
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "14".parse().unwrap());
        assert!(policy.retries_response(&RequestRetry::default(), 200, &headers));
        headers.insert("grpc-status", "13".parse().unwrap());
        assert!(!policy.retries_response(&RequestRetry::default(), 200, &headers));
    }

    #[test]
    fn rate_limited_responses_are_left_and_overloaded_ones_are_not() {
        let policy = RetryPolicy::new(RetryOn::parse("5xx"));
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-ratelimited", "true".parse().unwrap());
        assert!(!policy.retries_response(&RequestRetry::default(), 503, &headers));
        let policy = RetryPolicy::new(RetryOn::parse("5xx,envoy-ratelimited"));
        assert!(policy.retries_response(&RequestRetry::default(), 429, &headers));
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-overloaded", "true".parse().unwrap());
        assert!(policy.retries_response(&RequestRetry::default(), 503, &headers));
    }

    #[test]
    fn back_off_bounds_double_up_to_ten_times_the_base() {
        let policy = RetryPolicy::new(RetryOn::parse("5xx"));
        let bounds: Vec<_> = (1..=6)
            .map(|n| policy.back_off(n, 24_999_999).as_nanos())
            .collect();
        assert_eq!(bounds[0], 24_999_999);
        for (retry, limit) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (6, 250)] {
            let bound = Duration::from_millis(limit);
            let largest = u64::try_from(bound.as_nanos()).unwrap() - 1;
            assert_eq!(
                policy.back_off(retry, largest),
                Duration::from_nanos(largest)
            );
            assert_eq!(policy.back_off(retry, largest + 1), Duration::ZERO);
        }
    }

    #[test]
    fn a_retry_after_header_replaces_the_back_off() {
        let policy = RetryPolicy {
            rate_limited_back_off: Some(RateLimitedBackOff {
                reset_headers: vec![(http::header::RETRY_AFTER, false)],
                max_interval: Duration::from_secs(300),
            }),
            ..RetryPolicy::new(RetryOn::parse("5xx"))
        };
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "2".parse().unwrap());
        assert_eq!(
            policy.asked_back_off(&headers, Duration::ZERO, 0),
            Some(Duration::from_secs(2))
        );
        headers.insert("retry-after", "301".parse().unwrap());
        assert_eq!(policy.asked_back_off(&headers, Duration::ZERO, 0), None);
    }
}
