//! Outlier detection with Envoy's defaults.

use std::time::Duration;

use meltemi_traffic::cluster::{FailurePercentage, OutlierDetection, SuccessRate};

use crate::pb::cluster as pb;
use crate::refusal::{Compiled, refuse_field};
use crate::values::{duration_or, flag, number_or, positive_or};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_BASE: Duration = Duration::from_secs(30);
const DEFAULT_MAX: Duration = Duration::from_secs(300);

// table: one line for each setting
pub(super) fn detection(message: &pb::OutlierDetection) -> Compiled<OutlierDetection> {
    let base = positive_or(
        "base_ejection_time",
        message.base_ejection_time.as_ref(),
        DEFAULT_BASE,
    )?;
    let max = positive_or(
        "max_ejection_time",
        message.max_ejection_time.as_ref(),
        DEFAULT_MAX.max(base),
    )?;
    if max < base {
        return refuse_field("max_ejection_time", "is less than base_ejection_time");
    }
    let percents = [
        ("max_ejection_percent", &message.max_ejection_percent),
        (
            "enforcing_consecutive_5xx",
            &message.enforcing_consecutive_5xx,
        ),
        ("enforcing_success_rate", &message.enforcing_success_rate),
        (
            "enforcing_consecutive_gateway_failure",
            &message.enforcing_consecutive_gateway_failure,
        ),
        (
            "enforcing_consecutive_local_origin_failure",
            &message.enforcing_consecutive_local_origin_failure,
        ),
        (
            "enforcing_local_origin_success_rate",
            &message.enforcing_local_origin_success_rate,
        ),
        (
            "failure_percentage_threshold",
            &message.failure_percentage_threshold,
        ),
        (
            "enforcing_failure_percentage",
            &message.enforcing_failure_percentage,
        ),
        (
            "enforcing_failure_percentage_local_origin",
            &message.enforcing_failure_percentage_local_origin,
        ),
    ];
    if let Some((field, _)) = percents
        .iter()
        .find(|(_, value)| value.is_some_and(|value| value.value > 100))
    {
        return refuse_field(field, "must be at most 100");
    }
    Ok(OutlierDetection {
        consecutive_5xx: number_or(message.consecutive_5xx.as_ref(), 5),
        enforcing_consecutive_5xx: number_or(message.enforcing_consecutive_5xx.as_ref(), 100),
        consecutive_gateway: number_or(message.consecutive_gateway_failure.as_ref(), 5),
        enforcing_consecutive_gateway: number_or(
            message.enforcing_consecutive_gateway_failure.as_ref(),
            0,
        ),
        consecutive_local: number_or(message.consecutive_local_origin_failure.as_ref(), 5),
        enforcing_consecutive_local: number_or(
            message.enforcing_consecutive_local_origin_failure.as_ref(),
            100,
        ),
        split_local: message.split_external_local_origin_errors,
        uneject_on_check: flag(
            message.successful_active_health_check_uneject_host.as_ref(),
            true,
        ),
        interval: positive_or("interval", message.interval.as_ref(), DEFAULT_INTERVAL)?,
        base_ejection: base,
        max_ejection: max,
        jitter: duration_or(
            "max_ejection_time_jitter",
            message.max_ejection_time_jitter.as_ref(),
            Duration::ZERO,
        )?,
        max_ejection_percent: number_or(message.max_ejection_percent.as_ref(), 10),
        always_eject_one: flag(message.always_eject_one_host.as_ref(), false),
        success_rate: SuccessRate {
            enforcing: number_or(message.enforcing_success_rate.as_ref(), 100),
            enforcing_local: number_or(message.enforcing_local_origin_success_rate.as_ref(), 100),
            minimum_hosts: number_or(message.success_rate_minimum_hosts.as_ref(), 5),
            request_volume: number_or(message.success_rate_request_volume.as_ref(), 100),
            stdev_factor: number_or(message.success_rate_stdev_factor.as_ref(), 1900),
        },
        failure_percentage: FailurePercentage {
            threshold: number_or(message.failure_percentage_threshold.as_ref(), 85),
            enforcing: number_or(message.enforcing_failure_percentage.as_ref(), 0),
            enforcing_local: number_or(
                message.enforcing_failure_percentage_local_origin.as_ref(),
                0,
            ),
            minimum_hosts: number_or(message.failure_percentage_minimum_hosts.as_ref(), 5),
            request_volume: number_or(message.failure_percentage_request_volume.as_ref(), 50),
        },
    })
}
