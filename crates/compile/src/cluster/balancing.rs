//! Load balancing policies and their common settings.

use std::time::Duration;

use meltemi_traffic::cluster::{
    ClusterKind, Hashing, LbCommon, LbPolicy, LeastRequest, Maglev, RingHash, SlowStart, ZoneAware,
};

use crate::pb::{cluster as pb, core, wkt};
use crate::refusal::{Compiled, Within, refuse_field};
use crate::values::{duration_or, number, number_or, percent};

const DEFAULT_RING: u64 = 1024;
const LARGEST_RING: u64 = 8 * 1024 * 1024;
const DEFAULT_TABLE: u64 = 65_537;
const LARGEST_TABLE: u64 = 5_000_011;

pub(super) fn policy(message: &pb::Cluster, kind: &ClusterKind) -> Compiled<LbPolicy> {
    use pb::cluster::{LbConfig, LbPolicy as Wire};
    let provided = matches!(
        kind,
        ClusterKind::OriginalDst(_) | ClusterKind::DynamicForwardProxy(_)
    );
    let wire = message.lb_policy();
    if provided != (wire == Wire::ClusterProvided) {
        return if provided {
            refuse_field(
                "lb_policy",
                "must be CLUSTER_PROVIDED for this type of cluster",
            )
        } else {
            refuse_field(
                "lb_policy",
                "CLUSTER_PROVIDED needs a cluster type that provides one",
            )
        };
    }
    let hashing = hashing(message)?;
    Ok(match (wire, &message.lb_config) {
        (Wire::ClusterProvided, _) => LbPolicy::ClusterProvided,
        (Wire::Random, _) => LbPolicy::Random,
        (Wire::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => LbPolicy::RoundRobin(
            slow_start("round_robin_lb_config", config.slow_start_config.as_ref())?,
        ),
        (Wire::RoundRobin, _) => LbPolicy::RoundRobin(None),
        (Wire::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            LbPolicy::LeastRequest(LeastRequest {
                choices: number_or(config.choice_count.as_ref(), 2).max(2),
                bias: double(config.active_request_bias.as_ref(), 1.0),
                full_scan: false,
                slow_start: slow_start(
                    "least_request_lb_config",
                    config.slow_start_config.as_ref(),
                )?,
            })
        }
        (Wire::LeastRequest, _) => LbPolicy::LeastRequest(LeastRequest {
            choices: 2,
            bias: 1.0,
            full_scan: false,
            slow_start: None,
        }),
        (Wire::RingHash, config) => LbPolicy::RingHash(match config {
            Some(LbConfig::RingHashLbConfig(config)) => ring(config, hashing)?,
            _ => RingHash {
                min: DEFAULT_RING,
                max: LARGEST_RING,
                murmur: false,
                hashing,
            },
        }),
        (Wire::Maglev, config) => LbPolicy::Maglev(match config {
            Some(LbConfig::MaglevLbConfig(config)) => Maglev {
                table_size: table_size(config)?,
                hashing,
            },
            _ => Maglev {
                table_size: DEFAULT_TABLE,
                hashing,
            },
        }),
        (Wire::LoadBalancingPolicyConfig, _) => {
            return refuse_field("lb_policy", "LOAD_BALANCING_POLICY_CONFIG is not supported");
        }
    })
}

fn double(message: Option<&core::RuntimeDouble>, default: f64) -> f64 {
    message.map_or(default, |message| message.default_value)
}

fn wide(message: Option<&wkt::UInt64Value>, default: u64) -> u64 {
    message.map_or(default, |message| message.value)
}

fn ring(config: &pb::cluster::RingHashLbConfig, hashing: Hashing) -> Compiled<RingHash> {
    let min = wide(config.minimum_ring_size.as_ref(), DEFAULT_RING);
    let max = wide(config.maximum_ring_size.as_ref(), LARGEST_RING);
    if min > max || max > LARGEST_RING {
        return refuse_field(
            "ring_hash_lb_config",
            format!("ring sizes must be ordered and at most {LARGEST_RING}"),
        );
    }
    let murmur =
        config.hash_function() == pb::cluster::ring_hash_lb_config::HashFunction::MurmurHash2;
    Ok(RingHash {
        min,
        max,
        murmur,
        hashing,
    })
}

fn table_size(config: &pb::cluster::MaglevLbConfig) -> Compiled<u64> {
    let size = wide(config.table_size.as_ref(), DEFAULT_TABLE);
    let prime = size > 1
        && (2..)
            .take_while(|n| n * n <= size)
            .all(|n| !size.is_multiple_of(n));
    if prime && size <= LARGEST_TABLE {
        Ok(size)
    } else {
        refuse_field(
            "maglev_lb_config.table_size",
            format!("must be a prime of at most {LARGEST_TABLE}"),
        )
    }
}

fn slow_start(
    field: &str,
    message: Option<&pb::cluster::SlowStartConfig>,
) -> Compiled<Option<SlowStart>> {
    let Some(message) = message else {
        return Ok(None);
    };
    let at = |name: &str| format!("{field}.slow_start_config.{name}");
    let window = duration_or(
        &at("slow_start_window"),
        message.slow_start_window.as_ref(),
        Duration::ZERO,
    )?;
    let start = SlowStart {
        window,
        aggression: double(message.aggression.as_ref(), 1.0),
        min_weight_percent: percent(
            &at("min_weight_percent"),
            message.min_weight_percent.as_ref(),
            10.0,
        )?,
    };
    Ok((!window.is_zero()).then_some(start))
}

fn hashing(message: &pb::Cluster) -> Compiled<Hashing> {
    let config = message
        .common_lb_config
        .as_ref()
        .and_then(|common| common.consistent_hashing_lb_config.as_ref());
    let Some(config) = config else {
        return Ok(Hashing::default());
    };
    let balance_factor = number(config.hash_balance_factor.as_ref());
    if balance_factor.is_some_and(|factor| factor < 100) {
        let field = "common_lb_config.consistent_hashing_lb_config.hash_balance_factor";
        return refuse_field(field, "must be at least 100");
    }
    Ok(Hashing {
        use_hostname: config.use_hostname_for_hashing,
        balance_factor,
    })
}

pub(super) fn settings(message: &pb::Cluster) -> Compiled<LbCommon> {
    use pb::cluster::common_lb_config::LocalityConfigSpecifier as By;
    let default = LbCommon::default();
    let Some(common) = &message.common_lb_config else {
        return Ok(default);
    };
    let threshold = percent(
        "healthy_panic_threshold",
        common.healthy_panic_threshold.as_ref(),
        default.panic_threshold,
    );
    let zone_aware = match &common.locality_config_specifier {
        Some(By::ZoneAwareLbConfig(config)) => Some(ZoneAware {
            routing_enabled: percent(
                "zone_aware_lb_config.routing_enabled",
                config.routing_enabled.as_ref(),
                100.0,
            )
            .within("common_lb_config")?,
            min_cluster_size: wide(config.min_cluster_size.as_ref(), 6),
            fail_traffic_on_panic: config.fail_traffic_on_panic,
        }),
        _ => None,
    };
    Ok(LbCommon {
        panic_threshold: threshold.within("common_lb_config")?,
        locality_weighted: matches!(
            &common.locality_config_specifier,
            Some(By::LocalityWeightedLbConfig(_))
        ),
        zone_aware,
    })
}
