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

/// Selects workloads by labels, in the form that networking kinds use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that a workload has to carry; none selects every workload of the namespace.
    #[schemars(transform = networking_label_rules)]
    pub labels: BTreeMap<String, String>,
}

impl LabelSelector {
    /// Whether a workload with `labels` is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        selects(&self.labels, labels)
    }
}

/// A resource that a policy attaches to, instead of selecting workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["kind", "name"]))]
pub struct TargetRef {
    /// API group; empty for the core group.
    #[schemars(
        length(max = 253),
        regex(pattern = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub group: String,
    /// Kind.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")
    )]
    pub kind: String,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace; has to be empty, which is the policy's own.
    #[schemars(extend("x-kubernetes-validations" = [
        rule("self.size() == 0", "cross namespace referencing is not currently supported")
    ]))]
    pub namespace: String,
}

/// The rule that a policy names its workloads in one way only.
pub(crate) fn one_selection(selector: &str, fields: &[&str]) -> Value {
    let counted: Vec<String> = fields
        .iter()
        .map(|f| format!("(has(self.{f}) ? 1 : 0)"))
        .collect();
    let test = format!("{} <= 1", counted.join(" + "));
    rule(
        &test,
        &format!("only one of targetRefs or {selector} can be set"),
    )
}

fn networking_label_rules(schema: &mut schemars::Schema) {
    schema.insert("maxProperties".to_owned(), json!(256));
    if let Some(Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("maxLength".to_owned(), json!(63));
        let rules = json!([rule(
            "!self.contains(\"*\")",
            "wildcard is not supported in selector"
        )]);
        value.insert("x-kubernetes-validations".to_owned(), rules);
    }
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
