//! The account of load balancing policies and active health checks.

use super::Coverage;

// table: one entry for each message
pub(super) static MESSAGES: &[Coverage] = &[
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
        effective: "fallback_policy default_subset subset_selectors locality_weight_aware scale_locality_weight panic_mode_any list_as_any metadata_fallback_policy",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector",
        effective: "keys fallback_policy fallback_keys_subset",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.LoadBalancingPolicy",
        effective: "policies",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.LoadBalancingPolicy.Policy",
        effective: "typed_extension_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.HealthCheck",
        effective: "timeout interval initial_jitter interval_jitter interval_jitter_percent unhealthy_threshold \
                    healthy_threshold reuse_connection no_traffic_interval no_traffic_healthy_interval \
                    unhealthy_interval unhealthy_edge_interval healthy_edge_interval tls_options http_health_check \
                    tcp_health_check grpc_health_check",
        not_yet: "",
        without_meaning: "always_log_health_check_failures always_log_health_check_success event_log_path event_logger",
    },
    Coverage {
        message: "envoy.config.core.v3.HealthCheck.GrpcHealthCheck",
        effective: "service_name authority",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
        effective: "host path expected_statuses retriable_statuses codec_client_type method request_headers_to_add",
        not_yet: "",
        without_meaning: "response_buffer_size",
    },
    Coverage {
        message: "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
        effective: "send receive",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.HealthCheck.TlsOptions",
        effective: "alpn_protocols",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
        effective: "port_value hostname address disable_active_health_check",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
        effective: "",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig",
        effective: "use_hostname_for_hashing hash_balance_factor",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig",
        effective: "zone_aware_lb_config locality_weighted_lb_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig",
        effective: "fail_traffic_on_panic",
        not_yet: "",
        without_meaning: "routing_enabled min_cluster_size locality_basis",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig",
        effective: "slow_start_window aggression min_weight_percent",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        effective: "choice_count active_request_bias slow_start_config locality_lb_config selection_method",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
        effective: "table_size consistent_hashing_lb_config locality_weighted_lb_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        effective: "override_host_sources fallback_policy",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost.OverrideHostSource",
        effective: "header metadata",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.random.v3.Random",
        effective: "locality_lb_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
        effective: "hash_function minimum_ring_size maximum_ring_size use_hostname_for_hashing hash_balance_factor consistent_hashing_lb_config locality_weighted_lb_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        effective: "slow_start_config locality_lb_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.subset.v3.Subset",
        effective: "fallback_policy default_subset subset_selectors allow_redundant_keys locality_weight_aware scale_locality_weight panic_mode_any list_as_any metadata_fallback_policy subset_lb_policy",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.load_balancing_policies.subset.v3.Subset.LbSubsetSelector",
        effective: "keys fallback_policy fallback_keys_subset",
        not_yet: "",
        without_meaning: "",
    },
];
