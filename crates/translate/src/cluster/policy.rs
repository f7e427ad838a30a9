//! Traffic policies as fields of a cluster.

use meltemi_model::MeshConfig;
use meltemi_model::destination::{
    ConnectionPool, HashAlgorithm, LoadBalancer, LocalityPreference, OutlierDetection,
    PolicyBlocks, RetryBudget, Warmup,
};
use meltemi_names::Protocol;

use super::{UpstreamHttp, original_destination};
use crate::pb;
use crate::pb::cluster::cluster as fields;

/// No limit.
const UNLIMITED: u32 = u32::MAX;

/// Sets what a policy says beside TLS and HTTP.
pub(super) fn apply(cluster: &mut pb::cluster::Cluster, policy: &PolicyBlocks, mesh: &MeshConfig) {
    let pool = policy.connection_pool.as_ref();
    let connect_timeout = pool
        .and_then(|pool| pool.connect_timeout)
        .unwrap_or(mesh.connect_timeout);
    cluster.connect_timeout = Some(pb::duration(connect_timeout));
    cluster.circuit_breakers = Some(circuit_breakers(pool));
    cluster.upstream_connection_options = pool.and_then(keepalive);
    let outlier = policy.outlier_detection.as_ref();
    cluster.outlier_detection = outlier.map(outlier_detection);
    // Unready endpoints are sent too; without a threshold they are used only when the policy says so.
    let threshold = outlier.map_or(0, |outlier| outlier.min_health_percent);
    cluster.common_lb_config = Some(fields::CommonLbConfig {
        healthy_panic_threshold: Some(pb::kinds::Percent {
            value: f64::from(threshold),
        }),
        locality_config_specifier: policy
            .locality
            .as_ref()
            .filter(|own| weighs_places(own, outlier))
            .map(|_| {
                fields::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    Default::default(),
                )
            }),
        ..Default::default()
    });
    load_balancer(cluster, policy.load_balancer.as_ref());
    if let Some(warmup) = &policy.warmup {
        slow_start(cluster, warmup);
    }
    if let Some(budget) = &policy.retry_budget {
        limit_retries(cluster, budget);
    }
}

/// Whether the weights of places count.
fn weighs_places(own: &LocalityPreference, outlier: Option<&OutlierDetection>) -> bool {
    let takes_over = !own.failover.is_empty() || !own.failover_priority.is_empty();
    own.enabled && (!own.distribute.is_empty() || (takes_over && outlier.is_some()))
}

fn load_balancer(cluster: &mut pb::cluster::Cluster, wanted: Option<&LoadBalancer>) {
    if is_original_destination(cluster) {
        cluster.lb_policy = fields::LbPolicy::ClusterProvided.into();
        return;
    }
    let policy = match wanted {
        None | Some(LoadBalancer::LeastRequest) => fields::LbPolicy::LeastRequest,
        Some(LoadBalancer::RoundRobin) => fields::LbPolicy::RoundRobin,
        Some(LoadBalancer::Random) => fields::LbPolicy::Random,
        Some(LoadBalancer::Passthrough) => return original_destination(cluster),
        Some(LoadBalancer::ConsistentHash(hash)) => match &hash.algorithm {
            HashAlgorithm::RingHash { minimum_ring_size } => {
                cluster.lb_config = Some(fields::LbConfig::RingHashLbConfig(
                    fields::RingHashLbConfig {
                        minimum_ring_size: Some(pb::wkt::UInt64Value {
                            value: *minimum_ring_size,
                        }),
                        ..Default::default()
                    },
                ));
                fields::LbPolicy::RingHash
            }
            HashAlgorithm::Maglev { table_size } => {
                cluster.lb_config = table_size.map(|value| {
                    let table_size = Some(pb::wkt::UInt64Value { value });
                    fields::LbConfig::MaglevLbConfig(fields::MaglevLbConfig { table_size })
                });
                fields::LbPolicy::Maglev
            }
        },
    };
    cluster.lb_policy = policy.into();
}

/// A share in millionths as a percentage.
fn percent(millionths: u32) -> pb::kinds::Percent {
    pb::kinds::Percent {
        value: f64::from(millionths) / 10_000.0,
    }
}

/// New endpoints get their full share of the traffic only after a while.
fn slow_start(cluster: &mut pb::cluster::Cluster, warmup: &Warmup) {
    let config = fields::SlowStartConfig {
        slow_start_window: Some(pb::duration(warmup.duration)),
        aggression: warmup.aggression.map(|steepness| pb::core::RuntimeDouble {
            default_value: f64::from(steepness) / 1_000_000.0,
            runtime_key: format!("upstream.{}.slow_start_aggression", cluster.name),
        }),
        min_weight_percent: warmup.minimum_share.map(percent),
    };
    if cluster.lb_policy == i32::from(fields::LbPolicy::LeastRequest) {
        cluster.lb_config = Some(fields::LbConfig::LeastRequestLbConfig(
            fields::LeastRequestLbConfig {
                slow_start_config: Some(config),
                ..Default::default()
            },
        ));
    } else if cluster.lb_policy == i32::from(fields::LbPolicy::RoundRobin) {
        cluster.lb_config = Some(fields::LbConfig::RoundRobinLbConfig(
            fields::RoundRobinLbConfig {
                slow_start_config: Some(config),
            },
        ));
    }
}

