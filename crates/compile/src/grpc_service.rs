//! gRPC services and HTTP servers that filters call through the proxy's own clusters.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use meltemi_traffic::Str;
use meltemi_traffic::ext_authz::GrpcTarget;

use crate::pb::core;
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::{header_name, limit};

/// A gRPC service; `default` is the time for a call where none is given.
pub(crate) fn grpc_target(message: &core::GrpcService, default: Duration) -> Compiled<GrpcTarget> {
    use core::grpc_service::TargetSpecifier;
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &message.target_specifier else {
        return refuse_field("google_grpc", "a service must be named by envoy_grpc");
    };
    Ok(GrpcTarget {
        cluster: target.cluster_name.as_str().into(),
        authority: target.authority.as_str().into(),
        timeout: limit("timeout", message.timeout.as_ref(), Some(default))?,
        metadata: each("initial_metadata", &message.initial_metadata, constant)?,
    })
}

/// A header with a constant value.
pub(crate) fn constant(message: &core::HeaderValue) -> Compiled<(HeaderName, HeaderValue)> {
    let bytes = if message.raw_value.is_empty() {
        message.value.as_bytes()
    } else {
        &message.raw_value
    };
    if message.value.contains('%') {
        return refuse_field("value", "only constant values are supported");
    }
    match HeaderValue::from_bytes(bytes) {
        Ok(value) => Ok((header_name(&message.key).within("key")?, value)),
        Err(_) => refuse_field("value", "is no header value"),
    }
}

/// A server that is named by URI and cluster.
pub(crate) struct Server {
    /// Cluster.
    pub cluster: Str,
    /// `host[:port]` of the URI.
    pub host: Str,
    /// Path and query of the URI.
    pub path: Str,
    /// Time for a call; `None` never ends.
    pub timeout: meltemi_traffic::Limit,
}

/// A server.
pub(crate) fn server(message: &core::HttpUri) -> Compiled<Server> {
    use core::http_uri::HttpUpstreamType;
    let Some(HttpUpstreamType::Cluster(cluster)) = &message.http_upstream_type else {
        return refuse_field("cluster", "is required");
    };
    let rest = message
        .uri
        .split_once("://")
        .map_or(message.uri.as_str(), |(_, rest)| rest);
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Ok(Server {
        cluster: cluster.as_str().into(),
        host: host.into(),
        path: path.into(),
        timeout: limit("timeout", message.timeout.as_ref(), None)?,
    })
}
