//! OpenAPI v3 documents: the index and one document per group version.
//!
//! Documents are built on every call and not kept: clients cache them by the hash in their address.

mod paths;
mod schemas;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::kinds::{Registry, Resource};

const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.36.0";

/// `GET /openapi/v3`: every group version with its hashed address.
#[must_use]
pub fn root(registry: &Registry) -> Value {
    let mut versions = vec![(String::new(), "v1".to_owned())];
    for (group, names) in registry.groups() {
        versions.extend(names.into_iter().map(|v| (group.clone(), v)));
    }
    let mut paths = Map::new();
    for (group, version) in versions {
        let path = if group.is_empty() {
            format!("api/{version}")
        } else {
            format!("apis/{group}/{version}")
        };
        let url = format!(
            "/openapi/v3/{path}?hash={}",
            hash(registry, &group, &version)
        );
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn in_version<'a>(
    registry: &'a Registry,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Resource> {
    registry
        .iter()
        .map(AsRef::as_ref)
        .filter(move |r| r.group == group && r.version == version)
}

/// Changes when the document does: with the program, and with the CRDs of the group.
fn hash(registry: &Registry, group: &str, version: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    for resource in in_version(registry, group, version) {
        hash.update(resource.plural.as_bytes());
        hash.update([0, u8::from(resource.namespaced)]);
        for subresource in &resource.subresources {
            hash.update(subresource.name.as_bytes());
        }
        if let Some(custom) = &resource.custom {
            hash.update(custom.digest);
        }
    }
    hash.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// `GET /openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`: `None` where the version is not served.
#[must_use]
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Vec<u8>> {
    let resources: Vec<&Resource> = in_version(registry, group, version).collect();
    if resources.is_empty() {
        return None;
    }
    let mut components = schemas::builtin(&resources);
    let mut paths = Map::new();
    for resource in &resources {
        let name = if resource.custom.is_some() {
            schemas::add_custom(resource, &mut components)
        } else {
            schemas::name_of(&resource.group, &resource.version, &resource.kind)
        };
        if let Some(name) = name {
            paths::add(resource, &name, &mut paths);
        }
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "components": {"schemas": components,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}}},
    });
    serde_json::to_vec(&document).ok()
}

/// The media type in which clients ask for OpenAPI v2.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `GET /openapi/v2` in protobuf: a document that describes nothing, encoded by hand.
///
/// Clients fetch it only where v3 has no document for a group, that is for kinds that are not served. Finding nothing
/// there either, they say so; without the document they would complain about a missing path.
#[must_use]
pub fn v2() -> Vec<u8> {
    fn text(field: u8, text: &str, out: &mut Vec<u8>) {
        bytes(field, text.as_bytes(), out);
    }
    /// A length-delimited field; everything here is shorter than 128 bytes.
    fn bytes(field: u8, value: &[u8], out: &mut Vec<u8>) {
        out.extend([field << 3 | 2, value.len() as u8]);
        out.extend(value);
    }
    let mut info = Vec::new();
    text(1, TITLE, &mut info);
    text(2, VERSION, &mut info);
    let mut document = Vec::new();
    text(1, "2.0", &mut document);
    bytes(2, &info, &mut document);
    bytes(8, &[], &mut document);
    document
}

/// The same as JSON.
#[must_use]
pub fn v2_json() -> Value {
    json!({"swagger": "2.0", "info": {"title": TITLE, "version": VERSION}, "paths": {}, "definitions": {}})
}

#[cfg(test)]
mod tests;
