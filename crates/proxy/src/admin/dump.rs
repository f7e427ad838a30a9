//! `/config_dump`: the resources as they were received, with their versions.

use std::collections::BTreeMap;

use bytes::Bytes;
use meltemi_traffic::Str;
use parking_lot::RwLock;
use serde_json::{Map, Value, json};

use crate::state::Shared;

/// Kinds of resources that are dumped, in the order of the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Clusters.
    Cluster,
    /// Listeners.
    Listener,
    /// Route configurations.
    Route,
    /// Endpoint assignments.
    Endpoint,
}

impl Kind {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::Endpoint => "envoy.config.endpoint.v3.ClusterLoadAssignment",
        }
    }
}

/// A resource as it was received.
#[derive(Debug, Clone)]
struct Entry {
    body: Bytes,
    version: Str,
    updated: Str,
    from_file: bool,
}

/// What was received.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    bootstrap: RwLock<Value>,
    entries: RwLock<BTreeMap<(Kind, Str), Entry>>,
}

impl Dump {
    /// Remembers the bootstrap.
    pub(crate) fn set_bootstrap(&self, bootstrap: Value) {
        *self.bootstrap.write() = bootstrap;
    }

    /// Remembers a resource; true when it differs from what was there.
    pub(crate) fn set(&self, kind: Kind, name: &Str, body: &Bytes, from_file: bool) -> bool {
        let mut entries = self.entries.write();
        let key = (kind, name.clone());
        if entries.get(&key).is_some_and(|entry| entry.body == *body) {
            return false;
        }
        let version = format!("{:016x}", meltemi_traffic::hash::xx64(body, 0)).into();
        let updated = jiff::Timestamp::now().to_string().into();
        entries.insert(
            key,
            Entry {
                body: body.clone(),
                version,
                updated,
                from_file,
            },
        );
        true
    }

    /// True when a resource is there with these bytes.
    pub(crate) fn has(&self, kind: Kind, name: &Str, body: &Bytes) -> bool {
        self.entries
            .read()
            .get(&(kind, name.clone()))
            .is_some_and(|entry| entry.body == *body)
    }

    /// Forgets a resource.
    pub(crate) fn remove(&self, kind: Kind, name: &Str) {
        self.entries.write().remove(&(kind, name.clone()));
    }

    /// The dump as JSON.
    pub(crate) fn render(&self, shared: &Shared, query: &str) -> Value {
        let endpoints = query.split('&').any(|pair| pair == "include_eds");
        let mut configs = vec![json!({
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": self.bootstrap.read().clone(),
        })];
        configs.push(self.section(
            Kind::Cluster,
            "ClustersConfigDump",
            "static_clusters",
            "dynamic_active_clusters",
            "cluster",
        ));
        if endpoints {
            let names = ("static_endpoint_configs", "dynamic_endpoint_configs");
            configs.push(self.section(
                Kind::Endpoint,
                "EndpointsConfigDump",
                names.0,
                names.1,
                "endpoint_config",
            ));
        }
        configs.push(self.listeners());
        let names = ("static_route_configs", "dynamic_route_configs");
        configs.push(self.section(
            Kind::Route,
            "RoutesConfigDump",
            names.0,
            names.1,
            "route_config",
        ));
        configs.push(secrets(shared));
        json!({ "configs": configs })
    }

    fn each(&self, kind: Kind, mut use_entry: impl FnMut(&Str, &Entry, Value)) {
        for ((have, name), entry) in self
            .entries
            .read()
            .iter()
            .filter(|((have, _), _)| *have == kind)
        {
            let mut message = meltemi_proto::json::from_wire(have.message(), &entry.body, true);
            if let Value::Object(fields) = &mut message {
                fields.insert(
                    "@type".to_owned(),
                    format!("type.googleapis.com/{}", have.message()).into(),
                );
            }
            use_entry(name, entry, message);
        }
    }

    fn section(&self, kind: Kind, dump: &str, of_file: &str, of_api: &str, field: &str) -> Value {
        let (mut from_file, mut from_api) = (Vec::new(), Vec::new());
        self.each(kind, |_, entry, message| {
            let mut fields = Map::new();
            fields.insert(field.to_owned(), message);
            fields.insert("last_updated".to_owned(), entry.updated.as_str().into());
            if entry.from_file {
                from_file.push(Value::Object(fields));
            } else {
                fields.insert("version_info".to_owned(), entry.version.as_str().into());
                from_api.push(Value::Object(fields));
            }
        });
        json!({"@type": format!("type.googleapis.com/envoy.admin.v3.{dump}"), of_file: from_file, of_api: from_api})
    }

    fn listeners(&self) -> Value {
        let (mut from_file, mut from_api) = (Vec::new(), Vec::new());
        self.each(Kind::Listener, |name, entry, message| {
            let updated = entry.updated.as_str();
            if entry.from_file {
                from_file.push(json!({"listener": message, "last_updated": updated}));
            } else {
                let state = json!({"version_info": entry.version.as_str(), "listener": message, "last_updated": updated});
                from_api.push(json!({"name": name.as_str(), "active_state": state}));
            }
        });
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "static_listeners": from_file,
            "dynamic_listeners": from_api,
        })
    }
}

/// Names only: keys never leave the process, and certificates are at `/certs`.
fn secrets(shared: &Shared) -> Value {
    let all: Vec<Value> = shared
        .secrets
        .all()
        .iter()
        .map(|secret| json!({"name": secret.name.as_str(), "secret": {"name": secret.name.as_str()}}))
        .collect();
    json!({"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": all})
}
