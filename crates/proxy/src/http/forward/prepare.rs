//! What changes in a request before it is forwarded.

use http::header::{HeaderName, HeaderValue};
use meltemi_traffic::headers::RequestHeadMut;
use meltemi_traffic::route::Forward;

use super::timeouts::Timeouts;
use crate::http::plan::Plan;
use crate::http::record::Exchange;
use crate::http::request::Request;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Another path, and what it was.
pub(crate) fn replace_path(request: &mut Request, path: Vec<u8>, shows_original: bool) {
    if shows_original && let Ok(original) = HeaderValue::from_maybe_shared(request.path.clone()) {
        request.headers.insert(ORIGINAL_PATH, original);
    }
    request.path = path.into();
}

/// Another host, and what it was.
pub(super) fn replace_host(
    request: &mut Request,
    host: &[u8],
    appends_original: bool,
    shows_original: bool,
) {
    if appends_original {
        let all = match request.headers.get(FORWARDED_HOST) {
            Some(have) => [have.as_bytes(), b",", &request.authority].concat(),
            None => request.authority.to_vec(),
        };
        if let Ok(all) = HeaderValue::from_bytes(&all) {
            request.headers.insert(FORWARDED_HOST, all);
        }
    }
    if shows_original
        && let Ok(original) = HeaderValue::from_maybe_shared(request.authority.clone())
    {
        request.headers.insert(ORIGINAL_HOST, original);
    }
    request.set_authority(host);
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
    if let Some(host) = plan.entry().and_then(|entry| entry.host_rewrite.as_ref()) {
        request.set_authority(host.as_bytes());
    }
    if let Some(host) = forward.host_rewrite.apply(request, None) {
        replace_host(request, &host, forward.append_forwarded_host, !suppress);
    }
    if let Some(path) = forward
        .path_rewrite
        .apply(&plan.route.matches.path, &request.path)
    {
        replace_path(request, path, !suppress);
    }
    timeouts.tell(&mut request.headers, suppress);
    request.strip_framing();
}
