//! Fields of the messages of extensions: filters, transport sockets, formatters, matchers.

use super::Coverage;

// table: one entry for each message
pub(super) static MESSAGES: &[Coverage] = &[
    Coverage {
        message: "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        effective: "path format json_format typed_json_format log_format",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
        effective: "log_format",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        effective: "log_format",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
        effective: "dns_cache_config allow_insecure_cluster_options",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheCircuitBreakers",
        effective: "max_pending_requests",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig",
        effective: "name dns_lookup_family dns_refresh_rate dns_min_refresh_rate host_ttl max_hosts \
                    disable_dns_refresh_on_failure dns_failure_refresh_rate dns_cache_circuit_breaker \
                    preresolve_hostnames dns_query_timeout",
        not_yet: "",
        without_meaning: "use_tcp_for_dns_lookups dns_resolution_config typed_dns_resolver_config",
    },
    Coverage {
        message: "envoy.extensions.filters.common.fault.v3.FaultDelay",
        effective: "fixed_delay header_delay percentage",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.common.fault.v3.FaultRateLimit",
        effective: "fixed_limit header_limit percentage",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue",
        effective: "object_key factory_key format_string shared_with_upstream skip_if_empty",
        not_yet: "",
        without_meaning: "read_only",
    },
    Coverage {
        message: "envoy.extensions.filters.http.buffer.v3.Buffer",
        effective: "max_request_bytes",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        effective: "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials \
                    filter_enabled shadow_enabled allow_private_network_access forward_not_matching_preflights",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
        effective: "dns_cache_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig",
        effective: "host_rewrite_literal host_rewrite_header",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest",
        effective: "headers_to_add",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse",
        effective: "allowed_upstream_headers allowed_upstream_headers_to_append allowed_client_headers \
                    allowed_client_headers_on_success dynamic_metadata_from_headers",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.BufferSettings",
        effective: "max_request_bytes allow_partial_message pack_as_bytes",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.CheckSettings",
        effective: "context_extensions disable_request_body_buffering with_request_body",
        not_yet: "",
        without_meaning: "emit_client_span",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        effective: "grpc_service http_service failure_mode_allow failure_mode_allow_header_add with_request_body \
                    clear_route_cache status_on_error metadata_context_namespaces \
                    route_metadata_context_namespaces filter_enabled filter_enabled_metadata deny_at_disable \
                    include_tls_session stat_prefix allowed_headers disallowed_headers \
                    enable_dynamic_metadata_ingestion max_denied_response_body_bytes",
        not_yet: "",
        without_meaning: "transport_api_version validate_mutations charge_cluster_response_stats \
                    emit_filter_state_stats filter_metadata emit_client_span",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        effective: "disabled check_settings",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ext_authz.v3.HttpService",
        effective: "server_uri path_prefix authorization_request authorization_response",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.fault.v3.FaultAbort",
        effective: "http_status grpc_status header_abort percentage",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.fault.v3.HTTPFault",
        effective: "delay abort upstream_cluster headers downstream_nodes max_active_faults response_rate_limit",
        not_yet: "",
        without_meaning: "delay_percent_runtime abort_percent_runtime delay_duration_runtime abort_http_status_runtime \
                    max_active_faults_runtime response_rate_limit_percent_runtime abort_grpc_status_runtime \
                    disable_downstream_cluster_stats filter_metadata",
    },
    Coverage {
        message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        effective: "emit_filter_state stats_for_all_methods",
        not_yet: "",
        without_meaning: "individual_method_stats_allowlist enable_upstream_stats replace_dots_in_grpc_service_name",
    },
    Coverage {
        message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        effective: "mutations",
        not_yet: "",
        without_meaning: "most_specific_header_mutations_wins",
    },
    Coverage {
        message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        effective: "mutations",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.header_mutation.v3.Mutations",
        effective: "request_mutations response_mutations",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.header_to_metadata.v3.Config",
        effective: "request_rules response_rules",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.header_to_metadata.v3.Config.KeyValuePair",
        effective: "metadata_namespace key value regex_value_rewrite type encode",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.header_to_metadata.v3.Config.Rule",
        effective: "header cookie on_header_present on_header_missing remove",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch",
        effective: "failed_refetch_duration",
        not_yet: "",
        without_meaning: "fast_listener",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        effective: "providers rules bypass_cors_preflight requirement_map strip_failure_response stat_prefix",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader",
        effective: "header_name claim_name",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider",
        effective: "issuer audiences require_expiration max_lifetime forward from_headers from_params \
                    from_cookies forward_payload_header pad_forward_payload_header payload_in_metadata \
                    normalize_payload_in_metadata header_in_metadata failed_status_in_metadata \
                    clock_skew_seconds claim_to_headers clear_route_cache remote_jwks local_jwks",
        not_yet: "",
        without_meaning: "jwt_cache_config",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement",
        effective: "provider_name provider_and_audiences requires_any requires_all allow_missing_or_failed \
                    allow_missing",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        effective: "disabled requirement_name",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks",
        effective: "http_uri cache_duration async_fetch retry_policy",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.jwt_authn.v3.RequirementRule",
        effective: "match requires requirement_name",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        effective: "stat_prefix status token_bucket filter_enabled filter_enforced \
                    request_headers_to_add_when_not_enforced response_headers_to_add descriptors stage \
                    enable_x_ratelimit_headers always_consume_default_token_bucket \
                    rate_limited_as_resource_exhausted vh_rate_limits rate_limits",
        not_yet: "",
        without_meaning: "max_dynamic_descriptors",
    },
    Coverage {
        message: "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        effective: "odcds",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.on_demand.v3.OnDemandCds",
        effective: "source timeout",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig",
        effective: "odcds",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        effective: "domain stage request_type timeout failure_mode_deny rate_limited_as_resource_exhausted \
                    rate_limit_service enable_x_ratelimit_headers disable_x_envoy_ratelimited_header \
                    rate_limited_status response_headers_to_add status_on_error rate_limits",
        not_yet: "",
        without_meaning: "stat_prefix",
    },
    Coverage {
        message: "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
        effective: "vh_rate_limits domain rate_limits",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.rbac.v3.RBAC",
        effective: "rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix",
        not_yet: "",
        without_meaning: "track_per_rule_stats",
    },
    Coverage {
        message: "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        effective: "rbac",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.http.router.v3.Router",
        effective: "suppress_envoy_headers",
        not_yet: "start_child_span",
        without_meaning: "dynamic_stats suppress_grpc_request_failure_code_stats upstream_log_options",
    },
    Coverage {
        message: "envoy.extensions.filters.http.set_filter_state.v3.Config",
        effective: "on_request_headers",
        not_yet: "",
        without_meaning: "clear_route_cache",
    },
    Coverage {
        message: "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
        effective: "mark",
        not_yet: "",
        without_meaning: "bind_port",
    },
    Coverage {
        message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        effective: "rules allow_requests_without_proxy_protocol disallowed_versions",
        not_yet: "",
        without_meaning: "stat_prefix",
    },
    Coverage {
        message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.KeyValuePair",
        effective: "metadata_namespace key value_string_encoding",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.Rule",
        effective: "tlv_type on_tlv_present",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        effective: "initial_read_buffer_size close_connection_on_client_hello_parsing_errors",
        not_yet: "",
        without_meaning: "enable_ja3_fingerprinting enable_ja4_fingerprinting max_client_hello_size",
    },
    Coverage {
        message: "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
        effective: "stat_prefix max_connections delay",
        not_yet: "",
        without_meaning: "runtime_enabled",
    },
    Coverage {
        message: "envoy.extensions.filters.network.direct_response.v3.Config",
        effective: "response",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        effective: "codec_type stat_prefix rds route_config http_filters add_user_agent common_http_protocol_options \
                    http_protocol_options http2_protocol_options server_name server_header_transformation \
                    max_request_headers_kb stream_idle_timeout request_timeout request_headers_timeout delayed_close_timeout \
                    access_log access_log_options use_remote_address xff_num_trusted_hops internal_address_config \
                    skip_xff_append via generate_request_id preserve_external_request_id \
                    always_set_request_id_in_response forward_client_cert_details set_current_client_cert_details \
                    proxy_100_continue upgrade_configs normalize_path merge_slashes path_with_escaped_slashes_action \
                    strip_matching_host_port strip_any_host_port strip_trailing_host_dot tracing \
                    flush_access_log_on_new_request request_id_extension local_reply_config original_ip_detection_extensions \
                    early_header_mutation_extensions append_x_forwarded_port scheme_header_transformation \
                    access_log_flush_interval",
        not_yet: "drain_timeout stream_error_on_invalid_http_message",
        without_meaning: "http3_protocol_options http1_safe_max_connection_duration drain_timeout_jitter \
                    stream_flush_timeout append_local_overload",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.HcmAccessLogOptions",
        effective: "flush_access_log_on_new_request access_log_flush_interval",
        not_yet: "",
        without_meaning: "flush_log_on_tunnel_successfully_established",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig",
        effective: "cidr_ranges",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails",
        effective: "subject cert chain dns uri",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing",
        effective: "client_sampling random_sampling overall_sampling verbose max_path_tag_length custom_tags \
                    provider spawn_upstream_span",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
        effective: "upgrade_type filters enabled",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        effective: "name typed_config is_optional disabled config_discovery",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig",
        effective: "mappers body_format",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
        effective: "config_source route_config_name",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension",
        effective: "typed_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper",
        effective: "filter status_code body body_format_override headers_to_add",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
        effective: "stat_prefix token_bucket",
        not_yet: "",
        without_meaning: "runtime_enabled",
    },
    Coverage {
        message: "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy",
        effective: "stat_prefix delay emit_dynamic_metadata commands max_bson_depth",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.rbac.v3.RBAC",
        effective: "rules shadow_rules shadow_rules_stat_prefix stat_prefix enforcement_type",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.set_filter_state.v3.Config",
        effective: "on_new_connection on_downstream_tls_handshake",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        effective: "stat_prefix cluster weighted_clusters idle_timeout access_log max_connect_attempts hash_policy \
                    tunneling_config max_downstream_connection_duration metadata_match access_log_options \
                    access_log_flush_interval flush_access_log_on_connected",
        not_yet: "",
        without_meaning: "check_drain_close backoff_options",
    },
    Coverage {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TunnelingConfig",
        effective: "hostname use_post headers_to_add post_path",
        not_yet: "",
        without_meaning: "propagate_response_headers propagate_response_trailers",
    },
    Coverage {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster",
        effective: "clusters",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        effective: "name weight metadata_match",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        effective: "formatter_type_on_envoy_headers",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        effective: "max_active_downstream_connections",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        effective: "max_heap_size_bytes",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        effective: "config transport_socket",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        effective: "trusted_ca watched_directory verify_certificate_spki verify_certificate_hash \
                    match_typed_subject_alt_names match_subject_alt_names crl allow_expired_certificate \
                    trust_chain_verification only_verify_leaf_cert_crl",
        not_yet: "",
        without_meaning: "max_verify_depth suppress_client_ca_list",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        effective: "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context \
                    validation_context_sds_secret_config combined_validation_context alpn_protocols",
        not_yet: "",
        without_meaning: "key_log",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        effective: "default_validation_context validation_context_sds_secret_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        effective: "common_tls_context require_client_certificate require_sni session_ticket_keys \
                    session_ticket_keys_sds_secret_config disable_stateless_session_resumption",
        not_yet: "",
        without_meaning: "session_timeout disable_stateful_session_resumption ocsp_staple_policy \
                    full_scan_certs_on_sni_mismatch prefer_client_ciphers",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.GenericSecret",
        effective: "secret",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
        effective: "name sds_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.Secret",
        effective: "name tls_certificate session_ticket_keys validation_context generic_secret",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        effective: "san_type matcher",
        not_yet: "",
        without_meaning: "oid",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        effective: "certificate_chain private_key watched_directory",
        not_yet: "",
        without_meaning: "ocsp_staple signed_certificate_timestamp",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        effective: "tls_minimum_protocol_version tls_maximum_protocol_version",
        not_yet: "cipher_suites ecdh_curves",
        without_meaning: "signature_algorithms compliance_policies",
    },
    Coverage {
        message: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        effective: "common_tls_context sni auto_host_sni auto_sni_san_validation max_session_keys",
        not_yet: "",
        without_meaning: "allow_renegotiation enforce_rsa_key_usage",
    },
    Coverage {
        message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        effective: "common_http_protocol_options upstream_http_protocol_options explicit_http_config \
                    use_downstream_protocol_config auto_config http_filters outlier_detection",
        not_yet: "",
        without_meaning: "header_validation_config",
    },
    Coverage {
        message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
        effective: "http_protocol_options http2_protocol_options",
        not_yet: "",
        without_meaning: "http3_protocol_options alternate_protocols_cache_options",
    },
    Coverage {
        message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
        effective: "http_protocol_options http2_protocol_options http3_protocol_options",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
        effective: "http_protocol_options http2_protocol_options",
        not_yet: "",
        without_meaning: "http3_protocol_options",
    },
];
