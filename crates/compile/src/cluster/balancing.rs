//! Load balancing policies and their common settings.

mod extension;
mod subsets;

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::envoy::r#type::metadata::v3::{MetadataKey, metadata_key};
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{
    ClusterKind, Hashing, LbCommon, LbPolicy, LeastRequest, Maglev, OverrideHost, RingHash,
    SlowStart, Subsets, ZoneAware,
};

use crate::pb::{cluster as pb, core, kinds, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{duration_or, number, number_or, percent};

const DEFAULT_RING: u64 = 1024;
const LARGEST_RING: u64 = 8 * 1024 * 1024;
const DEFAULT_TABLE: u64 = 65_537;
const LARGEST_TABLE: u64 = 5_000_011;

/// How a cluster picks its hosts.
pub(super) struct Balancing {
    pub(super) policy: LbPolicy,
    pub(super) common: LbCommon,
    pub(super) subsets: Option<Arc<Subsets>>,
    pub(super) override_host: Option<Arc<OverrideHost>>,
}

pub(super) fn balancing(message: &pb::Cluster, kind: &ClusterKind) -> Compiled<Balancing> {
    let mut out = Balancing {
        policy: LbPolicy::RoundRobin(None),
        common: settings(message)?,
        subsets: None,
        override_host: None,
    };
    let provided = matches!(
        kind,
        ClusterKind::OriginalDst(_) | ClusterKind::DynamicForwardProxy(_)
    );
    match &message.load_balancing_policy {
        Some(list) => {
            if message.lb_subset_config.is_some() {
                return refuse_field(
                    "load_balancing_policy",
                    "cannot be combined with lb_subset_config",
                );
            }
            extension::apply(list, &mut out).within("load_balancing_policy")?;
            if provided != matches!(out.policy, LbPolicy::ClusterProvided) {
                return refuse_field(
                    "load_balancing_policy",
                    "cluster_provided goes with cluster types that provide one, and only with them",
                );
            }
        }
        None => {
            out.policy = policy(message, provided)?;
            if let Some(config) = &message.lb_subset_config {
                out.subsets = subsets::of_cluster(config)
                    .within("lb_subset_config")?
                    .map(Into::into);
            }
            if out.subsets.is_some() && provided {
                return refuse_field("lb_subset_config", "has no sense with CLUSTER_PROVIDED");
            }
        }
    }
    Ok(out)
}

/// Namespace and path of a metadata key.
pub(super) fn metadata_path(key: &MetadataKey) -> Compiled<(Str, Vec<Str>)> {
    use metadata_key::path_segment::Segment;
    let path = each("path", &key.path, |segment| match &segment.segment {
        Some(Segment::Key(key)) => Ok(Str::from(key.as_str())),
        Some(Segment::Index(_)) => refuse_field("index", "not supported"),
        None => refuse("needs a key"),
    })?;
    Ok((Str::from(key.key.as_str()), path))
}

fn policy(message: &pb::Cluster, provided: bool) -> Compiled<LbPolicy> {
    use pb::cluster::{LbConfig, LbPolicy as Wire};
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
                table_size: table_size("maglev_lb_config.table_size", config.table_size.as_ref())?,
                hashing,
            },
            _ => Maglev {
                table_size: DEFAULT_TABLE,
                hashing,
            },
        }),
        (Wire::LoadBalancingPolicyConfig, _) => {
            return refuse_field("load_balancing_policy", "is required by lb_policy");
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
    let murmur =
        config.hash_function() == pb::cluster::ring_hash_lb_config::HashFunction::MurmurHash2;
    rounded_ring(
        config.minimum_ring_size.as_ref(),
        config.maximum_ring_size.as_ref(),
        murmur,
        hashing,
    )
    .within("ring_hash_lb_config")
}

/// A ring whose sizes are in order and in range.
fn rounded_ring(
    min: Option<&wkt::UInt64Value>,
    max: Option<&wkt::UInt64Value>,
    murmur: bool,
    hashing: Hashing,
) -> Compiled<RingHash> {
    let min = wide(min, DEFAULT_RING);
    let max = wide(max, LARGEST_RING);
    if min > max || max > LARGEST_RING {
        return refuse(format!(
            "ring sizes must be ordered and at most {LARGEST_RING}"
        ));
    }
    Ok(RingHash {
        min,
        max,
        murmur,
        hashing,
    })
}

fn table_size(field: &str, size: Option<&wkt::UInt64Value>) -> Compiled<u64> {
    let size = wide(size, DEFAULT_TABLE);
    let prime = size > 1
        && (2..)
            .take_while(|n| n * n <= size)
            .all(|n| !size.is_multiple_of(n));
    if prime && size <= LARGEST_TABLE {
        Ok(size)
    } else {
        refuse_field(field, format!("must be a prime of at most {LARGEST_TABLE}"))
    }
}

fn slow_start(
    field: &str,
    message: Option<&pb::cluster::SlowStartConfig>,
) -> Compiled<Option<SlowStart>> {
    message.map_or(Ok(None), |message| {
        slow_start_of(
            message.slow_start_window.as_ref(),
            message.aggression.as_ref(),
            message.min_weight_percent.as_ref(),
        )
        .within("slow_start_config")
        .within(field)
    })
}

fn slow_start_of(
    window: Option<&wkt::Duration>,
    aggression: Option<&core::RuntimeDouble>,
    least: Option<&kinds::Percent>,
) -> Compiled<Option<SlowStart>> {
    let window = duration_or("slow_start_window", window, Duration::ZERO)?;
    let start = SlowStart {
        window,
        aggression: double(aggression, 1.0),
        min_weight_percent: percent("min_weight_percent", least, 10.0)?,
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

fn settings(message: &pb::Cluster) -> Compiled<LbCommon> {
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
        ignore_unchecked: common.ignore_new_hosts_until_first_hc,
    })
}
