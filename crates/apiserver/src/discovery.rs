//! Discovery documents: `/api`, `/apis`, resource lists, and the aggregated form.

use serde_json::{Value, json};

use crate::kinds::{Registry, Resource, Subresource, api_version};

/// The media type of aggregated discovery.
pub const AGGREGATED_V2: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `GET /api`
#[must_use]
pub fn api_versions(server_address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

/// `GET /apis`
#[must_use]
pub fn api_groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry.groups().iter().map(|(g, v)| group(g, v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`
#[must_use]
pub fn api_group(registry: &Registry, name: &str) -> Option<Value> {
    let groups = registry.groups();
    let (name, versions) = groups.iter().find(|(g, _)| g == name)?;
    let mut out = json!({"kind": "APIGroup", "apiVersion": "v1"});
    merge(&mut out, group(name, versions));
    Some(out)
}

fn group(name: &str, versions: &[String]) -> Value {
    let list: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": api_version(name, v), "version": v}))
        .collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

/// `GET /api/v1` and `GET /apis/{group}/{version}`; `None` where the version is not served.
#[must_use]
pub fn api_resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in in_version(registry, group, version) {
        resources.push(api_resource(resource));
        resources.extend(
            resource
                .subresources
                .iter()
                .map(|s| api_subresource(resource, s)),
        );
    }
    if resources.is_empty() {
        return None;
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": api_version(group, version), "resources": resources}))
}

fn in_version<'a>(
    registry: &'a Registry,
    group: &str,
    version: &str,
) -> impl Iterator<Item = &'a Resource> {
    let (group, version) = (group.to_owned(), version.to_owned());
    registry
        .iter()
        .map(AsRef::as_ref)
        .filter(move |r| r.group == group.as_str() && r.version == version.as_str())
}

fn api_resource(r: &Resource) -> Value {
    let mut out = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced,
        "kind": r.kind, "verbs": r.verbs});
    if !r.short_names.is_empty() {
        out["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        out["categories"] = json!(r.categories);
    }
    if r.is_stored() {
        out["storageVersionHash"] = json!(storage_hash(r));
    }
    out
}

fn api_subresource(r: &Resource, s: &Subresource) -> Value {
    let mut out = json!({"name": format!("{}/{}", r.plural, s.name), "singularName": "",
        "namespaced": r.namespaced, "kind": s.kind, "verbs": s.verbs});
    if let Some((group, version)) = &s.group_version {
        out["group"] = json!(group);
        out["version"] = json!(version);
    }
    out
}

/// A short stable hash of group, version and kind; clients only compare it.
fn storage_hash(r: &Resource) -> String {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(format!("{}/{}/{}", r.group, r.version, r.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// Aggregated discovery of `/api` (`core`) or `/apis`.
#[must_use]
pub fn aggregated(registry: &Registry, core: bool) -> Value {
    let groups = if core {
        vec![(String::new(), vec!["v1".to_owned()])]
    } else {
        registry.groups()
    };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| aggregated_version(registry, group, v))
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_version(registry: &Registry, group: &str, version: &str) -> Value {
    let resources: Vec<Value> = in_version(registry, group, version)
        .map(aggregated_resource)
        .collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(r: &Resource) -> Value {
    let mut out = json!({
        "resource": r.plural,
        "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    });
    if !r.short_names.is_empty() {
        out["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        out["categories"] = json!(r.categories);
    }
    let subresources: Vec<Value> = r
        .subresources
        .iter()
        .map(|s| {
            let (group, version) = s.group_version.as_ref().map_or((&r.group, &r.version), |(g, v)| (g, v));
            json!({"subresource": s.name, "responseKind": {"group": group, "version": version, "kind": s.kind}, "verbs": s.verbs})
        })
        .collect();
    if !subresources.is_empty() {
        out["subresources"] = Value::Array(subresources);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_list_names_pods_and_their_log() {
        let list = api_resources(&Registry::builtin(), "", "v1").expect("core is served");
        let names: Vec<&str> = list["resources"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        assert!(
            names.contains(&"pods")
                && names.contains(&"pods/log")
                && names.contains(&"serviceaccounts/token")
        );
    }

    #[test]
    fn a_version_that_is_not_served_has_no_list() {
        assert!(api_resources(&Registry::builtin(), "apps", "v1beta1").is_none());
    }

    #[test]
    fn aggregated_discovery_has_every_group_with_its_preferred_version_first() {
        let list = aggregated(&Registry::builtin(), false);
        let apps = &list["items"][0];
        assert_eq!(apps["metadata"]["name"], "apps");
        assert_eq!(
            apps["versions"][0]["resources"][1]["resource"],
            "daemonsets"
        );
        let core = aggregated(&Registry::builtin(), true);
        assert_eq!(core["items"][0]["versions"][0]["version"], "v1");
    }
}
