//! The schemas of a document: built-in types in Kubernetes' form, and those of CRDs.

use serde_json::{Map, Value, json};

use crate::kinds::Resource;
use crate::types::{Facts, Types, roots};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The name of a built-in kind's definition.
pub(super) fn name_of(group: &str, version: &str, kind: &str) -> Option<String> {
    let types = Types::get();
    types
        .root(group, version, kind)
        .map(|id| types.def(id).name.to_string())
}

/// Every schema that the built-in ones among the resources need, with their lists, and the common ones.
pub(super) fn builtin(resources: &[&Resource]) -> Map<String, Value> {
    let wanted = |group: &str, version: &str, kind: &str| {
        resources.iter().filter(|r| r.custom.is_none()).any(|r| {
            let own = r.group == group && r.version == version && r.kind == kind;
            own || r.subresources.iter().any(|s| {
                let at = s.group_version.as_ref();
                s.kind == kind && at.is_some_and(|(g, v)| g == group && v == version)
            })
        })
    };
    let (roots, mut definitions) = roots::generate(wanted);
    let scaled = resources
        .iter()
        .any(|r| r.custom.is_some() && r.subresource("scale").is_some());
    if scaled {
        definitions
            .extend(roots::generate(|g, v, k| g == "autoscaling" && v == "v1" && k == "Scale").1);
    }
    definitions.extend(roots::meta_definitions());
    let facts = Facts::parse();
    for (name, schema) in &mut definitions {
        finish(name, schema, &facts);
    }
    for root in &roots {
        let gvk = json!([{"group": root.group, "version": root.version, "kind": root.kind}]);
        if let Some(schema) = definitions.get_mut(&root.definition) {
            schema["x-kubernetes-group-version-kind"] = gvk;
        }
    }
    for resource in resources
        .iter()
        .filter(|r| r.custom.is_none() && r.is_stored())
    {
        if let Some(name) = name_of(&resource.group, &resource.version, &resource.kind) {
            definitions.insert(format!("{name}List"), list(resource, &name));
        }
    }
    if let Some(status) = definitions.get_mut(&format!("{META}.Status")) {
        status["x-kubernetes-group-version-kind"] =
            json!([{"group": "", "version": "v1", "kind": "Status"}]);
    }
    definitions
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{name}")})
}

/// The schema of a list of a kind.
fn list(resource: &Resource, item: &str) -> Value {
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "items": {"type": "array", "description": format!("List of {}.", resource.plural), "items": {"allOf": [reference(item)]}},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"description": "Standard list metadata.", "allOf": [reference(&format!("{META}.ListMeta"))]},
        },
        "x-kubernetes-group-version-kind": [{"group": resource.group, "version": resource.version, "kind": resource.list_kind}],
    })
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values.";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase.";

/// Brings a generated definition into Kubernetes' form.
fn finish(name: &str, schema: &mut Value, facts: &Facts) {
    if name.ends_with(".resource.Quantity") {
        *schema = json!({"description": schema["description"], "oneOf": [{"type": "string"}, {"type": "number"}]});
        return;
    }
    if name.ends_with(".intstr.IntOrString") {
        *schema = json!({"description": schema["description"], "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]});
        return;
    }
    // Types that Kubernetes leaves open.
    if [
        ".JSON",
        ".JSONSchemaPropsOrBool",
        ".JSONSchemaPropsOrArray",
        ".JSONSchemaPropsOrStringArray",
    ]
    .iter()
    .any(|n| name.ends_with(n))
    {
        *schema = json!({"description": schema["description"]});
        return;
    }
    if facts.atomic_map(name, "") {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (field, property) in properties {
        finish_property(name, field, property, facts);
    }
}

fn finish_property(def: &str, field: &str, property: &mut Value, facts: &Facts) {
    wrap_references(property);
    if facts.atomic_map(def, field) {
        property["x-kubernetes-map-type"] = json!("atomic");
    }
    let fact = facts.list(def, field);
    if property["type"] == "array" {
        let kind = fact.and_then(|f| f.list).unwrap_or("atomic");
        property["x-kubernetes-list-type"] = json!(kind);
    }
    let Some(fact) = fact else { return };
    if !fact.keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = json!(fact.keys);
    }
    if let Some(key) = fact.merge_key {
        property["x-kubernetes-patch-merge-key"] = json!(key);
    }
    if let Some(strategy) = fact.strategy {
        property["x-kubernetes-patch-strategy"] = json!(strategy);
    }
}

/// `$ref` has no siblings in OpenAPI 3.0: a described reference becomes `allOf` of one.
fn wrap_references(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    if map.len() > 1
        && let Some(reference) = map.shift_remove("$ref")
    {
        map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            wrap_references(inner);
        }
    }
}

/// Adds a CRD's version and its list; returns the name of the definition.
pub(super) fn add_custom(
    resource: &Resource,
    components: &mut Map<String, Value>,
) -> Option<String> {
    let mut schema = resource.custom.as_ref()?.json_schema()?;
    let mut reversed: Vec<&str> = resource.group.split('.').collect();
    reversed.reverse();
    let name = format!(
        "{}.{}.{}",
        reversed.join("."),
        resource.version,
        resource.kind
    );
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    properties["metadata"] = json!({"description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [reference(&format!("{META}.ObjectMeta"))]});
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
    components.insert(format!("{name}List"), list(resource, &name));
    components.insert(name.clone(), schema);
    Some(name)
}
