//! Clusters and their endpoints.

use std::sync::Arc;

use meltemi_proto::envoy::config::cluster::v3::Cluster as ClusterMessage;
use meltemi_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use meltemi_traffic::cluster::{Cluster, ClusterKind, Transport};
use meltemi_traffic::discovery::Source;
use meltemi_upstream::tls::secret_references;
use meltemi_xds::ResourceType;
use meltemi_xds::client::Update;

use super::hub::{Collection, Hub, compile};
use super::wishes::{Need, Owner};
use crate::admin::DumpKind;
use crate::engine::{Change, apply};
use crate::listener::ApplyError;

/// Endpoints and secrets of a cluster.
pub(super) fn needs(cluster: &Cluster) -> Vec<Need> {
    let mut needs = Vec::new();
    if let ClusterKind::Eds(reference) = &cluster.kind {
        needs.push((ResourceType::Endpoint, reference.clone()));
    }
    let sockets = cluster
        .transport
        .matches
        .iter()
        .map(|entry| &entry.transport);
    for socket in sockets.chain([&cluster.transport.default]) {
        if let Transport::Tls(tls) = socket {
            let secrets = secret_references(&tls.common).into_iter();
            needs.extend(secrets.map(|reference| (ResourceType::Secret, reference)));
        }
    }
    needs
}

impl Hub {
    /// Takes a cluster; it serves once its secrets and endpoints are there.
    pub(super) fn add_cluster(&mut self, cluster: Arc<Cluster>) -> Result<(), ApplyError> {
        super::secrets::check_cluster_tls(&cluster)?;
        let owner = Owner(ResourceType::Cluster, cluster.name.clone());
        self.need_more(owner, needs(&cluster));
        self.waiting_clusters.insert(cluster.name.clone(), cluster);
        Ok(())
    }

    pub(super) fn cluster_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let is_fixed = |hub: &Self, name: &meltemi_traffic::Str| {
            hub.fixed
                .contains(&Owner(ResourceType::Cluster, name.clone()))
        };
        for received in self.changed(DumpKind::Cluster, &update.resources) {
            if is_fixed(self, &received.name) {
                continue;
            }
            let compiled = compile::<ClusterMessage, _>(received, meltemi_compile::cluster);
            let added = compiled
                .and_then(|cluster| self.add_cluster(cluster).map_err(|error| error.to_string()));
            match added {
                Ok(()) => {
                    self.dump
                        .set(DumpKind::Cluster, &received.name, &received.body, false);
                }
                Err(error) => errors.push(error),
            }
        }
        let removed: Vec<_> = update
            .removed
            .iter()
            .filter(|name| !is_fixed(self, name))
            .cloned()
            .collect();
        for name in &removed {
            self.waiting_clusters.remove(name);
            self.dump.remove(DumpKind::Cluster, name);
        }
        let change = Change {
            removed_clusters: removed.clone(),
            ..Change::default()
        };
        errors.extend(apply(&self.shared, change).iter().map(ToString::to_string));
        for name in removed {
            self.need(Owner(ResourceType::Cluster, name), Vec::new());
        }
        let wanted = self.wishes.wanted(source, &ResourceType::Cluster);
        if wanted.is_some_and(|wanted| wanted.all) {
            self.clusters = Collection::Seen;
        }
        errors
    }

    pub(super) fn endpoint_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let mut assignments = Vec::new();
        for received in &update.resources {
            let Some(key) = self
                .wishes
                .key(source, &ResourceType::Endpoint, &received.name)
            else {
                continue;
            };
            match compile::<ClusterLoadAssignment, _>(received, meltemi_compile::assignment) {
                Ok(assignment) => {
                    self.dump
                        .set(DumpKind::Endpoint, &key, &received.body, false);
                    assignments.push((key, assignment));
                }
                Err(error) => errors.push(error),
            }
        }
        self.shared.clusters.set_assignments(&assignments);
        for name in &update.removed {
            if let Some(key) = self.wishes.key(source, &ResourceType::Endpoint, name) {
                self.dump.remove(DumpKind::Endpoint, &key);
                self.shared.clusters.remove_assignment(&key);
            }
        }
        errors
    }
}
