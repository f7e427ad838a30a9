//! Internal redirects: a redirect of the upstream that the proxy follows itself (`internal_redirect_policy`).
//!
//! The request becomes that of the redirect and passes routing and filters again, as an exchange of its own.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use meltemi_traffic::Str;
use meltemi_traffic::headers::RequestHeadMut;
use meltemi_traffic::route::{Forward, InternalRedirect, RedirectPredicate};
use meltemi_upstream::exchange::{BodyKind, ResponseStart};

use super::Attempts;
use crate::http::plan::Plan;
use crate::http::record::Exchange;

const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

/// What the exchanges of one request know of the redirects before them.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    count: u32,
    /// Routes with the routes that their redirects have led to.
    taken: Vec<(Str, Str)>,
}

/// A request body to be sent again from its start.
#[derive(Debug, Default)]
pub(crate) struct KeptBody {
    /// What came, in order.
    pub pieces: Vec<Bytes>,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

/// A redirect's target.
#[derive(Debug, PartialEq, Eq)]
struct Target<'l> {
    scheme: &'l str,
    authority: &'l str,
    path: String,
}

impl<'l> Target<'l> {
    /// Reads an absolute URL; its fragment is not for servers.
    fn parse(location: &'l str) -> Option<Self> {
        let (scheme, rest) = location.split_once("://")?;
        let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if scheme.is_empty() || !is_scheme || authority.is_empty() {
            return None;
        }
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Self {
            scheme,
            authority,
            path: format!("{slash}{path}"),
        })
    }
}

impl Attempts {
    /// The body to send again, when the exchange's request has become that of the redirect; `None` when the response
    /// is passed on.
    pub(super) fn redirected(
        &mut self,
        exchange: &mut Exchange,
        plan: &Plan,
        forward: &Forward,
        start: &ResponseStart,
    ) -> Option<KeptBody> {
        let policy = forward.internal_redirects.as_ref()?;
        if !policy.codes.contains(&start.status.as_u16()) {
            return None;
        }
        let body = self.body.again();
        let followed = body.filter(|_| {
            let location = start.headers.get(LOCATION);
            location.is_some_and(|location| follow(exchange, plan, policy, start, location))
        });
        let stats = &self.cluster.stats;
        let counter = if followed.is_some() {
            &stats.redirect_succeeded
        } else {
            &stats.redirect_failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let drops_body = exchange.request.body == BodyKind::None;
        followed.map(|body| {
            if drops_body {
                KeptBody::default()
            } else {
                body
            }
        })
    }
}

/// Makes the exchange's request that of the redirect; false, and the request as it was, where the policy does not
/// allow it. The log tells the route that was looked at, as Envoy's does.
fn follow(
    exchange: &mut Exchange,
    plan: &Plan,
    policy: &InternalRedirect,
    start: &ResponseStart,
    location: &HeaderValue,
) -> bool {
    let stats = std::rc::Rc::clone(exchange.context.info_rc());
    let stats = stats.chain.http.as_ref().map(|http| &http.stats);
    let refuse = |counter: fn(&crate::stats::HttpStats) -> &std::sync::atomic::AtomicU64| {
        if let Some(stats) = stats {
            counter(stats).fetch_add(1, Ordering::Relaxed);
        }
        false
    };
    let Some(target) = location.to_str().ok().and_then(Target::parse) else {
        return refuse(|stats| &stats.counters.redirect_bad_location);
    };
    let from_https = exchange.request.https && exchange.context.info().tls.is_some();
    let to_https = target.scheme != "http";
    if !policy.allow_cross_scheme && from_https != to_https {
        return refuse(|stats| &stats.counters.redirect_unsafe_scheme);
    }
    if exchange.followed.as_ref().map_or(0, |before| before.count) >= policy.max {
        return refuse(|stats| &stats.counters.redirect_too_many);
    }
    let request = &mut exchange.request;
    let before = (
        request.headers.clone(),
        request.authority.clone(),
        request.path.clone(),
        request.https,
    );
    copy_fields(policy, start, &mut request.headers);
    request.https = to_https;
    request.set_authority(target.authority.as_bytes());
    request.set_path(target.path.as_bytes());
    let route = plan.next_route(exchange);
    let counter: Option<fn(&crate::stats::HttpStats) -> &std::sync::atomic::AtomicU64> =
        match &route {
            None => Some(|stats| &stats.counters.redirect_no_route),
            Some(route) if !accepts(exchange, plan, policy, route, (from_https, to_https)) => {
                Some(|stats| &stats.counters.redirect_predicate)
            }
            Some(_) => None,
        };
    let request = &mut exchange.request;
    if let Some(counter) = counter {
        (
            request.headers,
            request.authority,
            request.path,
            request.https,
        ) = before;
        return refuse(counter);
    }
    complete(exchange, start.status, from_https, (&before.1, &before.2));
    true
}

/// What the request says of its origin; a 303 turns other methods into GET (RFC 9110 §15.4.4).
fn complete(
    exchange: &mut Exchange,
    status: StatusCode,
    from_https: bool,
    (host, path): (&Bytes, &Bytes),
) {
    let request = &mut exchange.request;
    let announced = request.announced.take();
    if status == StatusCode::SEE_OTHER
        && request.method != Method::GET
        && request.method != Method::HEAD
    {
        request.method = Method::GET;
        request.body = BodyKind::None;
    } else if let Some(length) = announced {
        request.headers.insert(CONTENT_LENGTH, length);
    }
    let scheme: &[u8] = if from_https { b"https://" } else { b"http://" };
    if let Ok(url) = HeaderValue::from_bytes(&[scheme, host, path].concat()) {
        request.headers.insert(ORIGINAL_URL, url);
    }
    exchange.followed.get_or_insert_default().count += 1;
}

/// Fields of the response that the new request carries; one that the response lacks is removed.
fn copy_fields(policy: &InternalRedirect, start: &ResponseStart, to: &mut HeaderMap) {
    for name in &policy.copied_headers {
        to.remove(name);
        for value in start.headers.get_all(name) {
            to.append(name, value.clone());
        }
    }
}

/// Whether all predicates accept the target's route.
fn accepts(
    exchange: &mut Exchange,
    plan: &Plan,
    policy: &InternalRedirect,
    route: &Str,
    (from_https, to_https): (bool, bool),
) -> bool {
    policy.predicates.iter().all(|predicate| match predicate {
        RedirectPredicate::AllowListed(names) => names.contains(route),
        RedirectPredicate::SafeCrossScheme => from_https || !to_https,
        RedirectPredicate::PreviousRoutes => {
            let taken = &mut exchange.followed.get_or_insert_default().taken;
            let step = (plan.route.name.clone(), route.clone());
            let is_new = !taken.contains(&step);
            if is_new {
                taken.push(step);
            }
            is_new
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute_urls() {
        let path = |text| Target::parse(text).map(|target| target.path);
        assert_eq!(path("http://a.example/b?c#d").as_deref(), Some("/b?c"));
        assert_eq!(path("http://a.example").as_deref(), Some("/"));
        assert_eq!(path("http://a.example?x").as_deref(), Some("/?x"));
        for bad in ["", "/b", "//a/b", "http:///b", "a.example/b", "://a/b"] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }
}
