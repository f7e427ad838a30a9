//! The HTTP connection manager and its filters.

use envoy_types::pb::envoy::extensions::filters::http as http_filters;
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use meltemi_model::{MeshConfig, PathNormalization};

use super::access_log;
use crate::ProxyTraits;
use crate::istio_filters::{self, Side};
use crate::pb;
use crate::pb::hcm::http_connection_manager as fields;

/// Where the routes come from.
pub(super) enum Routes {
    /// By this name, from the control plane.
    Named(String),
    /// They stand in the listener.
    Inline(Box<pb::route::RouteConfiguration>),
}

/// The filter that speaks HTTP.
pub(super) fn connection_manager(
    side: Side,
    stat_prefix: &str,
    routes: Routes,
    grpc_web: bool,
    mesh: &MeshConfig,
    traits: ProxyTraits,
) -> pb::listener::Filter {
    let routes = match routes {
        Routes::Named(route_config_name) => fields::RouteSpecifier::Rds(pb::hcm::Rds {
            config_source: Some(pb::ads()),
            route_config_name,
        }),
        Routes::Inline(configuration) => fields::RouteSpecifier::RouteConfig(*configuration),
    };
    let mut manager = pb::hcm::HttpConnectionManager {
        stat_prefix: format!("{stat_prefix};"),
        route_specifier: Some(routes),
        http_filters: filters(side, grpc_web, traits),
        use_remote_address: Some(pb::boolean(side == Side::Gateway)),
        stream_idle_timeout: Some(pb::wkt::Duration::default()),
        upgrade_configs: vec![fields::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        proxy_100_continue: true,
        access_log: access_log::of_traffic(mesh),
        request_id_extension: Some(pb::hcm::RequestIdExtension {
            typed_config: Some(pb::any(&UuidRequestIdConfig {
                use_request_id_for_trace_sampling: Some(pb::boolean(true)),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    if traits.http10 {
        manager.http_protocol_options = Some(pb::core::Http1ProtocolOptions {
            accept_http_10: true,
            ..Default::default()
        });
    }
    manager.common_http_protocol_options =
        traits
            .idle_timeout
            .map(|time| pb::core::HttpProtocolOptions {
                idle_timeout: Some(pb::duration(time)),
                ..Default::default()
            });
    normalize(&mut manager, mesh.path_normalization);
    identify(&mut manager, side);
    istio_filters::network("envoy.filters.network.http_connection_manager", &manager)
}

fn normalize(manager: &mut pb::hcm::HttpConnectionManager, wanted: PathNormalization) {
    use fields::PathWithEscapedSlashesAction as Escaped;
    manager.normalize_path = Some(pb::boolean(wanted != PathNormalization::None));
    manager.merge_slashes = matches!(
        wanted,
        PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes
    );
    let escaped = match wanted {
        PathNormalization::DecodeAndMergeSlashes => Escaped::UnescapeAndForward,
        PathNormalization::None | PathNormalization::Base | PathNormalization::MergeSlashes => {
            Escaped::KeepUnchanged
        }
    };
    manager.path_with_escaped_slashes_action = escaped.into();
}

/// How the client's certificate is told on, and what the proxy calls itself.
fn identify(manager: &mut pb::hcm::HttpConnectionManager, side: Side) {
    let details = |cert: bool| fields::SetCurrentClientCertDetails {
        subject: Some(pb::boolean(true)),
        dns: true,
        uri: true,
        cert,
        ..Default::default()
    };
    match side {
        Side::Outbound => {}
        Side::Inbound => {
            manager.server_name = "istio-envoy".to_owned();
            manager.forward_client_cert_details =
                fields::ForwardClientCertDetails::AppendForward.into();
            manager.set_current_client_cert_details = Some(details(false));
        }
        Side::Gateway => {
            manager.server_name = "istio-envoy".to_owned();
            manager.forward_client_cert_details =
                fields::ForwardClientCertDetails::SanitizeSet.into();
            manager.set_current_client_cert_details = Some(details(true));
        }
    }
}

/// The filters of a request, in order; those that the proxy does not have are left out.
fn filters(side: Side, grpc_web: bool, traits: ProxyTraits) -> Vec<pb::hcm::HttpFilter> {
    let has = traits.filters;
    let mut filters = Vec::with_capacity(8);
    if has.http_peers {
        filters.push(istio_filters::http_metadata_exchange(side));
    }
    if grpc_web && has.grpc_web {
        let config = http_filters::grpc_web::v3::GrpcWeb::default();
        filters.push(istio_filters::http("envoy.filters.http.grpc_web", &config));
    }
    if has.grpc_stats {
        use http_filters::grpc_stats::v3 as grpc_stats;
        let one_counter = grpc_stats::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
            pb::boolean(false),
        );
        let config = grpc_stats::FilterConfig {
            emit_filter_state: true,
            per_method_stat_specifier: Some(one_counter),
            ..Default::default()
        };
        filters.push(istio_filters::http(
            "envoy.filters.http.grpc_stats",
            &config,
        ));
    }
    if has.alpn && side != Side::Inbound {
        filters.push(istio_filters::alpn_filter());
    }
    let fault = http_filters::fault::v3::HttpFault::default();
    filters.push(istio_filters::http("envoy.filters.http.fault", &fault));
    let cors = http_filters::cors::v3::Cors::default();
    filters.push(istio_filters::http("envoy.filters.http.cors", &cors));
    if has.http_stats {
        filters.push(istio_filters::http_stats(side));
    }
    let router = http_filters::router::v3::Router::default();
    filters.push(istio_filters::http("envoy.filters.http.router", &router));
    filters
}
