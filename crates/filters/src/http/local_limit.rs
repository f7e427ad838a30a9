//! `envoy.filters.http.local_ratelimit`: token buckets of this process.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;
use meltemi_traffic::Str;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::limiter::AtomicBucket;
use meltemi_traffic::ratelimit::{
    Descriptor, HostRules, LIMITED_BODY, LocalRateLimit, RateLimitFacts,
};

use crate::counters::Counter;
use crate::stage::{Answer, ChangeResponse, Response, Returning, Stage, Stop};

/// gRPC's RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
pub(super) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
pub(super) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Counters by statistics prefix.
#[derive(Debug)]
pub(super) struct Stats {
    prefix: Str,
    enabled: Counter,
    ok: Counter,
    limited: Counter,
    enforced: Counter,
}

impl Stats {
    pub(super) fn new(prefix: &Str) -> Self {
        let named = |name: &str| Counter::named(format!("{prefix}.http_local_rate_limit.{name}"));
        Self {
            prefix: prefix.clone(),
            enabled: named("enabled"),
            ok: named("ok"),
            limited: named("rate_limited"),
            enforced: named("enforced"),
        }
    }
}

/// Takes a token, or refuses.
pub(super) fn on_request<S: Stage>(
    own: &Stats,
    limit: &LocalRateLimit,
    stage: &mut S,
) -> Result<(), Stop> {
    if !limit.enabled.hits(fastrand::u64(..)) {
        return Ok(());
    }
    let other;
    let stats = if own.prefix == limit.stat_prefix {
        own
    } else {
        other = Stats::new(&limit.stat_prefix);
        &other
    };
    stats.enabled.inc();
    let descriptors = if limit.limiter.has_descriptors() {
        descriptors(limit, stage)
    } else {
        Vec::new()
    };
    let now = crate::clock();
    let limited = limit.limiter.admit(&descriptors, now);
    if limit.x_ratelimit_headers
        && let Some(bucket) = limited.bucket
    {
        stage.on_response(Box::new(Tell::of(bucket, now)));
    }
    if limited.allowed {
        stats.ok.inc();
        return Ok(());
    }
    stats.limited.inc();
    if !limit.enforced.hits(fastrand::u64(..)) {
        stage.change_request(&limit.request_ops);
        return Ok(());
    }
    stats.enforced.inc();
    if !limit.response_ops.is_empty() {
        stage.on_response(Box::new(ChangeResponse(limit.response_ops.clone())));
    }
    let status = StatusCode::from_u16(limit.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut answer =
        Answer::new(status, LIMITED_BODY, LIMITED_BODY).flag(ResponseFlags::RATE_LIMITED);
    answer.grpc_status = limit.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
    Err(answer.into())
}

fn descriptors<S: Stage>(limit: &LocalRateLimit, stage: &mut S) -> Vec<Descriptor> {
    let Some(route) = stage.route().cloned() else {
        return Vec::new();
    };
    with_facts(stage, &route, |facts| {
        if limit.rules.is_empty() {
            of_route(&route, limit.stage, limit.host_rules, facts)
        } else {
            let mut out = Vec::new();
            meltemi_traffic::ratelimit::append_descriptors(
                &limit.rules,
                limit.stage,
                facts,
                &mut out,
            );
            out
        }
    })
}

/// The descriptors that a route's own rules make.
pub(super) fn of_route<R: meltemi_traffic::headers::RequestHead + ?Sized>(
    route: &meltemi_traffic::route::Route,
    stage: u32,
    host_rules: HostRules,
    facts: &RateLimitFacts<'_, R>,
) -> Vec<Descriptor> {
    match &route.action {
        meltemi_traffic::route::Action::Forward(forward) => {
            forward.rate_limits.descriptors(stage, host_rules, facts)
        }
        _ => Vec::new(),
    }
}

/// Calls `read` with what descriptors are made of.
pub(super) fn with_facts<S: Stage, T>(
    stage: &S,
    route: &Arc<meltemi_traffic::route::Route>,
    read: impl FnOnce(&RateLimitFacts<'_, S::Head>) -> T,
) -> T {
    stage.with_facts(|facts| {
        read(&RateLimitFacts {
            request: stage.request(),
            remote: Some(facts.remote_ip),
            source_cluster: stage.service_cluster(),
            destination_cluster: stage.cluster_name(),
            metadata: facts.metadata,
            route_metadata: Some(&route.metadata),
        })
    })
}

/// Tells the client of a bucket.
#[derive(Debug)]
struct Tell {
    limit: u64,
    remaining: u64,
    reset: u64,
}

impl Tell {
    fn of(bucket: &AtomicBucket, now: Duration) -> Self {
        Self {
            // Made from a u32.
            limit: bucket.max() as u64,
            remaining: bucket.left(now),
            reset: bucket
                .next(now)
                .as_millis()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX),
        }
    }
}

impl Returning for Tell {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        response.headers.insert(LIMIT, self.limit.into());
        response.headers.insert(REMAINING, self.remaining.into());
        response.headers.insert(RESET, self.reset.into());
    }
}
