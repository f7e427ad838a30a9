//! From a state of the world to encoded resources: the translation, remembered and shared between proxies.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use meltemi_names::ArcStr;
use meltemi_translate::{Generator, ProxyView, Resource as Translated, ResourceKind, Wanted};
use meltemi_xds::{Resource, ResourceType, session::Names};
use parking_lot::Mutex;
use prost::Message;

use crate::world::State;

/// Everything that was generated and is still in use.
#[derive(Default)]
pub(crate) struct Generated {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    generator: Generator,
    /// Number of the state that the memory belongs to.
    number: u64,
    /// Resources as they are sent, by what they were made from.
    sent: HashMap<(ResourceKind, ArcStr, ArcStr), Weak<Resource>>,
}

impl Generated {
    /// The resources of a type for a proxy.
    pub(crate) fn resources(
        &self,
        state: &State,
        proxy: &ProxyView,
        kind: &ResourceType,
        names: &Names,
    ) -> Vec<Arc<Resource>> {
        let Some(kind) = ResourceKind::of_type_url(kind.url()) else {
            return Vec::new();
        };
        let mut inner = self.inner.lock();
        if state.number > inner.number {
            inner.number = state.number;
            inner.generator.forget_unused();
            inner.sent.retain(|_, resource| resource.strong_count() > 0);
        }
        let list: Vec<ArcStr>;
        let wanted = match names {
            Names::All => Wanted::All,
            Names::Some(names) => {
                list = names.iter().cloned().collect();
                Wanted::Named(&list)
            }
        };
        let translated = inner
            .generator
            .generate(&state.snapshot, proxy, kind, wanted);
        translated
            .into_iter()
            .map(|resource| inner.sendable(kind, &resource))
            .collect()
    }
}

impl Inner {
    fn sendable(&mut self, kind: ResourceKind, translated: &Translated) -> Arc<Resource> {
        let key = (kind, translated.name.clone(), translated.version.clone());
        if let Some(resource) = self.sent.get(&key).and_then(Weak::upgrade) {
            return resource;
        }
        let waits_for = (kind == ResourceKind::Cluster)
            .then(|| endpoints_of(&translated.body.value))
            .flatten();
        let resource = Resource::new(
            translated.name.clone(),
            translated.body.value.clone(),
            waits_for,
        );
        self.sent.insert(key, Arc::downgrade(&resource));
        resource
    }
}

/// The endpoint resource that an EDS cluster waits for.
fn endpoints_of(cluster: &[u8]) -> Option<ArcStr> {
    let cluster = Cluster::decode(cluster).ok()?;
    if cluster.cluster_discovery_type != Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
    {
        return None;
    }
    let service = cluster
        .eds_cluster_config
        .map(|eds| eds.service_name)
        .unwrap_or_default();
    Some(ArcStr::from(if service.is_empty() {
        cluster.name
    } else {
        service
    }))
}
