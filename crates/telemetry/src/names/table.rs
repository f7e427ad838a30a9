//! The tables.

use super::{EnvoyStat, Kind, Metric, Stability, Unit};
use Kind::{Counter, Gauge, Histogram};
use Stability::{Planned, Stable, Unstable};

/// Envoy's default buckets.
const ENVOY_BOUNDS: &[f64] = &crate::distribution::DEFAULT_BUCKETS;
/// Seconds from a change to the proxies, as Istio buckets them.
const CONVERGENCE_BOUNDS: &[f64] = &[0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
/// Seconds of one push or one injection, as Istio buckets them.
const PUSH_BOUNDS: &[f64] = &[0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
/// Sizes of configuration, as Istio buckets them.
const SIZE_BOUNDS: &[f64] = &[
    10_000.0,
    1_000_000.0,
    4_000_000.0,
    10_000_000.0,
    40_000_000.0,
];

/// Labels of every TCP metric of services.
const TCP: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];
/// Labels of every HTTP metric of services.
const HTTP: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];
/// Labels of gRPC message counts, which are counted before there is an outcome.
const MESSAGES: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
];

macro_rules! metrics {
    ($(#[doc = $doc:literal] $group:ident {
        $($constant:ident $name:literal $kind:expr, $unit:ident, $labels:expr, $stability:ident, $help:literal;)*
    })*) => {
        $($(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: $kind,
                unit: Unit::$unit,
                labels: $labels,
                stability: $stability,
                help: $help,
            };
        )*)*
        $(#[doc = $doc] const $group: &[Metric] = &[$($constant),*];)*

        /// All metrics in groups: title, what the group is, metrics.
        #[must_use]
        pub fn groups() -> Vec<(&'static str, &'static str, &'static [Metric])> {
            vec![$((stringify!($group), $doc, $group)),*]
        }
    };
}

