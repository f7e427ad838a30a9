//! Which workloads or resources a policy is for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schema::rule;

/// Selects workloads by labels; all listed labels have to be equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels that a workload has to carry; none selects every workload in scope.
    #[schemars(transform = label_rules)]
    pub match_labels: BTreeMap<String, String>,
}

impl WorkloadSelector {
    /// Whether a workload with `labels` is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        selects(&self.match_labels, labels)
    }
}

/// Whether all of `wanted` are among `labels`.
pub fn selects(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn label_rules(schema: &mut schemars::Schema) {
    let keys = json!([
        rule(
            "self.all(key, !key.contains(\"*\"))",
            "wildcard not allowed in label key match"
        ),
        rule("self.all(key, key.size() != 0)", "key must not be empty"),
    ]);
    let values = json!([rule(
        "!self.contains(\"*\")",
        "wildcard not allowed in label value match"
    )]);
    schema.insert("maxProperties".to_owned(), json!(4096));
    schema.insert("x-kubernetes-validations".to_owned(), keys);
    if let Some(Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("maxLength".to_owned(), json!(63));
        value.insert("x-kubernetes-validations".to_owned(), values);
    }
}
