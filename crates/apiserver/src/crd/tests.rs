use super::*;
use std::path::PathBuf;

const NOW: &str = "2026-01-01T00:00:00Z";

fn widget() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.io"},
        "spec": {"group": "example.io", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}}}},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]}]}})
}

fn accepted(mut crd: Value) -> Value {
    default(&mut crd);
    assert_eq!(validate(&crd, None), []);
    assert!(accept(&mut crd, &Registry::builtin(), NOW));
    crd
}

fn upstream(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(folder);
    if path.exists() {
        return Some(path);
    }
    println!("SKIPPED: {} is not there", path.display());
    None
}

fn documents(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("readable");
    text.split("\n---")
        .filter(|d| !d.trim().is_empty())
        .filter_map(|d| serde_saphyr::from_str::<Value>(d).ok())
        .filter(Value::is_object)
        .collect()
}

#[test]
fn an_accepted_crd_is_established_and_serves_its_version() {
    let crd = accepted(widget());
    assert_eq!(crd["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["conditions"][1]["type"], "Established");
    let served = resources(&crd);
    assert_eq!(served.len(), 1);
    assert_eq!(
        (served[0].plural.as_ref(), served[0].singular.as_ref()),
        ("widgets", "widget")
    );
    assert!(served[0].has_status());
}

#[test]
fn a_crd_under_a_wrong_name_or_without_schema_is_refused() {
    let mut crd = widget();
    crd["metadata"]["name"] = json!("things.example.io");
    crd["spec"]["versions"][0]["schema"] = Value::Null;
    let texts: Vec<String> = validate(&crd, None)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        texts,
        [
            "metadata.name: Invalid value: \"things.example.io\": must be spec.names.plural+\".\"+spec.group",
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ]
    );
}

#[test]
fn a_kind_that_is_taken_is_not_accepted() {
    let other = accepted(widget());
    let registry = Registry::with_custom(resources(&other));
    let mut crd = widget();
    crd["metadata"]["name"] = json!("gadgets.example.io");
    crd["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget"});
    default(&mut crd);
    assert!(!accept(&mut crd, &registry, NOW));
    assert_eq!(crd["status"]["conditions"][0]["reason"], "KindConflict");
    assert!(resources(&crd).is_empty());
    let mut again = other;
    assert!(
        accept(&mut again, &registry, NOW),
        "a CRD does not conflict with itself"
    );
}

#[test]
fn equal_schemas_share_one_compiled_form() {
    let crd = accepted(widget());
    let (first, second) = (resources(&crd), resources(&crd));
    let schema = |r: &[Resource]| Arc::clone(&r[0].custom.as_ref().expect("custom").schema);
    assert!(Arc::ptr_eq(&schema(&first), &schema(&second)));
}

#[test]
fn a_custom_table_prints_its_columns() {
    let crd = accepted(widget());
    let served = resources(&crd);
    let object = json!({"metadata": {"name": "w"}, "spec": {"size": 4}});
    let row = crate::table::row(
        &served[0],
        &object,
        crate::table::IncludeObject::None,
        NOW.parse().expect("time"),
    );
    assert_eq!(row["cells"], json!(["w", 4]));
    assert_eq!(crate::table::columns(&served[0])[1]["name"], "Size");
}

#[test]
fn every_upstream_crd_is_accepted_with_all_its_rules() {
    let Some(folder) = upstream("crds") else {
        return;
    };
    let (mut crds, mut rules) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("entry").path();
        for mut crd in documents(&path)
            .into_iter()
            .filter(|d| d["kind"] == "CustomResourceDefinition")
        {
            let name = crd["metadata"]["name"].as_str().expect("named").to_owned();
            default(&mut crd);
            let errors = validate(&crd, None);
            assert!(
                errors.is_empty(),
                "{name}: {}",
                crate::field::aggregate(&errors)
            );
            assert!(accept(&mut crd, &Registry::builtin(), NOW), "{name}");
            assert!(!resources(&crd).is_empty(), "{name}");
            crds += 1;
            rules += crd.to_string().matches("\"rule\":").count();
        }
    }
    println!("{crds} CRDs with {rules} rules");
    assert!(crds > 30 && rules > 500, "{crds} CRDs, {rules} rules");
}

fn istio_registry(folder: &std::path::Path) -> Registry {
    let crds = documents(&folder.join("istio.yaml"));
    let served = crds.into_iter().flat_map(|mut crd| {
        accept(&mut crd, &Registry::builtin(), NOW);
        resources(&crd)
    });
    Registry::with_custom(served.collect::<Vec<_>>())
}

/// What the API says about an object: nothing, or the text of its errors.
fn verdict(registry: &Registry, object: &Value) -> String {
    let mut object = object.clone();
    let (group, version) =
        crate::kinds::split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    let kind = object["kind"].as_str().unwrap_or_default();
    let Some(resource) = registry.find_kind(group, version, kind).cloned() else {
        return format!("no kind {kind}");
    };
    let mut texts = match crate::validate::decode(&resource, &mut object) {
        Ok(unknown) => unknown,
        Err(why) => return why.0,
    };
    crate::validate::default(&resource, &mut object);
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("x");
    }
    texts.extend(
        crate::validate::create(&resource, &object)
            .iter()
            .map(ToString::to_string),
    );
    texts.join("; ")
}

#[test]
fn upstream_objects_get_the_verdict_of_a_real_api_server() {
    let Some(shared) = upstream("conformance/validation") else {
        return;
    };
    let registry = istio_registry(&upstream("crds").expect("beside it"));
    let cases: Value = serde_saphyr::from_str(
        &std::fs::read_to_string(shared.join("crd-schema/expected.yaml")).expect("readable"),
    )
    .expect("yaml");
    let cases = cases["cases"].as_array().expect("cases");
    let mut wrong = Vec::new();
    for case in cases {
        let file = shared.join(case["objectFile"].as_str().expect("file"));
        let object = documents(&file).remove(0);
        let said = verdict(&registry, &object);
        let expected = case["errorContains"].as_str().unwrap_or_default();
        if said.is_empty() != (case["valid"] == true) || !said.contains(expected) {
            wrong.push(format!(
                "{}: wanted {expected:?}, got {said:?}",
                case["name"]
            ));
        }
    }
    println!("{} of {} cases", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn webhook_cases_agree_about_the_schema() {
    let Some(shared) = upstream("conformance/validation") else {
        return;
    };
    let registry = istio_registry(&upstream("crds").expect("beside it"));
    let text = std::fs::read_to_string(shared.join("webhook/cases.yaml")).expect("readable");
    let cases: Value = serde_saphyr::from_str(&text).expect("yaml");
    let (mut checked, mut wrong) = (0, Vec::new());
    for case in cases["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .filter(|c| c["crdSchemaValid"].is_boolean())
    {
        let object = match case["objectFile"].as_str() {
            Some(file) => documents(&shared.join(file)).remove(0),
            None => {
                json!({"apiVersion": case["apiVersion"], "kind": case["kind"], "metadata": case["metadata"], "spec": case["spec"]})
            }
        };
        let said = verdict(&registry, &object);
        checked += 1;
        if said.is_empty() != (case["crdSchemaValid"] == true) {
            wrong.push(format!(
                "{}: schema valid is {}, got {said:?} not {}",
                case["name"], case["crdSchemaValid"], case["crdSchemaErrors"]
            ));
        }
    }
    println!("{} of {checked} cases", checked - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
