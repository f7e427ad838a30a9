//! The account of services that logs and spans are sent to.

use super::Coverage;

// table: one entry for each message
pub(super) static MESSAGES: &[Coverage] = &[
    Coverage {
        message: "envoy.config.core.v3.HttpService",
        effective: "http_uri request_headers_to_add",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.core.v3.HttpUri",
        effective: "uri cluster timeout",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.config.trace.v3.OpenTelemetryConfig",
        effective: "grpc_service http_service service_name resource_detectors sampler \
                    set_telemetry_sdk_resource_attributes",
        not_yet: "",
        without_meaning: "max_cache_size",
    },
    Coverage {
        message: "envoy.config.trace.v3.ZipkinConfig",
        effective: "collector_cluster collector_endpoint collector_endpoint_version collector_hostname \
                    collector_service trace_id_128bit shared_span_context trace_context_option",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.access_loggers.grpc.v3.CommonGrpcAccessLogConfig",
        effective: "log_name grpc_service buffer_flush_interval buffer_size_bytes custom_tags",
        not_yet: "",
        without_meaning: "transport_api_version grpc_stream_retry_policy",
    },
    Coverage {
        message: "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        effective: "common_config additional_request_headers_to_log additional_response_headers_to_log \
                    additional_response_trailers_to_log",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
        effective: "common_config",
        not_yet: "",
        without_meaning: "",
    },
    Coverage {
        message: "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        effective: "common_config http_service grpc_service disable_builtin_labels resource_attributes body \
                    attributes log_name buffer_flush_interval buffer_size_bytes",
        not_yet: "",
        without_meaning: "stat_prefix formatters",
    },
];
