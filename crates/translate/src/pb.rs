//! Short names for Envoy's messages, and constructors for the small ones that every generator needs.

use std::time::Duration;

use prost::{Message, Name};

pub(crate) use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
pub(crate) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use envoy_types::pb::envoy::config::core::v3 as core;
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(crate) use envoy_types::pb::envoy::config::route::v3 as route;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as kinds;
pub(crate) use envoy_types::pb::google::protobuf as wkt;

/// The cluster of the proxy's own secret service, which its bootstrap defines.
const SDS_CLUSTER: &str = "sds-grpc";

/// Wraps a message; maps inside are written in the order of their keys.
pub(crate) fn any<M: Message + Name>(message: &M) -> wkt::Any {
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    let value = crate::canonical::encode(message);
    wkt::Any { type_url, value }
}

pub(crate) fn duration(time: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        // Below a second by the type's own promise.
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn number(value: u32) -> wkt::UInt32Value {
    wkt::UInt32Value { value }
}

pub(crate) fn boolean(value: bool) -> wkt::BoolValue {
    wkt::BoolValue { value }
}

pub(crate) fn address(host: impl ToString, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket_address(
            host, port,
        ))),
    }
}

pub(crate) fn socket_address(host: impl ToString, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address: host.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    }
}

/// Resources of this stream, waited for without limit.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        initial_fetch_timeout: Some(wkt::Duration::default()),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            Default::default(),
        )),
        ..Default::default()
    }
}

/// A secret that the proxy's own agent serves.
pub(crate) fn local_secret(name: &str) -> tls::SdsSecretConfig {
    let target = core::grpc_service::EnvoyGrpc {
        cluster_name: SDS_CLUSTER.to_owned(),
        ..Default::default()
    };
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)),
        ..Default::default()
    };
    let api = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            initial_fetch_timeout: Some(wkt::Duration::default()),
            resource_api_version: core::ApiVersion::V3.into(),
            config_source_specifier: Some(
                core::config_source::ConfigSourceSpecifier::ApiConfigSource(api),
            ),
            ..Default::default()
        }),
    }
}

/// A secret that the control plane serves, with the data plane's own time limit.
pub(crate) fn control_plane_secret(name: String) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name,
        sds_config: Some(core::ConfigSource {
            resource_api_version: core::ApiVersion::V3.into(),
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                Default::default(),
            )),
            ..Default::default()
        }),
    }
}

pub(crate) fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: pattern.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn exact(text: &str) -> matcher::StringMatcher {
    string(matcher::string_matcher::MatchPattern::Exact(
        text.to_owned(),
    ))
}

pub(crate) fn string(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

/// A share in millionths.
pub(crate) fn share(millionths: u32) -> kinds::FractionalPercent {
    kinds::FractionalPercent {
        numerator: millionths,
        denominator: kinds::fractional_percent::DenominatorType::Million.into(),
    }
}

pub(crate) fn runtime_share(millionths: u32) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(share(millionths)),
        ..Default::default()
    }
}

pub(crate) fn text_value(text: impl Into<String>) -> wkt::Value {
    wkt::Value {
        kind: Some(wkt::value::Kind::StringValue(text.into())),
    }
}

pub(crate) fn list_value(values: Vec<wkt::Value>) -> wkt::Value {
    wkt::Value {
        kind: Some(wkt::value::Kind::ListValue(wkt::ListValue { values })),
    }
}

pub(crate) fn struct_value(fields: wkt::Struct) -> wkt::Value {
    wkt::Value {
        kind: Some(wkt::value::Kind::StructValue(fields)),
    }
}

pub(crate) fn fields<const N: usize>(pairs: [(&str, wkt::Value); N]) -> wkt::Struct {
    wkt::Struct {
        fields: pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

pub(crate) fn metadata<const N: usize>(pairs: [(&str, wkt::Struct); N]) -> core::Metadata {
    core::Metadata {
        filter_metadata: pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        ..Default::default()
    }
}

pub(crate) fn transport_socket<M: Message + Name>(name: &str, config: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(config))),
    }
}
