//! Tracing settings.

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::config::trace::v3 as trace;
use meltemi_proto::envoy::extensions::tracers::opentelemetry::resource_detectors::v3 as detectors;
use meltemi_proto::envoy::r#type::metadata::v3::{metadata_key, metadata_kind};
use meltemi_proto::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use meltemi_traffic::Str;
use meltemi_traffic::collector::{Collector, HttpTarget, OpenTelemetry, Zipkin};
use meltemi_traffic::format::{Format, MetadataOf};
use meltemi_traffic::hcm::{TagSource, TraceProvider, Tracing};

use crate::collector::{grpc_target, http_target};
use crate::filter_config::decode;
use crate::pb::network_filters::http_connection_manager::v3::http_connection_manager as pb;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{flag, header_name, number_or, percent};

const DEFAULT_PATH_TAG: u32 = 256;
/// Envoy's `tracing.zipkin.request_timeout`.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(5);
const ALWAYS_ON: &str = "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig";
const ENVIRONMENT_DETECTOR: &str = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig";
const STATIC_DETECTOR: &str = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig";

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

/// A custom tag's value.
pub(crate) fn source(message: &CustomTag) -> Compiled<TagSource> {
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
        Some(custom_tag::Type::Metadata(metadata)) => metadata_source(metadata)?,
        Some(custom_tag::Type::Value(format)) => {
            let format =
                Format::parse(format).or_else(|error| refuse_field("value", error.to_string()))?;
            TagSource::Format(format)
        }
        None => return refuse("needs a value"),
    })
}

fn metadata_source(message: &custom_tag::Metadata) -> Compiled<TagSource> {
    use metadata_kind::Kind;
    let whose = match message.kind.as_ref().and_then(|kind| kind.kind.as_ref()) {
        Some(Kind::Request(_)) | None => MetadataOf::Dynamic,
        Some(Kind::Route(_)) => MetadataOf::Route,
        Some(Kind::Cluster(_)) => MetadataOf::Cluster,
        Some(Kind::Host(_)) => MetadataOf::Host,
    };
    let Some(key) = &message.metadata_key else {
        return refuse_field("metadata.metadata_key", "is required");
    };
    let mut path = Vec::with_capacity(key.path.len());
    for segment in &key.path {
        let Some(metadata_key::path_segment::Segment::Key(key)) = &segment.segment else {
            return refuse_field("metadata.metadata_key.path", "must be a list of keys");
        };
        path.push(Str::from(key.as_str()));
    }
    Ok(TagSource::Metadata(
        whose,
        key.key.as_str().into(),
        path,
        message.default_value.as_str().into(),
    ))
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
    use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
    let collector = match &message.collector_service {
        Some(service) => http_target("collector_service", service)?,
        None => {
            if message.collector_cluster.is_empty() {
                return refuse_field("collector_cluster", "must not be empty");
            }
            let host = if message.collector_hostname.is_empty() {
                &message.collector_cluster
            } else {
                &message.collector_hostname
            };
            HttpTarget {
                cluster: message.collector_cluster.as_str().into(),
                host: host.as_str().into(),
                path: message.collector_endpoint.as_str().into(),
                timeout: COLLECTOR_TIMEOUT,
                headers: Vec::new(),
            }
        }
    };
    Ok(TraceProvider::Zipkin(Arc::new(Zipkin {
        collector,
        protobuf: message.collector_endpoint_version() == CollectorEndpointVersion::HttpProto,
        shared_span_context: flag(message.shared_span_context.as_ref(), true),
        trace_id_128bit: message.trace_id_128bit,
        w3c: message.trace_context_option() == TraceContextOption::UseB3WithW3cPropagation,
    })))
}

fn open_telemetry(message: &trace::OpenTelemetryConfig) -> Compiled<TraceProvider> {
    let service_name = if message.service_name.is_empty() {
        "unknown_service:envoy"
    } else {
        &message.service_name
    };
    if let Some(sampler) = &message.sampler {
        let kind = sampler
            .typed_config
            .as_ref()
            .map(|any| type_name(&any.type_url));
        if kind != Some(ALWAYS_ON) {
            return refuse_field(
                "sampler",
                format!("sampler {} is not supported", sampler.name),
            );
        }
    }
    let mut from_environment = false;
    let mut resource = Vec::new();
    for detector in &message.resource_detectors {
        let Some(any) = &detector.typed_config else {
            return refuse_field("resource_detectors", "typed_config is required");
        };
        match type_name(&any.type_url) {
            ENVIRONMENT_DETECTOR => from_environment = true,
            STATIC_DETECTOR => {
                let config: detectors::StaticConfigResourceDetectorConfig = decode(any)?;
                let mut pairs: Vec<_> = config.attributes.into_iter().collect();
                pairs.sort();
                resource.extend(
                    pairs
                        .into_iter()
                        .map(|(key, value)| (Str::from(key), Str::from(value))),
                );
            }
            other => {
                return refuse_field(
                    "resource_detectors",
                    format!("detector {other} is not supported"),
                );
            }
        }
    }
    let collector = match &message.http_service {
        Some(service) => Collector::Http(http_target("http_service", service)?),
        None => Collector::Grpc(grpc_target(message.grpc_service.as_ref())?),
    };
    Ok(TraceProvider::OpenTelemetry(Arc::new(OpenTelemetry {
        collector,
        service_name: service_name.into(),
        sdk_attributes: flag(message.set_telemetry_sdk_resource_attributes.as_ref(), true),
        resource,
        resource_from_environment: from_environment,
    })))
}
