//! Rate limit filters.

use std::time::Duration;

use meltemi_proto::envoy::extensions::common::ratelimit::v3 as shared_limits;
use meltemi_traffic::limiter::Limiter;
use meltemi_traffic::ratelimit::{
    BucketConfig, DescriptorBucket, HostRules, LocalRateLimit, RateLimit, RateLimitPerRoute,
};
use meltemi_traffic::{Fraction, Str};

use crate::grpc_service::grpc_target;
use crate::headers::set_header;
use crate::pb::{http_filters as filters, kinds};
use crate::rate_limit::rules;
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::{duration, flag, limit, number_or, runtime_fraction};

/// Envoy's default time for a call of the service.
const SERVICE_TIMEOUT: Duration = Duration::from_millis(20);

/// A token bucket.
pub(crate) fn bucket(message: &kinds::TokenBucket) -> Compiled<BucketConfig> {
    let interval = message
        .fill_interval
        .as_ref()
        .map(duration)
        .transpose()
        .within("fill_interval")?;
    let interval = interval.unwrap_or_default();
    if interval < Duration::from_millis(50) {
        return refuse_field("fill_interval", "must be at least 0.050s");
    }
    if message.max_tokens == 0 {
        return refuse_field("max_tokens", "must be at least 1");
    }
    let tokens_per_fill = number_or(message.tokens_per_fill.as_ref(), 1);
    Ok(BucketConfig {
        max_tokens: message.max_tokens,
        tokens_per_fill,
        fill_interval: interval,
    })
}

pub(super) fn local_limit(
    message: &filters::local_ratelimit::v3::LocalRateLimit,
) -> Compiled<LocalRateLimit> {
    let status = message.status.as_ref().map_or(429, |status| status.code);
    let ops = |field: &str, list| each(field, list, set_header);
    let when_not_enforced = &message.request_headers_to_add_when_not_enforced;
    let default = message
        .token_bucket
        .as_ref()
        .map(bucket)
        .transpose()
        .within("token_bucket")?;
    let descriptors = each("descriptors", &message.descriptors, descriptor)?;
    let always_default = flag(message.always_consume_default_token_bucket.as_ref(), true);
    Ok(LocalRateLimit {
        stat_prefix: message.stat_prefix.as_str().into(),
        // Below 400 would tell the client that all is well.
        status: u16::try_from(status)
            .ok()
            .filter(|status| *status >= 400)
            .unwrap_or(429),
        limiter: Limiter::new(default, &descriptors, always_default),
        stage: message.stage,
        host_rules: host_rules(message.vh_rate_limits()),
        rules: rules("rate_limits", &message.rate_limits)?,
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::NONE),
        enforced: runtime_fraction(message.filter_enforced.as_ref(), Fraction::NONE),
        request_ops: ops(
            "request_headers_to_add_when_not_enforced",
            when_not_enforced,
        )?,
        response_ops: ops("response_headers_to_add", &message.response_headers_to_add)?,
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        x_ratelimit_headers: message.enable_x_ratelimit_headers()
            == shared_limits::XRateLimitHeadersRfcVersion::DraftVersion03,
    })
}

fn host_rules(option: shared_limits::VhRateLimitsOptions) -> HostRules {
    match option {
        shared_limits::VhRateLimitsOptions::Override => HostRules::Override,
        shared_limits::VhRateLimitsOptions::Include => HostRules::Include,
        shared_limits::VhRateLimitsOptions::Ignore => HostRules::Ignore,
    }
}

pub(super) fn rate_limit(message: &filters::ratelimit::v3::RateLimit) -> Compiled<RateLimit> {
    use filters::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
    let service = message.rate_limit_service.as_ref();
    let Some(service) = service.and_then(|service| service.grpc_service.as_ref()) else {
        return refuse_field("rate_limit_service.grpc_service", "is required");
    };
    let mut service =
        grpc_target(service, SERVICE_TIMEOUT).within("rate_limit_service.grpc_service")?;
    service.timeout = limit("timeout", message.timeout.as_ref(), Some(SERVICE_TIMEOUT))?;
    if !matches!(message.request_type.as_str(), "" | "both") {
        return refuse_field("request_type", "only both is supported");
    }
    let status = |given: Option<&kinds::HttpStatus>, default: u16| {
        let code = given.and_then(|status| u16::try_from(status.code).ok());
        code.filter(|code| *code >= 400).unwrap_or(default)
    };
    Ok(RateLimit {
        domain: message.domain.as_str().into(),
        stage: message.stage,
        service,
        failure_mode_deny: message.failure_mode_deny,
        x_ratelimit_headers: message.enable_x_ratelimit_headers()
            == XRateLimitHeadersRfcVersion::DraftVersion03,
        no_limited_header: message.disable_x_envoy_ratelimited_header,
        status: status(message.rate_limited_status.as_ref(), 429),
        status_on_error: message
            .status_on_error
            .as_ref()
            .and_then(|status| u16::try_from(status.code).ok())
            .unwrap_or(500),
        response_ops: each(
            "response_headers_to_add",
            &message.response_headers_to_add,
            set_header,
        )?,
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        rules: rules("rate_limits", &message.rate_limits)?,
    })
}

pub(super) fn rate_limit_per_route(
    message: &filters::ratelimit::v3::RateLimitPerRoute,
) -> Compiled<RateLimitPerRoute> {
    use filters::ratelimit::v3::rate_limit_per_route::VhRateLimitsOptions;
    Ok(RateLimitPerRoute {
        host_rules: match message.vh_rate_limits() {
            VhRateLimitsOptions::Override => HostRules::Override,
            VhRateLimitsOptions::Include => HostRules::Include,
            VhRateLimitsOptions::Ignore => HostRules::Ignore,
        },
        domain: message.domain.as_str().into(),
        rules: rules("rate_limits", &message.rate_limits)?,
    })
}

fn descriptor(message: &shared_limits::LocalRateLimitDescriptor) -> Compiled<DescriptorBucket> {
    let Some(tokens) = &message.token_bucket else {
        return refuse_field("token_bucket", "is required");
    };
    if message.entries.iter().any(|entry| entry.value.is_empty()) {
        return refuse_field("entries", "an entry without value is not supported");
    }
    let entries = message
        .entries
        .iter()
        .map(|e| (Str::from(e.key.as_str()), Str::from(e.value.as_str())));
    Ok(DescriptorBucket {
        entries: entries.collect(),
        bucket: bucket(tokens).within("token_bucket")?,
    })
}
