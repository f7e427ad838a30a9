//! From resources to configuration: compiles what arrives, holds listeners back until their routes are there, and
//! says which names are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use meltemi_proto::envoy::config::cluster::v3::Cluster as ClusterMessage;
use meltemi_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use meltemi_proto::envoy::config::listener::v3::Listener as ListenerMessage;
use meltemi_proto::envoy::config::route::v3::RouteConfiguration;
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Cluster, ClusterKind, Transport};
use meltemi_traffic::listener::Listener;
use meltemi_traffic::tls::{CertificatePair, DataSource, Secret, SecretKind, Validation};
use meltemi_upstream::tls::secret_names;
use meltemi_xds::ResourceType;
use meltemi_xds::client::{Received, Subscriber, Update};
use meltemi_xds::session::Names;
use prost::Message;

use super::identity::{OWN, ROOTS};
use crate::admin::{Dump, DumpKind};
use crate::engine::{Change, apply};
use crate::listener::ListenerRuntime;
use crate::state::Shared;

/// System trust anchors, where distributions put them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The subscriber of a mesh proxy.
#[derive(Debug)]
pub(super) struct Subscription {
    shared: Arc<Shared>,
    dump: Arc<Dump>,
    /// By cluster, the EDS name it needs.
    endpoint_names: BTreeMap<Str, Str>,
    /// By listener, the routes it needs.
    route_names: BTreeMap<Str, Vec<Str>>,
    /// By owner (`listener/…`, `cluster/…`), the secrets it needs from the control plane.
    secret_names: BTreeMap<String, Vec<Str>>,
    /// Listeners whose routes or secrets are not there yet.
    waiting: BTreeMap<Str, Arc<Listener>>,
    seen_clusters: bool,
    seen_listeners: bool,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, dump: Arc<Dump>) -> Self {
        Self {
            shared,
            dump,
            endpoint_names: BTreeMap::new(),
            route_names: BTreeMap::new(),
            secret_names: BTreeMap::new(),
            waiting: BTreeMap::new(),
            seen_clusters: false,
            seen_listeners: false,
        }
    }

    fn clusters(&mut self, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let mut change = Change {
            removed_clusters: update.removed.clone(),
            ..Change::default()
        };
        for name in &update.removed {
            self.endpoint_names.remove(name);
            self.secret_names.remove(&format!("cluster/{name}"));
            self.dump.remove(DumpKind::Cluster, name);
        }
        for received in self.changed(DumpKind::Cluster, &update.resources) {
            match compile::<ClusterMessage, _>(received, meltemi_compile::cluster) {
                Ok(cluster) => {
                    self.wish_for_cluster(&cluster);
                    self.dump
                        .set(DumpKind::Cluster, &received.name, &received.body, false);
                    change.clusters.push(cluster);
                }
                Err(error) => errors.push(error),
            }
        }
        errors.extend(apply(&self.shared, change).iter().map(ToString::to_string));
        self.seen_clusters = true;
        let updates = &self.shared.updates;
        let counter = if errors.is_empty() {
            &updates.clusters
        } else {
            &updates.clusters_rejected
        };
        counter.fetch_add(1, Ordering::Relaxed);
        errors
    }

    fn wish_for_cluster(&mut self, cluster: &Cluster) {
        match &cluster.kind {
            ClusterKind::Eds(name) => self
                .endpoint_names
                .insert(cluster.name.clone(), name.clone()),
            _ => self.endpoint_names.remove(&cluster.name),
        };
        let sockets = cluster
            .transport
            .matches
            .iter()
            .map(|entry| &entry.transport);
        let all = sockets.chain([&cluster.transport.default]);
        let names = all.filter_map(|socket| match socket {
            Transport::Tls(tls) => Some(secret_names(&tls.common)),
            Transport::Raw | Transport::ProxyProtocol(..) => None,
        });
        let names: Vec<Str> = names.flatten().collect();
        self.wish_for_secrets(format!("cluster/{}", cluster.name), names);
    }

    /// Files are read here; the workload's own secrets come from the CSR client; the rest is asked for.
    fn wish_for_secrets(&mut self, owner: String, names: Vec<Str>) {
        let mut wanted = Vec::new();
        for name in names {
            match local_secret(&name) {
                Some(secret) if self.shared.secrets.get(&name).is_none() => {
                    self.shared.secrets.set(Arc::new(secret))
                }
                Some(_) => {}
                None if name == OWN || name == ROOTS => {}
                None => wanted.push(name),
            }
        }
        if wanted.is_empty() {
            self.secret_names.remove(&owner);
        } else {
            self.secret_names.insert(owner, wanted);
        }
    }

    fn endpoints(&mut self, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let mut change = Change::default();
        for received in &update.resources {
            match compile::<ClusterLoadAssignment, _>(received, meltemi_compile::assignment) {
                Ok(assignment) => {
                    self.dump
                        .set(DumpKind::Endpoint, &received.name, &received.body, false);
                    change.assignments.push(assignment);
                }
                Err(error) => errors.push(error),
            }
        }
        for name in &update.removed {
            self.dump.remove(DumpKind::Endpoint, name);
            self.shared.clusters.remove_assignment(name);
        }
        apply(&self.shared, change);
        errors
    }

    fn listeners(&mut self, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        for name in &update.removed {
            self.route_names.remove(name);
            self.waiting.remove(name);
            self.secret_names.remove(&format!("listener/{name}"));
            self.dump.remove(DumpKind::Listener, name);
        }
        let removed = Change {
            removed_listeners: update.removed.clone(),
            ..Change::default()
        };
        apply(&self.shared, removed);
        for received in self.changed(DumpKind::Listener, &update.resources) {
            match compile::<ListenerMessage, _>(received, meltemi_compile::listener) {
                Ok(listener) => {
                    self.route_names.insert(
                        listener.name.clone(),
                        ListenerRuntime::route_names(&listener),
                    );
                    let chains = listener.chains.iter().chain(&listener.default_chain);
                    let tls = chains.filter_map(|chain| chain.tls.as_ref());
                    let names = tls.flat_map(|tls| secret_names(&tls.common)).collect();
                    self.wish_for_secrets(format!("listener/{}", listener.name), names);
                    self.dump
                        .set(DumpKind::Listener, &received.name, &received.body, false);
                    self.waiting.insert(listener.name.clone(), listener);
                }
                Err(error) => errors.push(error),
            }
        }
        self.seen_listeners = true;
        errors.extend(self.start_complete());
        let updates = &self.shared.updates;
        let counter = if errors.is_empty() {
            &updates.listeners
        } else {
            &updates.listeners_rejected
        };
        counter.fetch_add(1, Ordering::Relaxed);
        errors
    }

    fn routes(&mut self, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let mut change = Change {
            removed_routes: update.removed.clone(),
            ..Change::default()
        };
        for name in &update.removed {
            self.dump.remove(DumpKind::Route, name);
        }
        for received in self.changed(DumpKind::Route, &update.resources) {
            match compile::<RouteConfiguration, _>(received, meltemi_compile::route_table) {
                Ok(table) => {
                    self.dump
                        .set(DumpKind::Route, &received.name, &received.body, false);
                    change.routes.push(table);
                }
                Err(error) => errors.push(error),
            }
        }
        errors.extend(apply(&self.shared, change).iter().map(ToString::to_string));
        errors.extend(self.start_complete());
        errors
    }

    fn secrets(&mut self, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let mut change = Change::default();
        for received in &update.resources {
            match compile::<SecretMessage, _>(received, meltemi_compile::secret) {
                Ok(secret) => change.secrets.push(secret),
                Err(error) => errors.push(error),
            }
        }
        apply(&self.shared, change);
        errors.extend(self.start_complete());
        errors
    }

    /// Starts listeners whose routes and secrets are all there.
    fn start_complete(&mut self) -> Vec<String> {
        let complete = |name: &Str| {
            let routes = self.route_names.get(name).into_iter().flatten();
            let secrets = self
                .secret_names
                .get(&format!("listener/{name}"))
                .into_iter()
                .flatten();
            routes
                .into_iter()
                .all(|route| self.shared.routes.get(route).is_some())
                && secrets
                    .into_iter()
                    .all(|secret| self.shared.secrets.get(secret).is_some())
        };
        let ready: Vec<Str> = self
            .waiting
            .keys()
            .filter(|name| complete(name))
            .cloned()
            .collect();
        let listeners: Vec<Arc<Listener>> = ready
            .iter()
            .filter_map(|name| self.waiting.remove(name))
            .collect();
        let errors = apply(
            &self.shared,
            Change {
                listeners,
                ..Change::default()
            },
        );
        // A listener whose secret never comes must not keep the others' traffic away: only routes count here.
        let routes_there = |name: &Str| {
            let routes = self.route_names.get(name).into_iter().flatten();
            routes
                .into_iter()
                .all(|route| self.shared.routes.get(route).is_some())
        };
        let complete =
            self.seen_clusters && self.seen_listeners && self.waiting.keys().all(routes_there);
        if complete && !self.shared.live.swap(true, Ordering::AcqRel) {
            tracing::info!("proxy is live");
        }
        errors.into_iter().map(|error| error.to_string()).collect()
    }

    /// What differs from what is in use: an identical resource must change nothing.
    fn changed<'r>(&self, kind: DumpKind, received: &'r [Received]) -> Vec<&'r Received> {
        received
            .iter()
            .filter(|resource| !self.dump.has(kind, &resource.name, &resource.body))
            .collect()
    }
}

