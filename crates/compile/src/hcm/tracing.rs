//! Tracing settings.

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::config::trace::v3 as trace;
use meltemi_proto::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use meltemi_traffic::Str;
use meltemi_traffic::format::Format;
use meltemi_traffic::hcm::{TagSource, TraceProvider, Tracing};

use crate::filter_config::decode;
use crate::pb::core;
use crate::pb::network_filters::http_connection_manager::v3::http_connection_manager as pb;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{flag, header_name, number_or, percent};

const DEFAULT_PATH_TAG: u32 = 256;

pub(super) fn settings(message: &pb::Tracing) -> Compiled<Tracing> {
    Ok(Tracing {
        client_sampling: percent("client_sampling", message.client_sampling.as_ref(), 100.0)?,
        random_sampling: percent("random_sampling", message.random_sampling.as_ref(), 100.0)?,
        overall_sampling: percent("overall_sampling", message.overall_sampling.as_ref(), 100.0)?,
        spawn_upstream_span: flag(message.spawn_upstream_span.as_ref(), false),
        max_path_tag_length: number_or(message.max_path_tag_length.as_ref(), DEFAULT_PATH_TAG),
        verbose: message.verbose,
        tags: each("custom_tags", &message.custom_tags, |tag| {
            Ok((Str::from(tag.tag.as_str()), source(tag)?))
        })?,
        provider: message
            .provider
            .as_ref()
            .map(provider)
            .transpose()
            .within("provider")?,
    })
}

fn source(message: &CustomTag) -> Compiled<TagSource> {
    Ok(match &message.r#type {
        Some(custom_tag::Type::Literal(literal)) => {
            TagSource::Literal(literal.value.as_str().into())
        }
        Some(custom_tag::Type::Environment(variable)) => TagSource::Environment(
            variable.name.as_str().into(),
            variable.default_value.as_str().into(),
        ),
        Some(custom_tag::Type::RequestHeader(header)) => TagSource::RequestHeader(
            header_name(&header.name).within("request_header.name")?,
            header.default_value.as_str().into(),
        ),
        Some(custom_tag::Type::Value(format)) => {
            let format =
                Format::parse(format).or_else(|error| refuse_field("value", error.to_string()))?;
            TagSource::Format(format)
        }
        _ => return refuse("this kind of tag is not supported"),
    })
}

fn provider(message: &trace::tracing::Http) -> Compiled<TraceProvider> {
    let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse_field("typed_config", "is required");
    };
    match type_name(&any.type_url) {
        "envoy.config.trace.v3.ZipkinConfig" => zipkin(&decode(any)?).within("typed_config"),
        "envoy.config.trace.v3.OpenTelemetryConfig" => {
            open_telemetry(&decode(any)?).within("typed_config")
        }
        other => refuse_field("typed_config", format!("tracer {other} is not supported")),
    }
}

fn zipkin(message: &trace::ZipkinConfig) -> Compiled<TraceProvider> {
    let service = message
        .collector_service
        .as_ref()
        .and_then(|service| service.http_uri.as_ref());
    let (cluster, path, hostname) = match service {
        Some(uri) => {
            let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type
            else {
                return refuse_field("collector_service.http_uri.cluster", "is required");
            };
            let (host, path) = host_and_path(&uri.uri);
            (cluster.as_str(), path, host)
        }
        None => {
            let host = if message.collector_hostname.is_empty() {
                &message.collector_cluster
            } else {
                &message.collector_hostname
            };
            (
                message.collector_cluster.as_str(),
                message.collector_endpoint.as_str(),
                host.as_str(),
            )
        }
    };
    Ok(TraceProvider::Zipkin {
        cluster: cluster.into(),
        path: path.into(),
        hostname: hostname.into(),
        shared_span_context: flag(message.shared_span_context.as_ref(), true),
        trace_id_128bit: message.trace_id_128bit,
        w3c: message.trace_context_option()
            == trace::zipkin_config::TraceContextOption::UseB3WithW3cPropagation,
    })
}

fn host_and_path(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.find('/').map_or((rest, "/"), |at| rest.split_at(at))
}

fn open_telemetry(message: &trace::OpenTelemetryConfig) -> Compiled<TraceProvider> {
    let service_name = if message.service_name.is_empty() {
        "unknown_service:envoy"
    } else {
        &message.service_name
    };
    if let Some(service) = &message.http_service {
        let Some(uri) = &service.http_uri else {
            return refuse_field("http_service.http_uri", "is required");
        };
        let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type
        else {
            return refuse_field("http_service.http_uri.cluster", "is required");
        };
        return Ok(TraceProvider::OpenTelemetryHttp {
            cluster: cluster.as_str().into(),
            uri: uri.uri.as_str().into(),
            service_name: service_name.into(),
        });
    }
    let target = message
        .grpc_service
        .as_ref()
        .and_then(|service| service.target_specifier.as_ref());
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) = target else {
        return refuse_field("grpc_service", "must name a cluster by envoy_grpc");
    };
    Ok(TraceProvider::OpenTelemetryGrpc {
        cluster: target.cluster_name.as_str().into(),
        authority: target.authority.as_str().into(),
        service_name: service_name.into(),
    })
}
