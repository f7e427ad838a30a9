//! Bootstrap files: static resources, where dynamic ones come from, the admin port, the node.

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Cluster, ClusterKind};
use meltemi_traffic::discovery::{Reference, Source, StreamSource};
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::listener::Listener;
use meltemi_traffic::overload::OverloadManager;
use meltemi_traffic::statistics::Statistics;
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
    /// Most downstream connections of a listener, by its name.
    pub listener_limits: Vec<(Str, u64)>,
    /// What is done under pressure.
    pub overload: Option<OverloadManager>,
    /// Names, labels and buckets of statistics.
    pub statistics: Statistics,
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
    let overload = message
        .overload_manager
        .as_ref()
        .map(crate::overload::overload)
        .transpose()
        .within("overload_manager")?
        .unwrap_or_default();
    let runtime = runtime(message.layered_runtime.as_ref());
    let global = runtime.iter().rfind(|(key, _)| key == CONNECTION_LIMIT);
    let global = global.map(|(_, limit)| *limit);
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
        max_connections: match (global, overload.max_connections) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        },
        listener_limits: listener_limits(&runtime),
        overload: overload.manager,
        statistics: crate::statistics::statistics(message)?,
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

/// Numbers of the static runtime layers by key, later layers last. Feature flags of other implementations have no
/// meaning here.
fn runtime(message: Option<&pb::LayeredRuntime>) -> Vec<(String, u64)> {
    use pb::runtime_layer::LayerSpecifier;
    let mut out = Vec::new();
    for layer in message.map_or(&[][..], |runtime| &runtime.layers) {
        if let Some(LayerSpecifier::StaticLayer(fields)) = &layer.layer_specifier {
            numbers("", fields, &mut out);
        }
    }
    out
}

/// Keys may be nested objects, one for each part.
fn numbers(prefix: &str, fields: &wkt::Struct, out: &mut Vec<(String, u64)>) {
    use wkt::value::Kind;
    for (key, value) in &fields.fields {
        let key = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match &value.kind {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked"
            )]
            Some(Kind::NumberValue(number)) if *number >= 0.0 => out.push((key, *number as u64)),
            Some(Kind::StringValue(text)) => {
                out.extend(text.parse().ok().map(|number| (key, number)))
            }
            Some(Kind::StructValue(inner)) => numbers(&key, inner, out),
            _ => {}
        }
    }
}

/// The limits of listeners, `envoy.resource_limits.listener.NAME.connection_limit`.
fn listener_limits(runtime: &[(String, u64)]) -> Vec<(Str, u64)> {
    let named = runtime.iter().filter_map(|(key, limit)| {
        let name = key
            .strip_prefix("envoy.resource_limits.listener.")?
            .strip_suffix(".connection_limit")?;
        Some((Str::from(name), *limit))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limits_come_from_the_runtime_and_the_overload_manager() {
        let yaml = serde_json::json!({
            "layered_runtime": { "layers": [
                { "name": "a", "static_layer": {
                    "overload": { "global_downstream_max_connections": 9 },
                    "envoy.resource_limits.listener.in.1.connection_limit": 3 } },
                { "name": "b", "static_layer": {
                    "overload.global_downstream_max_connections": "8",
                    "envoy": { "resource_limits": { "listener": { "out": { "connection_limit": 4 } } } } } }] },
            "overload_manager": { "resource_monitors": [{ "name": "connections", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": 100 } }] },
        });
        let boot = bootstrap(&meltemi_proto::json::parse(&yaml).unwrap()).unwrap();
        assert_eq!(boot.max_connections, Some(8));
        assert_eq!(
            boot.listener_limits,
            [("in.1".into(), 3), ("out".into(), 4)]
        );
        assert_eq!(boot.overload, None);
    }
}
