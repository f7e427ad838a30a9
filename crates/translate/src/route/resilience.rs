//! Retries, faults, cross-origin policies, hashes: what a route says beside its destination.

use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors_filter;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault_filter;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use meltemi_model::destination::HashKey;
use meltemi_model::routing::{Abort, Cors, Fault, Retries};
use meltemi_model::{DEFAULT_RETRY_ON, DefaultRetries};
use meltemi_names::ArcStr;

use super::condition;
use crate::pb;
use crate::pb::route::{retry_policy, route_action};

/// How often an endpoint that was tried is passed over.
const HOST_SELECTION_ATTEMPTS: i64 = 5;

/// Every request.
const ALL: u32 = 1_000_000;

/// The retries of a route; `by_hash` when its only destination is chosen by a hash, where looking for an untried
/// endpoint would break the stickiness.
pub(super) fn retries(
    wanted: Option<&Retries>,
    default: &DefaultRetries,
    by_hash: bool,
) -> Option<pb::route::RetryPolicy> {
    let Some(wanted) = wanted else {
        let mut policy = parse_conditions(&default.retry_on);
        policy.num_retries = Some(pb::number(default.attempts));
        if !by_hash {
            avoid_previous_hosts(&mut policy);
        }
        return (default.attempts > 0).then_some(policy);
    };
    if wanted.attempts == 0 {
        return None;
    }
    let retry_on = if wanted.retry_on.is_empty() {
        DEFAULT_RETRY_ON
    } else {
        &wanted.retry_on
    };
    let mut policy = parse_conditions(retry_on);
    policy.num_retries = Some(pb::number(wanted.attempts));
    policy.per_try_timeout = wanted.per_try_timeout.map(pb::duration);
    policy.retry_back_off = wanted.backoff.map(|base| retry_policy::RetryBackOff {
        base_interval: Some(pb::duration(base)),
        ..Default::default()
    });
    if wanted.ignore_previous_hosts.unwrap_or(!by_hash) {
        avoid_previous_hosts(&mut policy);
    }
    if wanted.remote_localities {
        let config = pb::any(&PreviousPrioritiesConfig {
            update_frequency: 2,
        });
        policy.retry_priority = Some(retry_policy::RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_policy::retry_priority::ConfigType::TypedConfig(
                config,
            )),
        });
    }
    Some(policy)
}

fn avoid_previous_hosts(policy: &mut pb::route::RetryPolicy) {
    let config = pb::any(&PreviousHostsPredicate {});
    policy.host_selection_retry_max_attempts = HOST_SELECTION_ATTEMPTS;
    policy.retry_host_predicate = vec![retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(
            config,
        )),
    }];
}

/// Conditions separated by commas, with status codes among them.
fn parse_conditions(text: &str) -> pb::route::RetryPolicy {
    const BY_STATUS: &str = "retriable-status-codes";
    let mut conditions: Vec<&str> = Vec::new();
    let mut codes = Vec::new();
    for condition in text
        .split(',')
        .map(str::trim)
        .filter(|condition| !condition.is_empty())
    {
        match condition.parse::<u32>() {
            Ok(code) => codes.push(code),
            Err(_) => conditions.push(condition),
        }
    }
    if !codes.is_empty() && !conditions.contains(&BY_STATUS) {
        conditions.push(BY_STATUS);
    }
    pb::route::RetryPolicy {
        retry_on: conditions.join(","),
        retriable_status_codes: codes,
        ..Default::default()
    }
}

/// The retries of a request on its way to the application: only one that was not begun.
pub(super) fn inbound_retries() -> pb::route::RetryPolicy {
    pb::route::RetryPolicy {
        retry_on: "reset-before-request".to_owned(),
        num_retries: Some(pb::number(2)),
        ..Default::default()
    }
}

