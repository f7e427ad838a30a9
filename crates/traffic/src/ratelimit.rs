//! Token buckets and rate limit rules.

use std::sync::Arc;
use std::time::Duration;

use crate::ext_authz::GrpcTarget;
use crate::limiter::Limiter;
use crate::mutation::HeaderOp;
use crate::{Fraction, Str};

mod descriptor;

pub use descriptor::{
    Descriptor, HostRules, LimitUnit, RateLimitAction, RateLimitFacts, RateLimitRule, RateLimits,
    RequestsPerUnit, append_descriptors,
};

/// Settings of a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Capacity; the bucket starts full.
    pub max_tokens: u32,
    /// Tokens for each interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

/// `local_ratelimit` of HTTP chains.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Statistics prefix.
    pub stat_prefix: Str,
    /// Status of a denial.
    pub status: u16,
    /// The buckets.
    pub limiter: Limiter,
    /// Stage of the rules that make descriptors.
    pub stage: u32,
    /// Which rules of virtual hosts make descriptors.
    pub host_rules: HostRules,
    /// Rules of the filter itself, instead of the route's.
    pub rules: Arc<[RateLimitRule]>,
    /// Share of requests that are looked at.
    pub enabled: Fraction,
    /// Share of requests that are denied.
    pub enforced: Fraction,
    /// Changes to requests over the limit that still go upstream.
    pub request_ops: Vec<HeaderOp>,
    /// Changes to denials.
    pub response_ops: Vec<HeaderOp>,
    /// gRPC clients see RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
    /// x-ratelimit-* fields are sent.
    pub x_ratelimit_headers: bool,
}

/// A bucket for requests with these descriptor entries.
#[derive(Debug, Clone)]
pub struct DescriptorBucket {
    /// Keys and values, all equal.
    pub entries: Vec<(Str, Str)>,
    /// The bucket.
    pub bucket: BucketConfig,
}

/// Body of a denial.
pub const LIMITED_BODY: &str = "local_rate_limited";

/// `ratelimit` of HTTP chains: a service counts.
#[derive(Debug)]
pub struct RateLimit {
    /// Domain.
    pub domain: Str,
    /// Stage of the rules that make descriptors.
    pub stage: u32,
    /// The service.
    pub service: GrpcTarget,
    /// A failed call refuses the request.
    pub failure_mode_deny: bool,
    /// x-ratelimit-* fields are sent.
    pub x_ratelimit_headers: bool,
    /// x-envoy-ratelimited is not sent.
    pub no_limited_header: bool,
    /// Status of a denial.
    pub status: u16,
    /// Status of a failed call.
    pub status_on_error: u16,
    /// Changes to denials.
    pub response_ops: Vec<HeaderOp>,
    /// gRPC clients see RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
    /// Rules of the filter itself, instead of the route's.
    pub rules: Arc<[RateLimitRule]>,
}

/// `RateLimitPerRoute`.
#[derive(Debug)]
pub struct RateLimitPerRoute {
    /// Which rules of virtual hosts make descriptors.
    pub host_rules: HostRules,
    /// Another domain; empty is the filter's.
    pub domain: Str,
    /// Rules instead of all others.
    pub rules: Arc<[RateLimitRule]>,
}
