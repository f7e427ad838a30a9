//! Rate limit filters.

use std::time::Duration;

use meltemi_proto::envoy::extensions::common::ratelimit::v3 as shared_limits;
use meltemi_traffic::ratelimit::{BucketConfig, DescriptorBucket, LocalRateLimit};
use meltemi_traffic::{Fraction, Str};

use crate::headers::set_header;
use crate::pb::{http_filters as filters, kinds};
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::{duration, flag, number_or, runtime_fraction};

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
    Ok(LocalRateLimit {
        stat_prefix: message.stat_prefix.as_str().into(),
        // Below 400 would tell the client that all is well.
        status: u16::try_from(status)
            .ok()
            .filter(|status| *status >= 400)
            .unwrap_or(429),
        bucket: message
            .token_bucket
            .as_ref()
            .map(bucket)
            .transpose()
            .within("token_bucket")?,
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::NONE),
        enforced: runtime_fraction(message.filter_enforced.as_ref(), Fraction::NONE),
        request_ops: ops(
            "request_headers_to_add_when_not_enforced",
            when_not_enforced,
        )?,
        response_ops: ops("response_headers_to_add", &message.response_headers_to_add)?,
        descriptors: each("descriptors", &message.descriptors, descriptor)?,
        always_default: flag(message.always_consume_default_token_bucket.as_ref(), true),
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        per_connection: message.local_rate_limit_per_downstream_connection,
        x_ratelimit_headers: message.enable_x_ratelimit_headers()
            == shared_limits::XRateLimitHeadersRfcVersion::DraftVersion03,
    })
}

fn descriptor(message: &shared_limits::LocalRateLimitDescriptor) -> Compiled<DescriptorBucket> {
    let Some(tokens) = &message.token_bucket else {
        return refuse_field("token_bucket", "is required");
    };
    let entries = message
        .entries
        .iter()
        .map(|e| (Str::from(e.key.as_str()), Str::from(e.value.as_str())));
    Ok(DescriptorBucket {
        entries: entries.collect(),
        bucket: bucket(tokens).within("token_bucket")?,
    })
}
