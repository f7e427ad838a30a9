//! Control headers by which an internal request brings its own retry policy.

use std::sync::{Arc, LazyLock};

use http::header::{HeaderMap, HeaderName};
use meltemi_traffic::retry::{RequestRetry, RetryOn, RetryPolicy};
use meltemi_traffic::route::Forward;

use crate::http::record::Exchange;

const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");

/// Stands in where only the request wants retries.
static NO_POLICY: LazyLock<Arc<RetryPolicy>> =
    LazyLock::new(|| Arc::new(RetryPolicy::new(RetryOn::default())));

/// The policy for a request, and what the request adds to it. The control headers go no further; requests that are
/// not internal have lost theirs before.
pub(super) fn retries(
    exchange: &mut Exchange,
    forward: &Forward,
    tunnel: bool,
) -> (Option<Arc<RetryPolicy>>, RequestRetry) {
    let extra = if exchange.early.internal {
        take(&mut exchange.request.headers)
    } else {
        RequestRetry::default()
    };
    let policy = match &forward.retry {
        None if extra.on.is_empty() => None,
        None => Some(Arc::clone(&NO_POLICY)),
        Some(policy) => Some(Arc::clone(policy)),
    };
    let policy = policy.filter(|policy| !tunnel && policy.covers(&exchange.request));
    (policy, extra)
}

fn take(headers: &mut HeaderMap) -> RequestRetry {
    let mut text = |name: &HeaderName| {
        let value = headers.remove(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let on = text(&RETRY_ON).unwrap_or_default();
    let grpc_on = text(&RETRY_GRPC_ON).unwrap_or_default();
    let max_retries = text(&MAX_RETRIES).and_then(|text| text.trim().parse().ok());
    let codes = text(&STATUS_CODES).unwrap_or_default();
    let names = text(&HEADER_NAMES).unwrap_or_default();
    let _ = text(&HEDGE);
    RequestRetry {
        on: RetryOn::parse(&on).with(RetryOn::parse(&grpc_on)),
        codes: list(&codes).filter_map(|code| code.parse().ok()).collect(),
        headers: list(&names)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect(),
        max_retries,
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}