/// Faults to inject.
pub(super) fn fault(fault: &Fault) -> pb::wkt::Any {
    use fault_common::fault_delay::FaultDelaySecifier;
    use fault_filter::fault_abort::ErrorType;
    let delay = fault.delay.map(|(time, share)| fault_common::FaultDelay {
        percentage: Some(pb::share(share)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(pb::duration(time))),
    });
    let abort = fault.abort.map(|(abort, share)| fault_filter::FaultAbort {
        percentage: Some(pb::share(share)),
        error_type: Some(match abort {
            Abort::Http(status) => ErrorType::HttpStatus(status),
            Abort::Grpc(status) => ErrorType::GrpcStatus(status),
        }),
        ..Default::default()
    });
    pb::any(&fault_filter::HttpFault {
        delay,
        abort,
        ..Default::default()
    })
}

/// Cross-origin requests.
pub(super) fn cors(cors: &Cors) -> pb::wkt::Any {
    let joined = |list: &[ArcStr]| {
        list.iter()
            .map(ArcStr::as_str)
            .collect::<Vec<_>>()
            .join(",")
    };
    pb::any(&cors_filter::CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(condition::text).collect(),
        allow_methods: joined(&cors.allow_methods),
        allow_headers: joined(&cors.allow_headers),
        expose_headers: joined(&cors.expose_headers),
        max_age: cors
            .max_age
            .map(|age| age.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: cors.allow_credentials.map(pb::boolean),
        filter_enabled: Some(pb::core::RuntimeFractionalPercent {
            default_value: Some(pb::kinds::FractionalPercent {
                numerator: 100,
                denominator: pb::kinds::fractional_percent::DenominatorType::Hundred.into(),
            }),
            ..Default::default()
        }),
        forward_not_matching_preflights: Some(pb::boolean(!cors.ignore_unmatched_preflights)),
        ..Default::default()
    })
}

/// What the hash of a destination is taken of.
pub(super) fn hash(key: &HashKey) -> route_action::HashPolicy {
    use route_action::hash_policy as policy;
    let specifier = match key {
        HashKey::Header(name) => policy::PolicySpecifier::Header(policy::Header {
            header_name: name.to_string(),
            ..Default::default()
        }),
        HashKey::Cookie { name, path, ttl } => policy::PolicySpecifier::Cookie(policy::Cookie {
            name: name.to_string(),
            path: path.to_string(),
            ttl: ttl.map(pb::duration),
            ..Default::default()
        }),
        HashKey::SourceIp => {
            policy::PolicySpecifier::ConnectionProperties(policy::ConnectionProperties {
                source_ip: true,
            })
        }
        HashKey::QueryParameter(name) => {
            policy::PolicySpecifier::QueryParameter(policy::QueryParameter {
                name: name.to_string(),
            })
        }
    };
    route_action::HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }
}

/// A copy of the request; `None` when no request is copied.
pub(super) fn mirror(cluster: &str, share: u32) -> Option<route_action::RequestMirrorPolicy> {
    let share = share.min(ALL);
    (share > 0).then(|| route_action::RequestMirrorPolicy {
        cluster: cluster.to_owned(),
        runtime_fraction: Some(pb::runtime_share(share)),
        trace_sampled: Some(pb::boolean(false)),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_among_the_conditions_are_set_apart() {
        let policy = parse_conditions("gateway-error, 503,connect-failure,504");
        assert_eq!(
            policy.retry_on,
            "gateway-error,connect-failure,retriable-status-codes"
        );
        assert_eq!(policy.retriable_status_codes, [503, 504]);
    }

    #[test]
    fn zero_attempts_switch_retries_off() {
        let none = Retries {
            attempts: 0,
            per_try_timeout: None,
            retry_on: ArcStr::new(),
            remote_localities: false,
            ignore_previous_hosts: None,
            backoff: None,
        };
        let default = DefaultRetries {
            attempts: 2,
            retry_on: DEFAULT_RETRY_ON.into(),
        };
        assert_eq!(retries(Some(&none), &default, false), None);
        let policy = retries(None, &default, false).expect("the mesh's default");
        assert_eq!(policy.retry_on, DEFAULT_RETRY_ON);
        assert_eq!(
            policy.host_selection_retry_max_attempts,
            HOST_SELECTION_ATTEMPTS
        );
        assert!(
            retries(None, &default, true)
                .expect("default")
                .retry_host_predicate
                .is_empty()
        );
    }
}
