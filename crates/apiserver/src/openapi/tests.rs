use super::*;

fn parsed(registry: &Registry, group: &str, version: &str) -> Value {
    serde_json::from_slice(&document(registry, group, version).expect("served")).expect("JSON")
}

#[test]
fn the_index_lists_every_group_version_once() {
    let index = root(&Registry::builtin());
    let paths = index["paths"].as_object().expect("paths");
    assert!(
        paths.contains_key("api/v1")
            && paths.contains_key("apis/apps/v1")
            && paths.contains_key("apis/rbac.authorization.k8s.io/v1")
    );
    assert!(
        paths["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .expect("url")
            .starts_with("/openapi/v3/apis/apps/v1?hash=")
    );
}

#[test]
fn a_version_that_is_not_served_has_no_document() {
    assert!(document(&Registry::builtin(), "apps", "v1beta1").is_none());
}

#[test]
fn patches_name_their_types_and_field_validation() {
    let core = parsed(&Registry::builtin(), "", "v1");
    let patch = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "Pod"})
    );
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    assert!(
        patch["parameters"]
            .as_array()
            .expect("list")
            .iter()
            .any(|p| p["name"] == "fieldValidation")
    );
}

#[test]
fn containers_carry_their_merge_key() {
    let apps = parsed(&Registry::builtin(), "apps", "v1");
    let containers =
        &apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let deployment = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    assert!(apps["components"]["schemas"]["io.k8s.api.autoscaling.v1.Scale"].is_object());
}

#[test]
fn every_reference_leads_somewhere() {
    let registry = Registry::builtin();
    for (group, versions) in registry
        .groups()
        .into_iter()
        .chain([(String::new(), vec!["v1".to_owned()])])
    {
        for version in versions {
            let document = parsed(&registry, &group, &version);
            let mut references = Vec::new();
            collect(&document, &mut references);
            for name in references {
                assert!(
                    document["components"]["schemas"][&name].is_object(),
                    "{group}/{version}: {name}"
                );
            }
        }
    }
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                into.push(reference.rsplit('/').next().unwrap_or_default().to_owned());
            }
            map.values().for_each(|v| collect(v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, into)),
        _ => {}
    }
}

/// A schema's type without what the two OpenAPI versions write differently.
fn shape(schema: &Value) -> Value {
    let single = schema["allOf"]
        .as_array()
        .filter(|a| a.len() == 1)
        .map(|a| &a[0]);
    if let Some(reference) = schema["$ref"]
        .as_str()
        .or_else(|| single.and_then(|s| s["$ref"].as_str()))
    {
        return json!(reference.rsplit('/').next());
    }
    let mut out = json!({"type": schema["type"], "format": schema["format"]});
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            out[key] = shape(&schema[key]);
        }
    }
    for key in [
        "x-kubernetes-patch-merge-key",
        "x-kubernetes-patch-strategy",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ] {
        out[key] = schema[key].clone();
    }
    if schema["x-kubernetes-map-type"] == "atomic" {
        out["atomic"] = json!(true);
    }
    out
}

#[test]
fn every_type_equals_the_published_description() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/kubernetes/swagger.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("SKIPPED: {path} is not there");
        return;
    };
    let swagger: Value = serde_json::from_str(&text).expect("JSON");
    let registry = Registry::builtin();
    let (mut compared, mut different) = (std::collections::HashSet::new(), Vec::new());
    for (group, versions) in registry
        .groups()
        .into_iter()
        .chain([(String::new(), vec!["v1".to_owned()])])
    {
        for version in versions {
            let document = parsed(&registry, &group, &version);
            for (name, schema) in document["components"]["schemas"]
                .as_object()
                .expect("schemas")
            {
                let Some(theirs) = swagger["definitions"]
                    .get(name)
                    .filter(|_| compared.insert(name.clone()))
                else {
                    continue;
                };
                let empty = Map::new();
                let ours = schema["properties"].as_object().unwrap_or(&empty);
                let properties = theirs["properties"].as_object().unwrap_or(&empty);
                for key in ours.keys().chain(properties.keys()) {
                    let (a, b) = (ours.get(key).map(shape), properties.get(key).map(shape));
                    if a != b {
                        different.push(format!("{name}.{key}: ours {a:?}, published {b:?}"));
                    }
                }
            }
        }
    }
    println!("{} types compared", compared.len());
    assert!(compared.len() > 300, "{}", compared.len());
    assert!(
        different.is_empty(),
        "{} differences:\n{}",
        different.len(),
        different.join("\n")
    );
}