fn limit_retries(cluster: &mut pb::cluster::Cluster, budget: &RetryBudget) {
    let limits = cluster
        .circuit_breakers
        .iter_mut()
        .flat_map(|limits| &mut limits.thresholds);
    for limits in limits {
        limits.retry_budget = Some(pb::cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(percent(budget.share)),
            min_retry_concurrency: Some(pb::number(budget.minimum)),
            ..Default::default()
        });
    }
}

pub(super) fn is_original_destination(cluster: &pb::cluster::Cluster) -> bool {
    let kind: i32 = fields::DiscoveryType::OriginalDst.into();
    matches!(cluster.cluster_discovery_type, Some(fields::ClusterDiscoveryType::Type(own)) if own == kind)
}

pub(super) fn circuit_breakers(pool: Option<&ConnectionPool>) -> pb::cluster::CircuitBreakers {
    let limit = |of: fn(&ConnectionPool) -> Option<u32>| {
        Some(pb::number(pool.and_then(of).unwrap_or(UNLIMITED)))
    };
    pb::cluster::CircuitBreakers {
        thresholds: vec![pb::cluster::circuit_breakers::Thresholds {
            max_connections: limit(|pool| pool.max_connections),
            max_pending_requests: limit(|pool| pool.max_pending_requests),
            max_requests: limit(|pool| pool.max_requests),
            max_retries: limit(|pool| pool.max_retries),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn keepalive(pool: &ConnectionPool) -> Option<pb::cluster::UpstreamConnectionOptions> {
    let keepalive = pool.tcp_keepalive.as_ref()?;
    let seconds = |time: Option<std::time::Duration>| {
        time.map(|time| pb::number(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)))
    };
    Some(pb::cluster::UpstreamConnectionOptions {
        tcp_keepalive: Some(pb::core::TcpKeepalive {
            keepalive_probes: keepalive.probes.map(pb::number),
            keepalive_time: seconds(keepalive.time),
            keepalive_interval: seconds(keepalive.interval),
        }),
        ..Default::default()
    })
}

/// Ejection by success rate is always off; a check with zero as its number is off.
fn outlier_detection(wanted: &OutlierDetection) -> pb::cluster::OutlierDetection {
    let enforcing = |count: u32| pb::number(if count > 0 { 100 } else { 0 });
    let counted = |count: u32| (count > 0).then(|| pb::number(count));
    let mut out = pb::cluster::OutlierDetection {
        enforcing_success_rate: Some(pb::number(0)),
        interval: wanted.interval.map(pb::duration),
        base_ejection_time: wanted.base_ejection_time.map(pb::duration),
        max_ejection_percent: counted(wanted.max_ejection_percent),
        ..Default::default()
    };
    if let Some(count) = wanted.consecutive_5xx {
        out.consecutive_5xx = counted(count);
        out.enforcing_consecutive_5xx = Some(enforcing(count));
    }
    if let Some(count) = wanted.consecutive_gateway {
        out.consecutive_gateway_failure = counted(count);
        out.enforcing_consecutive_gateway_failure = Some(enforcing(count));
    }
    if wanted.split_local_origin {
        out.split_external_local_origin_errors = true;
        out.enforcing_local_origin_success_rate = Some(pb::number(0));
        if let Some(count) = wanted.consecutive_local_origin {
            out.consecutive_local_origin_failure = counted(count);
            out.enforcing_consecutive_local_origin_failure = Some(enforcing(count));
        }
    }
    out
}

/// What is spoken towards the endpoints of a port.
pub(super) fn upstream_http(
    protocol: Protocol,
    pool: Option<&ConnectionPool>,
    mesh: &MeshConfig,
    router: bool,
) -> UpstreamHttp {
    if protocol.is_http2() {
        return UpstreamHttp::Http2;
    }
    let use_client_protocol = pool.is_some_and(|pool| pool.use_client_protocol);
    let upgrade = pool
        .and_then(|pool| pool.h2_upgrade)
        .unwrap_or_else(|| mesh.h2_upgrade && protocol.is_http());
    if use_client_protocol {
        UpstreamHttp::AsDownstream
    } else if upgrade && !protocol.is_tcp() {
        UpstreamHttp::Http2
    } else if protocol == Protocol::Auto && !router {
        UpstreamHttp::AsDownstream
    } else {
        UpstreamHttp::Http1
    }
}

/// HTTP options that apply to any version; `None` when all are defaults.
pub(super) fn common_http(pool: Option<&ConnectionPool>) -> Option<pb::core::HttpProtocolOptions> {
    let pool = pool?;
    let options = pb::core::HttpProtocolOptions {
        idle_timeout: pool
            .http_idle_timeout
            .or(pool.tcp_idle_timeout)
            .map(pb::duration),
        max_connection_duration: pool.max_connection_duration.map(pb::duration),
        max_requests_per_connection: pool.max_requests_per_connection.map(pb::number),
        ..Default::default()
    };
    (options != pb::core::HttpProtocolOptions::default()).then_some(options)
}
