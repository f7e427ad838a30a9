//! Services that logs and spans are sent to.

use std::time::Duration;

use meltemi_traffic::Str;
use meltemi_traffic::collector::{Batching, GrpcTarget, HttpTarget};

use crate::pb::{core, wkt};
use crate::refusal::{Compiled, Within, refuse_field};
use crate::values::{duration, number};

/// `GrpcService`; only `envoy_grpc`, because calls go through our own clusters.
pub(crate) fn grpc_target(message: Option<&core::GrpcService>) -> Compiled<GrpcTarget> {
    use core::grpc_service::TargetSpecifier;
    let Some(message) = message else {
        return refuse_field("grpc_service", "is required");
    };
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &message.target_specifier else {
        return refuse_field("grpc_service", "must name a cluster by envoy_grpc");
    };
    if target.cluster_name.is_empty() {
        return refuse_field("grpc_service.envoy_grpc.cluster_name", "must not be empty");
    }
    let timeout = message
        .timeout
        .as_ref()
        .map(duration)
        .transpose()
        .within("grpc_service.timeout")?;
    let metadata = message.initial_metadata.iter();
    Ok(GrpcTarget {
        cluster: target.cluster_name.as_str().into(),
        authority: target.authority.as_str().into(),
        timeout: timeout.filter(|timeout| !timeout.is_zero()),
        metadata: metadata
            .map(|header| {
                (
                    Str::from(header.key.to_ascii_lowercase()),
                    Str::from(header.value.as_str()),
                )
            })
            .collect(),
    })
}

/// `HttpService`.
pub(crate) fn http_target(field: &str, message: &core::HttpService) -> Compiled<HttpTarget> {
    let Some(uri) = &message.http_uri else {
        return refuse_field(&format!("{field}.http_uri"), "is required");
    };
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        return refuse_field(&format!("{field}.http_uri.cluster"), "is required");
    };
    let (host, path) = host_and_path(&uri.uri);
    let headers = message.request_headers_to_add.iter();
    Ok(HttpTarget {
        cluster: cluster.as_str().into(),
        host: host.into(),
        path: path.into(),
        timeout: uri
            .timeout
            .as_ref()
            .map_or(Ok(Duration::from_secs(5)), duration)
            .within(&format!("{field}.http_uri.timeout"))?,
        headers: headers
            .filter_map(|option| option.header.as_ref())
            .map(|header| {
                (
                    Str::from(header.key.to_ascii_lowercase()),
                    Str::from(header.value.as_str()),
                )
            })
            .collect(),
    })
}

/// Host and path of an absolute URI.
pub(crate) fn host_and_path(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.find('/').map_or((rest, "/"), |at| rest.split_at(at))
}

/// The two batching fields that the loggers share.
pub(crate) fn batching(
    interval: Option<&wkt::Duration>,
    bytes: Option<&wkt::UInt32Value>,
) -> Compiled<Batching> {
    let default = Batching::default();
    Ok(Batching {
        interval: interval
            .map_or(Ok(default.interval), duration)
            .within("buffer_flush_interval")?,
        bytes: number(bytes).map_or(default.bytes, |bytes| bytes as usize),
        ..default
    })
}
