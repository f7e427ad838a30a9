//! `ConfigSource`: where resources come from, and references to them by name.

use std::sync::Arc;
use std::time::Duration;

use meltemi_traffic::discovery::{FileSource, Reference, Source, StreamSource};
use meltemi_traffic::{Limit, Str};

use crate::pb::core;
use crate::pb::sockets::tls::v3 as tls;
use crate::refusal::{Compiled, Within, refuse, refuse_field};
use crate::values::{limit, word};

/// Envoy's `initial_fetch_timeout`.
const FETCH: Limit = Some(Duration::from_secs(15));

/// A resource by name from a source that must be given.
pub(crate) fn reference(config: Option<&core::ConfigSource>, name: &str) -> Compiled<Reference> {
    let Some(config) = config else {
        return refuse("is required");
    };
    let (source, wait) = source(config)?;
    Ok(Reference::new(source, word(name), wait))
}

/// All resources of a source (LDS, CDS), which have no name of their own.
pub(crate) fn collection(config: &core::ConfigSource) -> Compiled<Reference> {
    reference(Some(config), "")
}

/// A secret; without a source it is one of the bootstrap's.
pub(crate) fn secret_reference(message: &tls::SdsSecretConfig) -> Compiled<Reference> {
    if message.name.is_empty() {
        return refuse_field("name", "is required");
    }
    match &message.sds_config {
        Some(_) => reference(message.sds_config.as_ref(), &message.name).within("sds_config"),
        None => Ok(Reference::new(Source::Static, word(&message.name), None)),
    }
}

/// A source, and how long its first answer is waited for.
pub(crate) fn source(message: &core::ConfigSource) -> Compiled<(Source, Limit)> {
    use core::config_source::ConfigSourceSpecifier as By;
    #[expect(deprecated, reason = "named to be refused")]
    if message.resource_api_version() == core::ApiVersion::V2 {
        return refuse_field("resource_api_version", "only V3 is supported");
    }
    let wait = limit(
        "initial_fetch_timeout",
        message.initial_fetch_timeout.as_ref(),
        FETCH,
    )?;
    #[expect(deprecated, reason = "the old form is still sent")]
    let source = match &message.config_source_specifier {
        Some(By::Ads(_)) => Source::Ads,
        Some(By::ApiConfigSource(config)) => {
            Source::Stream(Arc::new(stream(config).within("api_config_source")?))
        }
        Some(By::PathConfigSource(file)) => {
            if file.path.is_empty() {
                return refuse_field("path_config_source.path", "is required");
            }
            Source::File(Arc::new(FileSource {
                path: file.path.as_str().into(),
                watched_directory: file
                    .watched_directory
                    .as_ref()
                    .map(|directory| directory.path.as_str().into()),
            }))
        }
        Some(By::Path(path)) => Source::File(Arc::new(FileSource {
            path: path.as_str().into(),
            watched_directory: None,
        })),
        Some(By::Self_(_)) => return refuse_field("self", "not supported"),
        None => return refuse("needs ads, api_config_source or path_config_source"),
    };
    Ok((source, wait))
}

/// A stream of discovery requests.
pub(crate) fn stream(message: &core::ApiConfigSource) -> Compiled<StreamSource> {
    use core::api_config_source::ApiType;
    let delta = match message.api_type() {
        ApiType::Grpc | ApiType::AggregatedGrpc => false,
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => true,
        _ => return refuse_field("api_type", "only GRPC and DELTA_GRPC are supported"),
    };
    if message.transport_api_version() != core::ApiVersion::V3 {
        return refuse_field("transport_api_version", "must be V3");
    }
    if !message.cluster_names.is_empty() {
        return refuse_field("cluster_names", "a gRPC source has grpc_services instead");
    }
    let [service] = message.grpc_services.as_slice() else {
        return refuse_field("grpc_services", "needs exactly one");
    };
    let target = match &service.target_specifier {
        Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(core::grpc_service::TargetSpecifier::GoogleGrpc(_)) => {
            return refuse_field("grpc_services[0].google_grpc", "use envoy_grpc");
        }
        None => return refuse_field("grpc_services[0]", "must name a cluster by envoy_grpc"),
    };
    if target.cluster_name.is_empty() {
        return refuse_field("grpc_services[0].envoy_grpc.cluster_name", "is required");
    }
    let pairs = service.initial_metadata.iter();
    Ok(StreamSource {
        delta,
        cluster: target.cluster_name.as_str().into(),
        authority: target.authority.as_str().into(),
        node_once: message.set_node_on_first_message_only,
        initial_metadata: pairs
            .map(|pair| (pair.key.as_str().into(), Str::from(pair.value.as_str())))
            .collect(),
        timeout: limit("grpc_services[0].timeout", service.timeout.as_ref(), None)?,
    })
}
