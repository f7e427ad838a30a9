//! Bootstrap files: static resources, where dynamic ones come from, the admin port, the node.

use std::sync::Arc;
use std::time::Duration;

use meltemi_traffic::cluster::Cluster;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::listener::Listener;
use meltemi_traffic::tls::Secret;
use meltemi_traffic::{Limit, Str};

use crate::coverage;
use crate::pb::{bootstrap as pb, core, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{address, limit};

/// Runtime key of the process-wide connection limit.
const CONNECTION_LIMIT: &str = "overload.global_downstream_max_connections";

/// A compiled bootstrap.
#[derive(Debug, Default)]
pub struct Boot {
    /// Who this proxy is, as sent to the control plane.
    pub node: core::Node,
    /// Where the admin port listens.
    pub admin: Option<Address>,
    /// Static listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Static clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// Static secrets.
    pub secrets: Vec<Arc<Secret>>,
    /// The aggregated stream, when there is one.
    pub ads: Option<AdsConfig>,
    /// Where listeners come from.
    pub lds: Option<Source>,
    /// Where clusters come from.
    pub cds: Option<Source>,
    /// Most downstream connections of the process.
    pub max_connections: Option<u64>,
}

/// A discovery stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdsConfig {
    /// Only changes are sent.
    pub delta: bool,
    /// Cluster of the server.
    pub cluster: Str,
    /// The node is sent only once.
    pub node_once: bool,
    /// Headers of the stream.
    pub initial_metadata: Vec<(Str, Str)>,
}

/// Where resources of a kind come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The aggregated stream; time to wait for the first answer, `None` for ever.
    Ads(Limit),
    /// A stream of their own.
    Stream(AdsConfig, Limit),
    /// A file that is watched.
    File(Str),
}

/// Compiles a bootstrap.
///
/// # Errors
/// The first field that has no effect or no sense.
pub fn bootstrap(message: &pb::Bootstrap) -> Compiled<Boot> {
    // Resources are checked one by one, so that each error has one path.
    let bare = pb::Bootstrap {
        static_resources: None,
        ..message.clone()
    };
    coverage::check(&bare, "envoy.config.bootstrap.v3.Bootstrap")?;
    let fixed = message.static_resources.clone().unwrap_or_default();
    let within = "static_resources";
    let listeners = each("listeners", &fixed.listeners, crate::listener).within(within)?;
    let clusters = each("clusters", &fixed.clusters, crate::cluster).within(within)?;
    unique("clusters", clusters.iter().map(|cluster| &cluster.name)).within(within)?;
    let named = listeners
        .iter()
        .map(|listener| &listener.name)
        .filter(|name| !name.is_empty());
    unique("listeners", named).within(within)?;
    let dynamic = message.dynamic_resources.clone().unwrap_or_default();
    let ads = dynamic
        .ads_config
        .as_ref()
        .map(|config| stream(config).within("dynamic_resources.ads_config"));
    let source = |field: &str, config: Option<&core::ConfigSource>| {
        config
            .map(|config| source(config).within(field))
            .transpose()
            .within("dynamic_resources")
    };
    let admin = message
        .admin
        .as_ref()
        .and_then(|admin| admin.address.as_ref());
    Ok(Boot {
        node: message.node.clone().unwrap_or_default(),
        admin: admin
            .map(|admin| address(admin).within("admin.address"))
            .transpose()?,
        listeners,
        clusters,
        secrets: each("secrets", &fixed.secrets, crate::secret).within(within)?,
        ads: ads.transpose()?,
        lds: source("lds_config", dynamic.lds_config.as_ref())?,
        cds: source("cds_config", dynamic.cds_config.as_ref())?,
        max_connections: connection_limit(message.layered_runtime.as_ref()),
    })
}

fn unique<'n>(field: &str, names: impl Iterator<Item = &'n Str>) -> Compiled<()> {
    let mut seen = ahash::AHashSet::new();
    for name in names {
        if !seen.insert(name) {
            return refuse_field(field, format!("{name} is given twice"));
        }
    }
    Ok(())
}

fn stream(message: &core::ApiConfigSource) -> Compiled<AdsConfig> {
    use core::api_config_source::ApiType;
    let delta = match message.api_type() {
        ApiType::Grpc | ApiType::AggregatedGrpc => false,
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => true,
        _ => return refuse_field("api_type", "only GRPC and DELTA_GRPC are supported"),
    };
    let [service] = message.grpc_services.as_slice() else {
        return refuse_field("grpc_services", "needs exactly one");
    };
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier
    else {
        return refuse_field("grpc_services[0]", "must name a cluster by envoy_grpc");
    };
    let pairs = service.initial_metadata.iter();
    Ok(AdsConfig {
        delta,
        cluster: target.cluster_name.as_str().into(),
        node_once: message.set_node_on_first_message_only,
        initial_metadata: pairs
            .map(|pair| (pair.key.as_str().into(), pair.value.as_str().into()))
            .collect(),
    })
}

fn source(message: &core::ConfigSource) -> Compiled<Source> {
    use core::config_source::ConfigSourceSpecifier as By;
    let default = Some(Duration::from_secs(15));
    let wait = limit(
        "initial_fetch_timeout",
        message.initial_fetch_timeout.as_ref(),
        default,
    )?;
    #[expect(deprecated, reason = "the old form is still sent")]
    match &message.config_source_specifier {
        Some(By::Ads(_)) => Ok(Source::Ads(wait)),
        Some(By::ApiConfigSource(config)) => Ok(Source::Stream(
            stream(config).within("api_config_source")?,
            wait,
        )),
        Some(By::PathConfigSource(file)) => Ok(Source::File(file.path.as_str().into())),
        Some(By::Path(path)) => Ok(Source::File(path.as_str().into())),
        _ => refuse("this source is not supported"),
    }
}

/// The one runtime key that is enforced; feature flags of other implementations have no meaning here.
fn connection_limit(runtime: Option<&pb::LayeredRuntime>) -> Option<u64> {
    use pb::runtime_layer::LayerSpecifier;
    let layers = runtime?
        .layers
        .iter()
        .filter_map(|layer| match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(fields)) => Some(fields),
            _ => None,
        });
    layers
        .filter_map(|fields| lookup(fields, CONNECTION_LIMIT))
        .next_back()
}

fn lookup(fields: &wkt::Struct, key: &str) -> Option<u64> {
    use wkt::value::Kind;
    let number = |value: &wkt::Value| match &value.kind {
        Some(Kind::NumberValue(number)) if *number >= 0.0 => Some(*number as u64),
        Some(Kind::StringValue(text)) => text.parse().ok(),
        _ => None,
    };
    if let Some(found) = fields.fields.get(key).and_then(number) {
        return Some(found);
    }
    // Keys may also be nested objects, one for each part.
    let (first, rest) = key.split_once('.')?;
    match &fields.fields.get(first)?.kind {
        Some(Kind::StructValue(inner)) => lookup(inner, rest),
        _ => None,
    }
}
