//! Access logs to a file.

use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file;
use meltemi_model::MeshConfig;

use crate::pb;

/// One line for each exchange.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \
    \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// The keys of the log in JSON, with what they stand for.
const JSON_KEYS: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// Of exchanges and connections.
pub(super) fn of_traffic(mesh: &MeshConfig) -> Vec<pb::accesslog::AccessLog> {
    log(mesh, None).into_iter().collect()
}

/// Of a listener itself: connections for which it has no chain.
pub(super) fn of_listener(mesh: &MeshConfig) -> Vec<pb::accesslog::AccessLog> {
    let no_route = pb::accesslog::ResponseFlagFilter {
        flags: vec!["NR".to_owned()],
    };
    let filter = pb::accesslog::AccessLogFilter {
        filter_specifier: Some(
            pb::accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(no_route),
        ),
    };
    log(mesh, Some(filter)).into_iter().collect()
}

fn log(
    mesh: &MeshConfig,
    filter: Option<pb::accesslog::AccessLogFilter>,
) -> Option<pb::accesslog::AccessLog> {
    if mesh.access_log_file.is_empty() {
        return None;
    }
    let config = file::FileAccessLog {
        path: mesh.access_log_file.to_string(),
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(format(
            mesh,
        ))),
    };
    Some(pb::accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter,
        config_type: Some(pb::accesslog::access_log::ConfigType::TypedConfig(pb::any(
            &config,
        ))),
    })
}

fn format(mesh: &MeshConfig) -> pb::core::SubstitutionFormatString {
    use pb::core::substitution_format_string::Format;
    let format = if mesh.access_log_json && mesh.access_log_format.is_empty() {
        Format::JsonFormat(pb::wkt::Struct {
            fields: JSON_KEYS
                .iter()
                .map(|(key, operator)| ((*key).to_owned(), pb::text_value(*operator)))
                .collect(),
        })
    } else {
        let mut text = match mesh.access_log_format.as_str() {
            "" => DEFAULT_FORMAT.to_owned(),
            written => written.to_owned(),
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Format::TextFormatSource(pb::core::DataSource {
            specifier: Some(pb::core::data_source::Specifier::InlineString(text)),
            ..Default::default()
        })
    };
    pb::core::SubstitutionFormatString {
        format: Some(format),
        ..Default::default()
    }
}
