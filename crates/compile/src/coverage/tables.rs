//! The account of fields: sorted by message, then what is effective, what is accepted but not carried out yet, and what
//! is without meaning.

use super::Coverage;

// table: one entry for each message
pub(super) static MESSAGES: &[Coverage] = &[
    Coverage {
        message: "envoy.config.accesslog.v3.AccessLog",
        effective: "name filter typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.bootstrap.v3.Admin",
        effective: "address",
        not_yet: "",
        without_meaning: "access_log access_log_path profile_path socket_options ignore_global_conn_limit",
    },
    Coverage {
        message: "envoy.config.bootstrap.v3.Bootstrap",
        effective: "node static_resources dynamic_resources admin layered_runtime default_regex_engine overload_manager \
                    stats_config stats_flush_interval stats_flush_on_admin",
        not_yet: "",
        without_meaning: "cluster_manager stats_sinks watchdog \
                    watchdogs enable_dispatcher_stats stats_server_version_override \
                    use_tcp_for_dns_lookups dns_resolution_config typed_dns_resolver_config bootstrap_extensions \
                    deferred_stat_options default_socket_interface inline_headers application_log_config \
                    grpc_async_client_manager_config memory_allocator_manager node_context_params tracing \
                    config_sources default_config_source",
    },
    Coverage {
        message: "envoy.config.bootstrap.v3.Bootstrap.DynamicResources",
        effective: "lds_config cds_config ads_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.bootstrap.v3.Bootstrap.StaticResources",
        effective: "listeners clusters secrets",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.CircuitBreakers",
        effective: "thresholds per_host_thresholds",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        effective: "priority max_connections max_pending_requests max_requests max_retries retry_budget \
                    track_remaining",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget",
        effective: "budget_percent min_retry_concurrency",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster",
        effective: "transport_socket_matches name alt_stat_name type cluster_type eds_cluster_config connect_timeout \
                    per_connection_buffer_limit_bytes lb_policy load_assignment health_checks \
                    max_requests_per_connection circuit_breakers common_http_protocol_options http_protocol_options \
                    http2_protocol_options typed_extension_protocol_options dns_refresh_rate dns_jitter \
                    dns_failure_refresh_rate dns_lookup_family outlier_detection cleanup_interval \
                    upstream_bind_config ring_hash_lb_config maglev_lb_config original_dst_lb_config \
                    least_request_lb_config round_robin_lb_config common_lb_config transport_socket metadata \
                    upstream_connection_options filters lb_subset_config load_balancing_policy respect_dns_ttl \
                    close_connections_on_host_health_failure ignore_health_on_host_removal",
        not_yet: "",
        without_meaning: "wait_for_warm_on_init stats_matcher typed_dns_resolver_config dns_resolution_config \
                    dns_resolvers use_tcp_for_dns_lookups track_timeout_budgets track_cluster_stats \
                    protocol_selection upstream_http_protocol_options connection_pool_per_downstream_connection \
                    preconnect_policy",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.CommonLbConfig",
        effective: "healthy_panic_threshold locality_weighted_lb_config consistent_hashing_lb_config \
                    zone_aware_lb_config ignore_new_hosts_until_first_hc",
        not_yet: "",
        without_meaning: "update_merge_window close_connections_on_host_set_change override_host_status",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
        effective: "fail_traffic_on_panic",
        not_yet: "",
        without_meaning: "routing_enabled min_cluster_size",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.CustomClusterType",
        effective: "name typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.EdsClusterConfig",
        effective: "eds_config service_name",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
        effective: "choice_count active_request_bias slow_start_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.MaglevLbConfig",
        effective: "table_size",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
        effective: "use_http_header http_header_name upstream_port_override metadata_key",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.RefreshRate",
        effective: "base_interval max_interval",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.RingHashLbConfig",
        effective: "minimum_ring_size hash_function maximum_ring_size",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
        effective: "slow_start_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        effective: "name match transport_socket",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.Filter",
        effective: "name typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.OutlierDetection",
        effective: "consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx \
                    consecutive_gateway_failure enforcing_consecutive_gateway_failure max_ejection_time \
                    max_ejection_time_jitter always_eject_one_host enforcing_success_rate success_rate_minimum_hosts \
                    success_rate_request_volume success_rate_stdev_factor failure_percentage_threshold \
                    enforcing_failure_percentage failure_percentage_minimum_hosts failure_percentage_request_volume \
                    split_external_local_origin_errors consecutive_local_origin_failure \
                    enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate \
                    enforcing_failure_percentage_local_origin successful_active_health_check_uneject_host",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.cluster.v3.UpstreamConnectionOptions",
        effective: "tcp_keepalive",
        not_yet: "",
        without_meaning: "set_local_interface_name_on_upstream_connections happy_eyeballs_config",
    },
    Coverage {
        message: "envoy.config.core.v3.Address",
        effective: "socket_address pipe envoy_internal_address",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.ApiConfigSource",
        effective: "api_type transport_api_version grpc_services set_node_on_first_message_only",
        not_yet: "",
        without_meaning: "refresh_delay request_timeout",
    },
    Coverage {
        message: "envoy.config.core.v3.BindConfig",
        effective: "source_address freebind socket_options extra_source_addresses",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.ConfigSource",
        effective: "path path_config_source api_config_source ads initial_fetch_timeout resource_api_version",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.DataSource",
        effective: "filename inline_bytes inline_string environment_variable watched_directory",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.ExtensionConfigSource",
        effective: "config_source default_config apply_default_config_without_warming type_urls",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.ExtraSourceAddress",
        effective: "address",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.GrpcService",
        effective: "envoy_grpc timeout initial_metadata",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.GrpcService.EnvoyGrpc",
        effective: "cluster_name authority",
        not_yet: "",
        without_meaning: "max_receive_message_length skip_envoy_headers",
    },
    Coverage {
        message: "envoy.config.core.v3.HeaderValue",
        effective: "key value raw_value",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.HeaderValueOption",
        effective: "header append append_action keep_empty_value",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.Http1ProtocolOptions",
        effective: "allow_absolute_url accept_http_10 default_host_for_http_10 enable_trailers \
                    header_key_format allow_chunked_length",
        not_yet: "override_stream_error_on_invalid_http_message",
        without_meaning: "use_balsa_parser allow_custom_methods",
    },
    Coverage {
        message: "envoy.config.core.v3.Http2ProtocolOptions",
        effective: "max_concurrent_streams initial_stream_window_size initial_connection_window_size allow_connect \
                    connection_keepalive hpack_table_size max_consecutive_inbound_frames_with_empty_payload \
                    max_inbound_priority_frames_per_stream max_inbound_window_update_frames_per_data_frame_sent",
        not_yet: "stream_error_on_invalid_http_messaging override_stream_error_on_invalid_http_message",
        without_meaning: "max_outbound_frames max_outbound_control_frames use_oghttp2_codec enable_huffman_encoding \
                    stream_reset_burst stream_reset_rate",
    },
    Coverage {
        message: "envoy.config.core.v3.HttpProtocolOptions",
        effective: "idle_timeout max_connection_duration max_headers_count max_response_headers_kb \
                    headers_with_underscores_action max_requests_per_connection",
        not_yet: "max_stream_duration",
        without_meaning: "max_connection_duration_jitter",
    },
    Coverage {
        message: "envoy.config.core.v3.KeepaliveSettings",
        effective: "interval timeout",
        not_yet: "",
        without_meaning: "interval_jitter",
    },
    Coverage {
        message: "envoy.config.core.v3.PathConfigSource",
        effective: "path watched_directory",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.Pipe",
        effective: "path",
        not_yet: "",
        without_meaning: "mode",
    },
    Coverage {
        message: "envoy.config.core.v3.ProxyProtocolConfig",
        effective: "version added_tlvs",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.RetryPolicy",
        effective: "retry_back_off num_retries",
        not_yet: "",
        without_meaning: "retry_on retry_priority retry_host_predicate host_selection_retry_max_attempts",
    },
    Coverage {
        message: "envoy.config.core.v3.SocketAddress",
        effective: "protocol address port_value ipv4_compat",
        not_yet: "",
        without_meaning: "resolver_name",
    },
    Coverage {
        message: "envoy.config.core.v3.SocketOption",
        effective: "level name int_value buf_value",
        not_yet: "",
        without_meaning: "description state type ip_version",
    },
    Coverage {
        message: "envoy.config.core.v3.SubstitutionFormatString",
        effective: "text_format json_format text_format_source omit_empty_values content_type",
        not_yet: "",
        without_meaning: "formatters json_format_options",
    },
    Coverage {
        message: "envoy.config.core.v3.TcpKeepalive",
        effective: "keepalive_probes keepalive_time keepalive_interval",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.TlvEntry",
        effective: "type value",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.TransportSocket",
        effective: "name typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.TypedExtensionConfig",
        effective: "name typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.UpstreamHttpProtocolOptions",
        effective: "auto_sni auto_san_validation",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.ClusterLoadAssignment",
        effective: "cluster_name endpoints policy",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
        effective: "overprovisioning_factor drop_overloads weighted_priority_health",
        not_yet: "",
        without_meaning: "endpoint_stale_after",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.Endpoint",
        effective: "address hostname additional_addresses health_check_config",
        not_yet: "",
        without_meaning: "observability_name",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.Endpoint.AdditionalAddress",
        effective: "address",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.LbEndpoint",
        effective: "endpoint health_status metadata load_balancing_weight",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.endpoint.v3.LocalityLbEndpoints",
        effective: "locality lb_endpoints load_balancing_weight priority",
        not_yet: "",
        without_meaning: "proximity metadata",
    },
    Coverage {
        message: "envoy.config.listener.v3.AdditionalAddress",
        effective: "address",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.Filter",
        effective: "name typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.FilterChain",
        effective: "filter_chain_match filters transport_socket transport_socket_connect_timeout name metadata",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.FilterChainMatch",
        effective: "destination_port prefix_ranges direct_source_prefix_ranges source_type source_prefix_ranges \
                    source_ports server_names transport_protocol application_protocols",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.Listener",
        effective: "name address additional_addresses filter_chains use_original_dst default_filter_chain \
                    per_connection_buffer_limit_bytes deprecated_v1 listener_filters listener_filters_timeout \
                    continue_on_listener_filters_timeout transparent freebind socket_options traffic_direction \
                    enable_reuse_port access_log tcp_backlog_size bind_to_port drain_type \
                    connection_balance_config ignore_global_conn_limit bypass_overload_manager tcp_fast_open_queue_length \
                    stat_prefix metadata",
        not_yet: "",
        without_meaning: "stats_matcher reuse_port max_connections_to_accept_per_socket_event",
    },
    Coverage {
        message: "envoy.config.listener.v3.Listener.DeprecatedV1",
        effective: "bind_to_port",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.ListenerFilter",
        effective: "name typed_config filter_disabled",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
        effective: "or_match not_match any_match destination_port_range",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet",
        effective: "rules",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.overload.v3.OverloadAction",
        effective: "name triggers",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.overload.v3.OverloadManager",
        effective: "refresh_interval resource_monitors actions",
        not_yet: "",
        without_meaning: "buffer_factory_config",
    },
    Coverage {
        message: "envoy.config.overload.v3.ResourceMonitor",
        effective: "name typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.ratelimit.v3.RateLimitServiceConfig",
        effective: "grpc_service",
        not_yet: "",
        without_meaning: "transport_api_version",
    },
    Coverage {
        message: "envoy.config.rbac.v3.Policy",
        effective: "permissions principals",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.rbac.v3.RBAC",
        effective: "action policies",
        not_yet: "",
        without_meaning: "audit_logging_options",
    },
    Coverage {
        message: "envoy.config.route.v3.DirectResponseAction",
        effective: "status body",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.FilterConfig",
        effective: "config is_optional disabled",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.HeaderMatcher",
        effective: "name exact_match safe_regex_match range_match present_match prefix_match suffix_match \
                    contains_match string_match invert_match treat_missing_header_as_empty",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.InternalRedirectPolicy",
        effective: "max_internal_redirects redirect_response_codes allow_cross_scheme_redirect predicates \
                    response_headers_to_copy",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.QueryParameterMatcher",
        effective: "name string_match present_match",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RateLimit",
        effective: "stage actions limit hits_addend apply_on_stream_done",
        not_yet: "",
        without_meaning: "disable_key",
    },
    Coverage {
        message: "envoy.config.route.v3.RateLimit.Action",
        effective: "source_cluster destination_cluster request_headers query_parameters remote_address \
                    masked_remote_address remote_address_match generic_key header_value_match \
                    query_parameter_value_match metadata",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RedirectAction",
        effective: "host_redirect port_redirect response_code strip_query https_redirect scheme_redirect \
                    path_redirect prefix_rewrite regex_rewrite",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RetryPolicy",
        effective: "retry_on num_retries per_try_timeout per_try_idle_timeout retry_host_predicate host_selection_retry_max_attempts \
                    retriable_status_codes retry_back_off rate_limited_retry_back_off retriable_headers \
                    retriable_request_headers retry_priority",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.Route",
        effective: "name match route redirect direct_response non_forwarding_action metadata decorator \
                    typed_per_filter_config request_headers_to_add request_headers_to_remove response_headers_to_add \
                    response_headers_to_remove per_request_buffer_limit_bytes request_body_buffer_limit stat_prefix",
        not_yet: "",
        without_meaning: "tracing",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteAction",
        effective: "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite \
                    regex_rewrite path_rewrite_policy append_x_forwarded_host host_rewrite_literal auto_host_rewrite \
                    host_rewrite_header host_rewrite_path_regex timeout idle_timeout retry_policy \
                    request_mirror_policies priority hash_policy max_grpc_timeout grpc_timeout_offset \
                    upgrade_configs max_stream_duration rate_limits include_vh_rate_limits \
                    metadata_match internal_redirect_policy",
        not_yet: "",
        without_meaning: "early_data_policy",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteAction.HashPolicy",
        effective: "header cookie connection_properties query_parameter filter_state terminal",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteAction.MaxStreamDuration",
        effective: "max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteAction.RequestMirrorPolicy",
        effective: "cluster cluster_header runtime_fraction disable_shadow_host_suffix_append host_rewrite_literal",
        not_yet: "trace_sampled",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteAction.UpgradeConfig",
        effective: "upgrade_type enabled connect_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig",
        effective: "allow_post",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteConfiguration",
        effective: "name virtual_hosts response_headers_to_add response_headers_to_remove request_headers_to_add \
                    request_headers_to_remove most_specific_header_mutations_wins \
                    max_direct_response_body_size_bytes request_mirror_policies ignore_port_in_host_matching \
                    typed_per_filter_config vhds validate_clusters internal_only_headers",
        not_yet: "",
        without_meaning: "metadata",
    },
    Coverage {
        message: "envoy.config.route.v3.RouteMatch",
        effective: "prefix path safe_regex path_separated_prefix path_match_policy connect_matcher case_sensitive \
                    runtime_fraction headers query_parameters grpc tls_context dynamic_metadata",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.Vhds",
        effective: "config_source",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.VirtualCluster",
        effective: "headers name",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.route.v3.VirtualHost",
        effective: "name domains routes require_tls request_headers_to_add request_headers_to_remove \
                    response_headers_to_add response_headers_to_remove typed_per_filter_config \
                    include_request_attempt_count include_attempt_count_in_response \
                    include_is_timeout_retry_header retry_policy \
                    per_request_buffer_limit_bytes request_body_buffer_limit request_mirror_policies rate_limits \
                    virtual_clusters",
        not_yet: "",
        without_meaning: "metadata",
    },
    Coverage {
        message: "envoy.config.route.v3.WeightedCluster",
        effective: "clusters total_weight header_name use_hash_policy",
        not_yet: "",
        without_meaning: "runtime_key_prefix",
    },
    Coverage {
        message: "envoy.config.route.v3.WeightedCluster.ClusterWeight",
        effective: "name cluster_header weight request_headers_to_add request_headers_to_remove \
                    response_headers_to_add response_headers_to_remove typed_per_filter_config host_rewrite_literal \
                    metadata_match",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.tcp.metadataexchange.config.MetadataExchange",
        effective: "protocol enable_discovery",
        not_yet: "",
        without_meaning: "additional_labels",
    },
    Coverage {
        message: "io.istio.http.peer_metadata.Config",
        effective: "downstream_discovery upstream_discovery downstream_propagation upstream_propagation \
                    shared_with_upstream additional_labels",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        effective: "alpn_override",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "stats.MetricConfig",
        effective: "dimensions name tags_to_remove drop",
        not_yet: "",
        without_meaning: "match",
    },
    Coverage {
        message: "stats.PluginConfig",
        effective: "disable_host_header_fallback definitions",
        not_yet: "tcp_reporting_duration metrics reporter",
        without_meaning: "rotation_interval graceful_deletion_interval",
    },
];
