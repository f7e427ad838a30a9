//! Bootstrap files: static resources, where dynamic ones come from, the admin port, the node.

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Cluster, ClusterKind};
use meltemi_traffic::discovery::{Reference, Source, StreamSource};
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::listener::Listener;
use meltemi_traffic::tls::Secret;

use crate::coverage;
use crate::pb::{bootstrap as pb, core, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::source::{collection, stream};
use crate::values::address;

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
    pub ads: Option<Arc<StreamSource>>,
    /// Where listeners come from.
    pub lds: Option<Reference>,
    /// Where clusters come from.
    pub cds: Option<Reference>,
    /// Most downstream connections of the process.
    pub max_connections: Option<u64>,
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
        .map(|config| stream(config).within("dynamic_resources.ads_config"))
        .transpose()?;
    let source = |field: &str, config: Option<&core::ConfigSource>| {
        config
            .map(|config| collection(config).within(field))
            .transpose()
            .within("dynamic_resources")
    };
    let lds = source("lds_config", dynamic.lds_config.as_ref())?;
    let cds = source("cds_config", dynamic.cds_config.as_ref())?;
    reachable(ads.as_ref(), lds.as_ref(), cds.as_ref(), &clusters).within("dynamic_resources")?;
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
        ads: ads.map(Arc::new),
        lds,
        cds,
        max_connections: connection_limit(message.layered_runtime.as_ref()),
    })
}

/// Every collection has a server that can be reached before anything is discovered.
fn reachable(
    ads: Option<&StreamSource>,
    lds: Option<&Reference>,
    cds: Option<&Reference>,
    clusters: &[Arc<Cluster>],
) -> Compiled<()> {
    for (field, stream) in [
        ("ads_config", ads),
        ("lds_config", stream_of(lds)),
        ("cds_config", stream_of(cds)),
    ] {
        served(stream, clusters).within(field)?;
    }
    let wants_ads =
        |reference: Option<&Reference>| reference.is_some_and(|of| of.source == Source::Ads);
    if ads.is_none() && (wants_ads(lds) || wants_ads(cds)) {
        return refuse_field(
            "ads_config",
            "is required for resources of the aggregated stream",
        );
    }
    Ok(())
}

fn stream_of(reference: Option<&Reference>) -> Option<&StreamSource> {
    match &reference?.source {
        Source::Stream(stream) => Some(stream),
        _ => None,
    }
}

/// A discovery server must be reachable before anything is discovered.
fn served(stream: Option<&StreamSource>, clusters: &[Arc<Cluster>]) -> Compiled<()> {
    let Some(stream) = stream else { return Ok(()) };
    let found = clusters
        .iter()
        .find(|cluster| cluster.name == stream.cluster);
    match found.map(|cluster| &cluster.kind) {
        Some(ClusterKind::Eds(_)) | None => refuse(format!(
            "cluster {} is no static cluster with endpoints of its own",
            stream.cluster
        )),
        Some(_) => Ok(()),
    }
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