// table: all metrics
metrics! {
    #[doc = "Traffic of services, from proxies (15090 and, merged, 15020 `/stats/prometheus`)."]
    SERVICES {
        ISTIO_REQUESTS_TOTAL "istio_requests_total" Counter, Requests, HTTP, Stable, "HTTP and gRPC requests.";
        ISTIO_REQUEST_DURATION_MILLISECONDS "istio_request_duration_milliseconds" Histogram(ENVOY_BOUNDS), Milliseconds, HTTP, Stable, "From the first byte of a request to the last byte of its response.";
        ISTIO_REQUEST_BYTES "istio_request_bytes" Histogram(ENVOY_BOUNDS), Bytes, HTTP, Stable, "Sizes of requests.";
        ISTIO_RESPONSE_BYTES "istio_response_bytes" Histogram(ENVOY_BOUNDS), Bytes, HTTP, Stable, "Sizes of responses.";
        ISTIO_REQUEST_MESSAGES_TOTAL "istio_request_messages_total" Counter, Messages, MESSAGES, Stable, "gRPC messages from clients.";
        ISTIO_RESPONSE_MESSAGES_TOTAL "istio_response_messages_total" Counter, Messages, MESSAGES, Stable, "gRPC messages from servers.";
        ISTIO_TCP_CONNECTIONS_OPENED_TOTAL "istio_tcp_connections_opened_total" Counter, Connections, TCP, Stable, "TCP connections opened.";
        ISTIO_TCP_CONNECTIONS_CLOSED_TOTAL "istio_tcp_connections_closed_total" Counter, Connections, TCP, Stable, "TCP connections closed.";
        ISTIO_TCP_SENT_BYTES_TOTAL "istio_tcp_sent_bytes_total" Counter, Bytes, TCP, Stable, "Bytes from servers to clients over TCP.";
        ISTIO_TCP_RECEIVED_BYTES_TOTAL "istio_tcp_received_bytes_total" Counter, Bytes, TCP, Stable, "Bytes from clients to servers over TCP.";
    }
    #[doc = "Every component."]
    PROCESS {
        ISTIO_BUILD "istio_build" Gauge, One, &["component", "tag"], Stable, "Which version of a component runs.";
        PROCESS_CPU_SECONDS_TOTAL "process_cpu_seconds_total" Counter, Seconds, &[], Stable, "User and system CPU time.";
        PROCESS_RESIDENT_MEMORY_BYTES "process_resident_memory_bytes" Gauge, Bytes, &[], Stable, "Resident memory.";
        PROCESS_VIRTUAL_MEMORY_BYTES "process_virtual_memory_bytes" Gauge, Bytes, &[], Stable, "Virtual memory.";
        PROCESS_START_TIME_SECONDS "process_start_time_seconds" Gauge, Seconds, &[], Stable, "Start of the process since the Unix epoch.";
        PROCESS_OPEN_FDS "process_open_fds" Gauge, Things, &[], Stable, "Open file descriptors.";
        PROCESS_THREADS "process_threads" Gauge, Things, &[], Unstable, "Threads of the process; there is no Go runtime, this stands for go_goroutines.";
        MELTEMI_METRIC_SERIES_OVERFLOW_TOTAL "meltemi_metric_series_overflow_total" Counter, Things, &[], Unstable, "Measurements folded into an overflow series because there were too many label sets.";
    }
    #[doc = "The control plane (15014 `/metrics`)."]
    CONTROL_PLANE {
        PILOT_INFO "pilot_info" Gauge, One, &["version"], Stable, "Version of the control plane.";
        ISTIOD_UPTIME_SECONDS "istiod_uptime_seconds" Gauge, Seconds, &[], Stable, "Time since the start.";
        PILOT_XDS "pilot_xds" Gauge, Connections, &["version"], Stable, "Connected proxies by their version.";
        PILOT_XDS_PUSHES "pilot_xds_pushes" Counter, Messages, &["type"], Stable, "Configuration sent, by type (lds, rds, cds, eds, nds).";
        PILOT_XDS_PUSH_TIME "pilot_xds_push_time" Histogram(PUSH_BOUNDS), Seconds, &["type"], Planned, "Time to make and send the configuration of one type.";
        PILOT_XDS_CONFIG_SIZE_BYTES "pilot_xds_config_size_bytes" Histogram(SIZE_BOUNDS), Bytes, &["type"], Stable, "Sizes of what was sent.";
        PILOT_PROXY_CONVERGENCE_TIME "pilot_proxy_convergence_time" Histogram(CONVERGENCE_BOUNDS), Seconds, &[], Stable, "From a change of the configuration to the proxies that need it.";
        PILOT_TOTAL_XDS_REJECTS "pilot_total_xds_rejects" Counter, Messages, &["type"], Stable, "Configuration refused by proxies, by type.";
        PILOT_TOTAL_XDS_INTERNAL_ERRORS "pilot_total_xds_internal_errors" Counter, Things, &[], Planned, "Errors of the control plane while it made configuration.";
        PILOT_PUSH_TRIGGERS "pilot_push_triggers" Counter, Things, &["type"], Stable, "Why configuration was made anew.";
        PILOT_INBOUND_UPDATES "pilot_inbound_updates" Counter, Things, &["type"], Stable, "Changes seen, by type (config, eds, svc).";
        PILOT_K8S_CFG_EVENTS "pilot_k8s_cfg_events" Counter, Things, &["type", "event"], Stable, "Changes of configuration objects.";
        PILOT_K8S_REG_EVENTS "pilot_k8s_reg_events" Counter, Things, &["type", "event"], Stable, "Changes of services, endpoints, pods and nodes.";
        PILOT_SERVICES "pilot_services" Gauge, Things, &[], Stable, "Services known.";
        PILOT_VIRT_SERVICES "pilot_virt_services" Gauge, Things, &[], Stable, "VirtualServices known.";
        GALLEY_VALIDATION_PASSED "galley_validation_passed" Counter, Requests, &["group", "version", "resource"], Stable, "Objects admitted.";
        GALLEY_VALIDATION_FAILED "galley_validation_failed" Counter, Requests, &["group", "version", "resource", "reason"], Stable, "Objects refused.";
        SIDECAR_INJECTION_REQUESTS_TOTAL "sidecar_injection_requests_total" Counter, Requests, &[], Stable, "Pods that the injector was asked about.";
        SIDECAR_INJECTION_SUCCESS_TOTAL "sidecar_injection_success_total" Counter, Requests, &[], Stable, "Pods injected.";
        SIDECAR_INJECTION_FAILURE_TOTAL "sidecar_injection_failure_total" Counter, Requests, &[], Stable, "Pods that could not be injected.";
        SIDECAR_INJECTION_SKIP_TOTAL "sidecar_injection_skip_total" Counter, Requests, &[], Stable, "Pods that are not injected.";
        SIDECAR_INJECTION_TIME_SECONDS "sidecar_injection_time_seconds" Histogram(PUSH_BOUNDS), Seconds, &[], Stable, "Time of one injection.";
        CITADEL_SERVER_CSR_COUNT "citadel_server_csr_count" Counter, Requests, &[], Stable, "Certificate requests.";
        CITADEL_SERVER_SUCCESS_CERT_ISSUANCE_COUNT "citadel_server_success_cert_issuance_count" Counter, Requests, &[], Stable, "Certificates issued.";
        CITADEL_SERVER_AUTHENTICATION_FAILURE_COUNT "citadel_server_authentication_failure_count" Counter, Requests, &[], Stable, "Certificate requests that proved no identity.";
        CITADEL_SERVER_CSR_PARSING_ERR_COUNT "citadel_server_csr_parsing_err_count" Counter, Requests, &[], Stable, "Certificate requests that could not be read.";
        CITADEL_SERVER_CSR_SIGN_ERR_COUNT "citadel_server_csr_sign_err_count" Counter, Requests, &["error"], Stable, "Certificate requests that could not be signed.";
        CITADEL_SERVER_ROOT_CERT_EXPIRY_TIMESTAMP "citadel_server_root_cert_expiry_timestamp" Gauge, Seconds, &[], Stable, "Unix time at which the root certificate expires.";
        CITADEL_SERVER_CERT_CHAIN_EXPIRY_TIMESTAMP "citadel_server_cert_chain_expiry_timestamp" Gauge, Seconds, &[], Stable, "Unix time at which the signing certificate expires.";
        MELTEMI_SNAPSHOTS "meltemi_snapshots" Gauge, Things, &[], Unstable, "Snapshots of the mesh made since the start.";
        MELTEMI_ROUTES_HELD "meltemi_routes_held" Gauge, Things, &[], Unstable, "VirtualServices that wait for subsets.";
    }
    #[doc = "The agent inside a sidecar (15020)."]
    AGENT {
        ISTIO_AGENT_STARTUP_DURATION_SECONDS "istio_agent_startup_duration_seconds" Gauge, Seconds, &[], Planned, "Time from the start to readiness.";
        ISTIO_AGENT_SCRAPES_TOTAL "istio_agent_scrapes_total" Counter, Requests, &[], Planned, "Scrapes of the merged endpoint.";
        ISTIO_AGENT_SCRAPE_FAILURES_TOTAL "istio_agent_scrape_failures_total" Counter, Requests, &["type"], Planned, "Scrapes of the application that failed.";
        ISTIO_AGENT_CERT_EXPIRY_SECONDS "istio_agent_cert_expiry_seconds" Gauge, Seconds, &["resource_name"], Planned, "Time until a certificate expires.";
        ISTIO_AGENT_NUM_OUTGOING_REQUESTS "istio_agent_num_outgoing_requests" Counter, Requests, &["request_type"], Planned, "Requests to the certificate authority.";
        ISTIO_AGENT_NUM_FAILED_OUTGOING_REQUESTS "istio_agent_num_failed_outgoing_requests" Counter, Requests, &["request_type"], Planned, "Requests to the certificate authority that failed.";
        ISTIO_AGENT_ISTIOD_CONNECTION_FAILURES "istio_agent_istiod_connection_failures" Counter, Connections, &[], Planned, "Connections to the control plane that failed.";
        ISTIO_AGENT_ISTIOD_CONNECTION_TERMINATIONS "istio_agent_istiod_connection_terminations" Counter, Connections, &[], Planned, "Connections to the control plane that ended.";
    }
}

