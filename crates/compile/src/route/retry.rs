//! Retry policies.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use meltemi_traffic::retry::{DEFAULT_BASE_INTERVAL, RateLimitedBackOff, RetryOn, RetryPolicy};

use crate::pb::route as pb;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{header_matcher, header_name, limit, number_or, positive_or};

const DEFAULT_RESET_BOUND: Duration = Duration::from_secs(300);

/// The last policy and what became of it: nearly all routes of a mesh have the same one, and share it.
#[derive(Default)]
pub(crate) struct LastPolicy(RefCell<Option<(pb::RetryPolicy, Arc<RetryPolicy>)>>);

impl LastPolicy {
    pub(super) fn compiled(&self, message: &pb::RetryPolicy) -> Compiled<Arc<RetryPolicy>> {
        if let Some((last, compiled)) = &*self.0.borrow()
            && last == message
        {
            return Ok(Arc::clone(compiled));
        }
        let compiled = retry_policy(message)?;
        *self.0.borrow_mut() = Some((message.clone(), Arc::clone(&compiled)));
        Ok(compiled)
    }
}

fn retry_policy(message: &pb::RetryPolicy) -> Compiled<Arc<RetryPolicy>> {
    let back_off = message.retry_back_off.unwrap_or_default();
    let base = positive_or(
        "retry_back_off.base_interval",
        back_off.base_interval.as_ref(),
        DEFAULT_BASE_INTERVAL,
    )?;
    let max = positive_or(
        "retry_back_off.max_interval",
        back_off.max_interval.as_ref(),
        base * 10,
    )?;
    if max < base {
        return refuse_field("retry_back_off.max_interval", "is less than base_interval");
    }
    let mut policy = RetryPolicy::new(RetryOn::parse(&message.retry_on));
    for (position, predicate) in message.retry_host_predicate.iter().enumerate() {
        match predicate.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => policy.avoid_previous_hosts = true,
            "envoy.retry_host_predicates.omit_canary_hosts" => policy.avoid_canary_hosts = true,
            other => {
                return refuse(format!("{other} is not supported"))
                    .item("retry_host_predicate", position);
            }
        }
    }
    policy.avoid_previous_priorities = message
        .retry_priority
        .as_ref()
        .map(previous_priorities)
        .transpose()?;
    policy.num_retries = number_or(message.num_retries.as_ref(), 1);
    policy.per_try_timeout = limit("per_try_timeout", message.per_try_timeout.as_ref(), None)?;
    policy.per_try_idle_timeout = limit(
        "per_try_idle_timeout",
        message.per_try_idle_timeout.as_ref(),
        None,
    )?;
    policy.retriable_codes = each(
        "retriable_status_codes",
        &message.retriable_status_codes,
        |code| u16::try_from(*code).or_else(|_| refuse("is no status code")),
    )?;
    policy.retriable_headers = each(
        "retriable_headers",
        &message.retriable_headers,
        header_matcher,
    )?;
    policy.retriable_request_headers = each(
        "retriable_request_headers",
        &message.retriable_request_headers,
        header_matcher,
    )?;
    policy.base_interval = base;
    policy.max_interval = max;
    policy.host_selection_attempts = u32::try_from(message.host_selection_retry_max_attempts)
        .unwrap_or(0)
        .max(1);
    policy.rate_limited_back_off = message
        .rate_limited_retry_back_off
        .as_ref()
        .map(asked)
        .transpose()?;
    Ok(Arc::new(policy))
}

fn previous_priorities(message: &pb::retry_policy::RetryPriority) -> Compiled<u32> {
    use meltemi_proto::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
    if message.name != "envoy.retry_priorities.previous_priorities" {
        return refuse_field(
            "retry_priority",
            format!("{} is not supported", message.name),
        );
    }
    let Some(pb::retry_policy::retry_priority::ConfigType::TypedConfig(any)) = &message.config_type
    else {
        return refuse_field("retry_priority.typed_config", "is required");
    };
    let config: PreviousPrioritiesConfig =
        crate::filter_config::decode(any).within("retry_priority.typed_config")?;
    Ok(u32::try_from(config.update_frequency).unwrap_or(1).max(1))
}

fn asked(message: &pb::retry_policy::RateLimitedRetryBackOff) -> Compiled<RateLimitedBackOff> {
    use pb::retry_policy::ResetHeaderFormat;
    let field = "rate_limited_retry_back_off";
    let headers = each("reset_headers", &message.reset_headers, |header| {
        let unix = header.format() == ResetHeaderFormat::UnixTimestamp;
        Ok((header_name(&header.name).within("name")?, unix))
    });
    let reset_headers = headers.within(field)?;
    if reset_headers.is_empty() {
        return refuse_field(
            "rate_limited_retry_back_off.reset_headers",
            "needs at least one",
        );
    }
    let max = positive_or(
        "max_interval",
        message.max_interval.as_ref(),
        DEFAULT_RESET_BOUND,
    )
    .within(field)?;
    Ok(RateLimitedBackOff {
        reset_headers,
        max_interval: max,
    })
}