impl Subscriber for Subscription {
    fn initial(&self) -> Vec<ResourceType> {
        vec![
            ResourceType::Cluster,
            ResourceType::Endpoint,
            ResourceType::Listener,
            ResourceType::Route,
            ResourceType::Secret,
        ]
    }

    fn wanted(&self, kind: &ResourceType) -> Names {
        let set: BTreeSet<Str> = match kind {
            ResourceType::Endpoint => self.endpoint_names.values().cloned().collect(),
            ResourceType::Route => self.route_names.values().flatten().cloned().collect(),
            ResourceType::Secret => self.secret_names.values().flatten().cloned().collect(),
            _ => return Names::All,
        };
        Names::Some(set)
    }

    fn apply(&mut self, kind: &ResourceType, update: Update) -> Result<(), String> {
        let errors = match kind {
            ResourceType::Cluster => self.clusters(&update),
            ResourceType::Endpoint => self.endpoints(&update),
            ResourceType::Listener => self.listeners(&update),
            ResourceType::Route => self.routes(&update),
            ResourceType::Secret => self.secrets(&update),
            other => vec![format!("{other} was not asked for")],
        };
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("; "))
        }
    }

    fn connected(&mut self, up: bool) {
        tracing::info!(up, "connection to the control plane");
    }
}

/// Decodes and compiles one resource; the error names it.
fn compile<M: Message + Default, T>(
    received: &Received,
    make: impl Fn(&M) -> Result<T, meltemi_compile::Refusal>,
) -> Result<T, String> {
    let message = M::decode(Bytes::clone(&received.body))
        .map_err(|error| format!("{}: {error}", received.name))?;
    make(&message).map_err(|refusal| format!("{}: {refusal}", received.name))
}

/// Secrets whose name says which files they are.
fn local_secret(name: &Str) -> Option<Secret> {
    let kind = if let Some(files) = name.strip_prefix("file-cert:") {
        let (chain, key) = files.split_once('~')?;
        let file = |path: &str| DataSource::File(path.into());
        SecretKind::Certificate(CertificatePair {
            chain: file(chain),
            key: file(key),
        })
    } else {
        let path = match name.strip_prefix("file-root:")? {
            "system" => SYSTEM_ROOTS,
            path => path,
        };
        let anchors = Some(DataSource::File(path.into()));
        SecretKind::Validation(Box::new(Validation {
            trusted_ca: anchors,
            ..Validation::default()
        }))
    };
    Some(Secret {
        name: name.clone(),
        kind,
    })
}

#[cfg(test)]
mod tests;