macro_rules! stats {
    ($($scope:literal { $($name:literal $kind:ident $help:literal;)* })*) => {
        /// Statistics of the data plane, as Envoy names them.
        pub const ENVOY_STATS: &[EnvoyStat] = &[$($(
            EnvoyStat { scope: $scope, name: $name, kind: $kind, help: $help },
        )*)*];
    };
}

// table: Envoy's statistics that we keep
stats! {
    "cluster" {
        "upstream_cx_total" Counter "Connections made.";
        "upstream_cx_active" Gauge "Connections open.";
        "upstream_cx_connect_fail" Counter "Connections that failed.";
        "upstream_cx_connect_timeout" Counter "Connections that timed out.";
        "upstream_cx_overflow" Counter "Connections refused by the breaker.";
        "upstream_cx_none_healthy" Counter "Requests that found no healthy host.";
        "upstream_rq_total" Counter "Requests sent, attempts counted.";
        "upstream_rq_active" Gauge "Requests running.";
        "upstream_rq_pending_active" Gauge "Requests waiting for a connection.";
        "upstream_rq_2xx" Counter "Responses of this class.";
        "upstream_rq_3xx" Counter "Responses of this class.";
        "upstream_rq_4xx" Counter "Responses of this class.";
        "upstream_rq_5xx" Counter "Responses of this class.";
        "upstream_rq_pending_overflow" Counter "Requests refused by a breaker.";
        "upstream_rq_retry" Counter "Retries.";
        "upstream_rq_retry_success" Counter "Retries that helped.";
        "upstream_rq_retry_overflow" Counter "Retries refused by the breaker.";
        "upstream_rq_retry_limit_exceeded" Counter "Requests whose retries were used up.";
        "upstream_rq_timeout" Counter "Requests that timed out.";
        "upstream_rq_per_try_timeout" Counter "Attempts that timed out.";
        "upstream_rq_rx_reset" Counter "Streams reset by the peer.";
        "upstream_rq_tx_reset" Counter "Streams reset by us.";
        "upstream_rq_cancelled" Counter "Requests cancelled while they waited for a connection.";
        "membership_total" Gauge "Hosts.";
        "membership_healthy" Gauge "Hosts that may be picked.";
        "membership_change" Counter "Changes of the host set.";
        "update_success" Counter "Endpoint updates taken.";
        "update_failure" Counter "Endpoint updates that failed.";
        "upstream_cx_http1_total" Counter "Connections that speak HTTP/1.";
        "upstream_cx_http2_total" Counter "Connections that speak HTTP/2.";
        "upstream_cx_destroy" Counter "Connections that ended.";
        "upstream_rq_pending_total" Counter "Requests that waited for a connection.";
        "upstream_rq_pending_failure_eject" Counter "Requests that waited for a connection that failed.";
        "upstream_rq_active_overflow" Counter "Requests refused because too many run.";
        "lb_healthy_panic" Counter "Picks that ignored health.";
        "update_attempt" Counter "Name lookups made.";
        "membership_degraded" Gauge "Hosts that are degraded.";
    }
    "http" {
        "downstream_rq_total" Counter "Requests.";
        "downstream_rq_active" Gauge "Requests running.";
        "downstream_rq_1xx" Counter "Responses of this class.";
        "downstream_rq_2xx" Counter "Responses of this class.";
        "downstream_rq_3xx" Counter "Responses of this class.";
        "downstream_rq_4xx" Counter "Responses of this class.";
        "downstream_rq_5xx" Counter "Responses of this class.";
        "no_route" Counter "Requests without route.";
        "no_cluster" Counter "Requests whose cluster does not exist.";
        "downstream_rq_http1_total" Counter "HTTP/1 requests.";
        "downstream_rq_http2_total" Counter "HTTP/2 requests.";
        "rq_total" Counter "Requests that came as far as the router.";
        "rq_redirect" Counter "Redirects to another scheme.";
        "rq_direct_response" Counter "Direct responses and redirects of routes.";
        "downstream_rq_response_before_rq_complete" Counter "Responses that ended before their request.";
        "downstream_rq_rx_reset" Counter "Streams that ended by a reset, of whichever side.";
        "downstream_rq_header_timeout" Counter "Requests whose head came too slowly.";
        "downstream_rq_timeout" Counter "Requests that came too slowly.";
        "downstream_rq_idle_timeout" Counter "Exchanges that were idle for too long.";
        "downstream_rq_max_duration_reached" Counter "Exchanges that took too long.";
        "downstream_rq_overload_close" Counter "Requests that were refused under pressure.";
        "downstream_rq_too_large" Counter "Requests whose body was too large to be buffered.";
        "rs_too_large" Counter "Responses whose body was too large to be buffered.";
        "downstream_rq_non_relative_path" Counter "Requests whose path does not begin with a slash.";
        "downstream_rq_failed_path_normalization" Counter "Requests whose path cannot be normalized.";
        "downstream_rq_redirected_with_normalized_path" Counter "Requests that were redirected to their normalized path.";
        "downstream_rq_ws_on_non_ws_route" Counter "Upgrades that their route does not allow.";
        "downstream_cx_http1_total" Counter "Connections that spoke HTTP/1.";
        "downstream_cx_http2_total" Counter "Connections that spoke HTTP/2.";
        "downstream_cx_ssl_total" Counter "Connections with TLS.";
        "downstream_cx_destroy" Counter "Connections that ended.";
        "downstream_cx_protocol_error" Counter "Connections that broke the protocol.";
        "downstream_cx_idle_timeout" Counter "Connections that were idle for too long.";
        "downstream_cx_max_duration_reached" Counter "Connections that reached their age.";
        "downstream_cx_max_requests_reached" Counter "Connections that served as many requests as they may.";
        "downstream_cx_drain_close" Counter "Connections that were closed because of a drain.";
        "downstream_cx_overload_disable_keepalive" Counter "Connections that were not kept under pressure.";
        "downstream_cx_upgrades_total" Counter "Upgrades.";
        "downstream_rq_completed" Counter "Responses.";
        "downstream_cx_total" Counter "Connections.";
        "downstream_cx_active" Gauge "Connections open.";
        "downstream_cx_http1_active" Gauge "Connections open that speak HTTP/1.";
        "downstream_cx_http2_active" Gauge "Connections open that speak HTTP/2.";
        "downstream_cx_ssl_active" Gauge "Connections open with TLS.";
    }
    "tcp" {
        "downstream_cx_total" Counter "Connections.";
        "downstream_cx_no_route" Counter "Connections whose cluster does not exist.";
        "downstream_cx_rx_bytes_total" Counter "Bytes received from clients.";
        "downstream_cx_tx_bytes_total" Counter "Bytes sent to clients.";
        "idle_timeout" Counter "Connections on which nothing moved for too long.";
        "max_downstream_connection_duration" Counter "Connections that reached their age.";
    }
    "listener" {
        "downstream_cx_total" Counter "Connections accepted.";
        "downstream_cx_active" Gauge "Connections open.";
        "no_filter_chain_match" Counter "Connections that found no filter chain.";
        "downstream_cx_destroy" Counter "Connections that ended.";
        "downstream_cx_overflow" Counter "Connections refused by the listener's limit.";
        "downstream_cx_overload_reject" Counter "Connections refused under pressure.";
        "downstream_global_cx_overflow" Counter "Connections refused by the process's limit.";
        "downstream_pre_cx_timeout" Counter "Connections whose listener filters took too long.";
        "downstream_cx_transport_socket_connect_timeout" Counter "Connections whose handshake took too long.";
        "downstream_listener_filter_error" Counter "Connections that a listener filter refused.";
        "downstream_listener_filter_remote_close" Counter "Connections whose client left during the listener filters.";
        "ssl.handshake" Counter "Handshakes that succeeded.";
        "ssl.connection_error" Counter "Handshakes that failed, but for their certificate.";
        "ssl.no_certificate" Counter "Handshakes without a client's certificate.";
        "ssl.fail_verify_error" Counter "Certificates that failed the verification.";
        "ssl.fail_verify_no_cert" Counter "Handshakes that lacked a certificate.";
        "downstream_pre_cx_active" Gauge "Connections that wait for their first bytes.";
    }
    "cluster_manager" {
        "cds.update_success" Counter "Cluster updates taken.";
        "cds.update_rejected" Counter "Cluster updates refused.";
        "active_clusters" Gauge "Clusters.";
        "warming_clusters" Gauge "Clusters that wait for their first endpoints.";
    }
    "listener_manager" {
        "lds.update_success" Counter "Listener updates taken.";
        "lds.update_rejected" Counter "Listener updates refused.";
        "total_listeners_active" Gauge "Listeners that serve.";
        "workers_started" Gauge "1 when the workers run.";
    }
    "server" {
        "state" Gauge "0 live, 1 draining, 2 before initialization, 3 initializing.";
        "live" Gauge "1 when the server is live.";
        "uptime" Gauge "Seconds since the start.";
        "concurrency" Gauge "Workers.";
        "total_connections" Gauge "Connections open.";
    }
}
