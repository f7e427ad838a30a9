//! Clusters (CDS).
//!
//! [`outbound`] makes one for each port of a service and one more for each subset, [`inbound`] one for each port of the
//! application behind the proxy, [`special`] the fixed ones.

pub mod inbound;
pub mod outbound;
mod policy;
pub mod special;
mod upstream_tls;

pub(crate) use upstream_tls::{TLS_SOCKET, mesh_versions};

use std::time::Duration;

use envoy_types::pb::envoy::config::common::matcher::v3::MatchPredicate;

use crate::pb;
use crate::pb::upstream_http;

/// The key of HTTP options in a cluster.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What is spoken towards the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamHttp {
    /// HTTP/1.1, or no HTTP at all.
    Http1,
    /// HTTP/2.
    Http2,
    /// As the client does.
    AsDownstream,
}

/// What HTTP towards the endpoints looks like beside its version.
#[derive(Default)]
struct HttpSettings {
    common: Option<pb::core::HttpProtocolOptions>,
    max_concurrent_streams: Option<u32>,
    /// Interval and time limit of HTTP/2 pings.
    keepalive: Option<(Duration, Duration)>,
    /// The statuses that count as failures.
    error_codes: Vec<u32>,
    /// Names of the server that come from the request.
    names: Option<pb::core::UpstreamHttpProtocolOptions>,
}

impl HttpSettings {
    /// Nothing that HTTP/1.1 does not do by default.
    fn is_default(&self) -> bool {
        self.common.is_none() && self.names.is_none() && self.error_codes.is_empty()
    }
}

/// The HTTP options of a cluster; nothing when they are all defaults.
fn set_http_options(
    cluster: &mut pb::cluster::Cluster,
    upstream: UpstreamHttp,
    settings: HttpSettings,
) {
    use upstream_http::http_protocol_options as options;
    let http2 = pb::core::Http2ProtocolOptions {
        max_concurrent_streams: settings.max_concurrent_streams.map(pb::number),
        connection_keepalive: settings.keepalive.map(|(interval, timeout)| {
            pb::core::KeepaliveSettings {
                interval: Some(pb::duration(interval)),
                timeout: Some(pb::duration(timeout)),
                ..Default::default()
            }
        }),
        ..Default::default()
    };
    let explicit = |protocol| {
        options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })
    };
    let error_matcher = failures(&settings.error_codes);
    let protocol = match upstream {
        UpstreamHttp::Http1 if settings.is_default() => return,
        UpstreamHttp::Http1 => explicit(
            options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(Default::default()),
        ),
        UpstreamHttp::Http2 => {
            explicit(options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2))
        }
        UpstreamHttp::AsDownstream => {
            options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                options::UseDownstreamHttpConfig {
                    http_protocol_options: Some(Default::default()),
                    http2_protocol_options: Some(http2),
                    ..Default::default()
                },
            )
        }
    };
    let options = upstream_http::HttpProtocolOptions {
        common_http_protocol_options: settings.common,
        upstream_http_protocol_options: settings.names,
        upstream_protocol_options: Some(protocol),
        outlier_detection: error_matcher.map(|matcher| options::OutlierDetection {
            error_matcher: Some(matcher),
        }),
        ..Default::default()
    };
    cluster
        .typed_extension_protocol_options
        .insert(HTTP_OPTIONS.to_owned(), pb::any(&options));
}

/// The answers that count as failures, by their status.
fn failures(codes: &[u32]) -> Option<MatchPredicate> {
    use envoy_types::pb::envoy::config::common::matcher::v3::{
        HttpHeadersMatch,
        match_predicate::{MatchSet, Rule},
    };
    use pb::route::header_matcher::HeaderMatchSpecifier;
    let one = |code: &u32| MatchPredicate {
        rule: Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch {
            headers: vec![pb::route::HeaderMatcher {
                name: ":status".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pb::exact(
                    &code.to_string(),
                ))),
                ..Default::default()
            }],
        })),
    };
    match codes {
        [] => None,
        [only] => Some(one(only)),
        several => Some(MatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: several.iter().map(one).collect(),
            })),
        }),
    }
}

/// Found by the address that the client dialled.
fn original_destination(cluster: &mut pb::cluster::Cluster) {
    set_type(cluster, pb::cluster::cluster::DiscoveryType::OriginalDst);
    cluster.lb_policy = pb::cluster::cluster::LbPolicy::ClusterProvided.into();
    cluster.load_assignment = None;
    cluster.eds_cluster_config = None;
}

fn set_type(cluster: &mut pb::cluster::Cluster, kind: pb::cluster::cluster::DiscoveryType) {
    cluster.cluster_discovery_type = Some(pb::cluster::cluster::ClusterDiscoveryType::Type(
        kind.into(),
    ));
}

/// Connections to the application leave from this address: the capture rules know by it that they come from the
/// proxy.
fn from_loop_breaker(cluster: &mut pb::cluster::Cluster) {
    cluster.upstream_bind_config = Some(pb::core::BindConfig {
        source_address: Some(pb::socket_address("127.0.0.6", 0)),
        ..Default::default()
    });
}

/// The delimiter that the expressions of the statistics' tags rely on.
fn stat_name(name: &str) -> String {
    format!("{name};")
}
