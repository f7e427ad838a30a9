//! `/config_dump`: the resources as they were received, with their versions.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use meltemi_traffic::Str;
use parking_lot::RwLock;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{Answer, decoded, parameter};
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

    /// True when a resource is part of the bootstrap.
    pub(super) fn is_from_file(&self, kind: Kind, name: &Str) -> bool {
        let entries = self.entries.read();
        let entry = entries.get(&(kind, name.clone()));
        entry.is_some_and(|entry| entry.from_file)
    }

    /// Forgets a resource.
    pub(crate) fn remove(&self, kind: Kind, name: &Str) {
        self.entries.write().remove(&(kind, name.clone()));
    }

    /// `/config_dump` with its parameters.
    pub(super) fn answer(&self, shared: &Shared, query: &str) -> Answer {
        let mut all = self.render(shared, query);
        if let Some(pattern) = decoded(query, "name_regex").filter(|pattern| !pattern.is_empty()) {
            let Ok(pattern) = Regex::new(&format!("^(?:{pattern})$")) else {
                return Answer::text(
                    StatusCode::BAD_REQUEST,
                    format!("Error while parsing name_regex from {pattern}"),
                );
            };
            keep_named(&mut all, &pattern);
        }
        let mask = decoded(query, "mask").filter(|mask| !mask.is_empty());
        if let Some(resource) = parameter(query, "resource").filter(|name| !name.is_empty()) {
            let found = all["configs"].as_array_mut().into_iter().flatten();
            let found = found.filter_map(|config| config.get_mut(resource)).next();
            let Some(Value::Array(elements)) = found else {
                return Answer::text(
                    StatusCode::NOT_FOUND,
                    format!("{resource} not found in config dump"),
                );
            };
            let mut elements = std::mem::take(elements);
            if let Some(mask) = &mask {
                for element in &mut elements {
                    apply_mask(element, mask);
                }
            }
            return Answer::json(json!({ "configs": elements }));
        }
        if let Some(mask) = mask {
            let configs = all["configs"].as_array_mut().map(std::mem::take);
            let mut kept = configs.unwrap_or_default();
            kept.retain_mut(|config| apply_mask(config, &mask));
            if kept.is_empty() {
                let text =
                    format!("FieldMask {mask} could not be successfully applied to any configs.");
                return Answer::text(StatusCode::BAD_REQUEST, text);
            }
            all["configs"] = kept.into();
        }
        Answer::json(all)
    }

    /// The dump as JSON.
    fn render(&self, shared: &Shared, query: &str) -> Value {
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

/// Leaves the resources whose names match in every list of every section.
fn keep_named(all: &mut Value, pattern: &Regex) {
    let sections = all["configs"].as_array_mut().into_iter().flatten();
    for section in sections {
        for list in section
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut)
        {
            if let Value::Array(elements) = list {
                elements
                    .retain(|element| name_of(element).is_some_and(|name| pattern.is_match(name)));
            }
        }
    }
}

/// The name of a dumped resource: its own, or that of the message inside.
fn name_of(element: &Value) -> Option<&str> {
    let own = |value: &Value| value.get("name").is_some();
    if own(element) {
        return element["name"].as_str();
    }
    let inner = element.as_object()?.values();
    let inner = inner.filter(|value| value.is_object()).find_map(|value| {
        value
            .get("name")
            .or_else(|| value.get("cluster_name"))
            .or_else(|| value.pointer("/listener/name"))
    });
    inner?.as_str()
}

/// Leaves the fields that a field mask names (`a.b,c`); false when none of them is there.
fn apply_mask(value: &mut Value, mask: &str) -> bool {
    let mut out = Map::new();
    if let Some(kind) = value.get("@type") {
        out.insert("@type".to_owned(), kind.clone());
    }
    let before = out.len();
    for path in mask.split(',') {
        let keys: Vec<&str> = path.split('.').collect();
        copy_path(value, &keys, &mut out);
    }
    let found = out.len() > before;
    *value = Value::Object(out);
    found
}

fn copy_path(from: &Value, path: &[&str], to: &mut Map<String, Value>) {
    let [key, rest @ ..] = path else { return };
    let Some(found) = from.get(key) else { return };
    if rest.is_empty() {
        to.insert((*key).to_owned(), found.clone());
        return;
    }
    let slot = to
        .entry((*key).to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = slot {
        copy_path(found, rest, inner);
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
