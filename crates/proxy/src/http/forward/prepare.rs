//! What changes in a request before it is forwarded.

use http::header::{HeaderName, HeaderValue};
use meltemi_traffic::headers::RequestHeadMut;
use meltemi_traffic::route::Forward;

use super::timeouts::Timeouts;
use crate::http::exchange::Plan;
use crate::http::record::Exchange;
use crate::http::request::Request;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Another path, and what it was.
pub(crate) fn replace_path(request: &mut Request, path: Vec<u8>, shows_original: bool) {
    if shows_original && let Ok(original) = HeaderValue::from_maybe_shared(request.path.clone()) {
        request.headers.insert(ORIGINAL_PATH, original);
    }
    request.path = path.into();
}

/// Header changes, rewrites and control headers, once for all attempts.
pub(super) fn prepare(
    exchange: &mut Exchange,
    plan: &Plan,
    forward: &Forward,
    timeouts: &Timeouts,
) {
    plan.change_request(exchange);
    let suppress = exchange.context.runtime().suppress_envoy_headers;
    let request = &mut exchange.request;
    let host = match plan.entry().and_then(|entry| entry.host_rewrite.as_ref()) {
        Some(host) => Some(host.as_bytes().to_vec()),
        None => forward.host_rewrite.apply(request, None),
    };
    if let Some(host) = host {
        if forward.append_forwarded_host
            && let Ok(original) = HeaderValue::from_maybe_shared(request.authority.clone())
        {
            request.headers.append(FORWARDED_HOST, original);
        }
        if !suppress && let Ok(original) = HeaderValue::from_maybe_shared(request.authority.clone())
        {
            request.headers.insert(ORIGINAL_HOST, original);
        }
        request.set_authority(&host);
    }
    if let Some(path) = forward
        .path_rewrite
        .apply(&plan.route.matches.path, &request.path)
    {
        replace_path(request, path, !suppress);
    }
    if !suppress && let Some(expected) = timeouts.expected() {
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        request.headers.insert(EXPECTED_TIMEOUT, millis.into());
    }
    request.strip_framing();
}
