//! Istio's own filters: their names and configurations.

use meltemi_names::alpn;
use meltemi_proto::istio::filters as configs;

use crate::pb;

/// Tells the server side which protocol is inside.
const ALPN: &str = "istio.alpn";
/// Standard metrics.
const STATS: &str = "istio.stats";
/// Tells each side who the other is.
const METADATA_EXCHANGE: &str = "istio.metadata_exchange";

/// On which side of a proxy a filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the application outward.
    Outbound,
    /// To the application.
    Inbound,
    /// At the edge of the mesh.
    Gateway,
}

/// Offers by the protocol of the request.
pub(crate) fn alpn_filter() -> pb::hcm::HttpFilter {
    use configs::alpn::{AlpnOverride, Protocol};
    let offers = |protocol: Protocol, tokens: [&str; 3]| AlpnOverride {
        upstream_protocol: protocol.into(),
        alpn_override: tokens.iter().map(|token| (*token).to_owned()).collect(),
    };
    http(
        ALPN,
        &configs::alpn::FilterConfig {
            alpn_override: vec![
                offers(
                    Protocol::Http10,
                    [alpn::ISTIO_HTTP_10, alpn::ISTIO, alpn::HTTP_10],
                ),
                offers(
                    Protocol::Http11,
                    [alpn::ISTIO_HTTP_11, alpn::ISTIO, alpn::HTTP_11],
                ),
                offers(Protocol::Http2, [alpn::ISTIO_H2, alpn::ISTIO, alpn::H2]),
            ],
        },
    )
}

/// Who the other side is, by headers.
pub(crate) fn http_metadata_exchange(side: Side) -> pb::hcm::HttpFilter {
    use configs::peer_metadata::{
        DiscoveryMethod, IstioHeaders, MethodSpecifier, PropagationMethod,
    };
    let method = |method| DiscoveryMethod {
        method_specifier: Some(method),
    };
    let discovery = vec![
        method(MethodSpecifier::IstioHeaders(IstioHeaders::default())),
        method(MethodSpecifier::WorkloadDiscovery(Default::default())),
    ];
    let propagation = vec![PropagationMethod {
        istio_headers: Some(IstioHeaders::default()),
    }];
    let config = match side {
        Side::Inbound => configs::peer_metadata::Config {
            downstream_discovery: discovery,
            downstream_propagation: propagation,
            ..Default::default()
        },
        Side::Outbound | Side::Gateway => configs::peer_metadata::Config {
            upstream_discovery: discovery,
            upstream_propagation: propagation,
            ..Default::default()
        },
    };
    http(METADATA_EXCHANGE, &config)
}

/// Standard metrics of requests.
pub(crate) fn http_stats(side: Side) -> pb::hcm::HttpFilter {
    http(STATS, &stats_config(side))
}

/// Standard metrics of connections.
pub(crate) fn tcp_stats(side: Side) -> pb::listener::Filter {
    network(STATS, &stats_config(side))
}

/// The Host header names the destination only where the proxy's own application wrote it.
fn stats_config(side: Side) -> configs::stats::PluginConfig {
    configs::stats::PluginConfig {
        disable_host_header_fallback: side != Side::Outbound,
        ..Default::default()
    }
}

/// Who the other side is, by a preamble.
pub(crate) fn tcp_metadata_exchange() -> pb::listener::Filter {
    network(METADATA_EXCHANGE, &exchange_config())
}

/// The client's half of the preamble.
pub(crate) fn upstream_metadata_exchange() -> pb::cluster::Filter {
    pb::cluster::Filter {
        name: METADATA_EXCHANGE.to_owned(),
        typed_config: Some(pb::any(&exchange_config())),
        ..Default::default()
    }
}

fn exchange_config() -> configs::tcp_exchange::MetadataExchange {
    configs::tcp_exchange::MetadataExchange {
        protocol: alpn::PEER_EXCHANGE.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn http<M: prost::Message + prost::Name>(name: &str, config: &M) -> pb::hcm::HttpFilter {
    pb::hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(pb::hcm::http_filter::ConfigType::TypedConfig(pb::any(
            config,
        ))),
        ..Default::default()
    }
}

pub(crate) fn network<M: prost::Message + prost::Name>(
    name: &str,
    config: &M,
) -> pb::listener::Filter {
    pb::listener::Filter {
        name: name.to_owned(),
        config_type: Some(pb::listener::filter::ConfigType::TypedConfig(pb::any(
            config,
        ))),
    }
}
