//! The generated definitions against the published ones.

use std::path::Path;

use serde_json::Value;

const PUBLISHED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/crds/istio.yaml"
);

#[test]
fn generated_definitions_equal_the_published_ones() {
    if !Path::new(PUBLISHED).exists() {
        println!("SKIPPED: {PUBLISHED} is not there");
        return;
    }
    let text = std::fs::read_to_string(PUBLISHED).expect("the file is readable");
    let theirs: Vec<Value> = serde_saphyr::from_multiple(&text).expect("the file is YAML");
    let theirs: Vec<Value> = theirs.into_iter().filter(Value::is_object).collect();
    assert_eq!(theirs.len(), 15);
    let differences = meltemi_api::crds::diff(&meltemi_api::crds(), &theirs);
    for difference in differences.iter().take(60) {
        println!("{difference}");
    }
    assert!(differences.is_empty(), "{} differences", differences.len());

    let mut changed = theirs;
    for definition in &mut changed {
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let schema = definition
            .pointer_mut(spec)
            .and_then(Value::as_object_mut)
            .expect("every kind has a spec");
        schema.insert("minProperties".to_owned(), 1.into());
    }
    assert_eq!(
        meltemi_api::crds::diff(&meltemi_api::crds(), &changed).len(),
        15,
        "the comparison sees a change"
    );
}

#[test]
fn every_field_of_every_definition_is_described() {
    fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let child = format!("{path}.{name}");
            if property["description"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
            {
                found.push(child.clone());
            }
            undescribed(&child, property, found);
        }
        undescribed_inner(path, schema, found);
    }
    fn undescribed_inner(path: &str, schema: &Value, found: &mut Vec<String>) {
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                undescribed(path, &schema[key], found);
            }
        }
    }
    for crd in meltemi_api::crds() {
        let mut found = Vec::new();
        undescribed(
            "",
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            &mut found,
        );
        assert!(found.is_empty(), "{}: {found:?}", crd["metadata"]["name"]);
    }
}
