//! Field selectors: which fields a resource supports and how they compare.

use serde_json::Value;

use super::SelectorError;
use crate::kinds::Resource;

/// A parsed field selector; the default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    path: Vec<String>,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the query parameter `fieldSelector` and checks that the resource supports its fields.
    ///
    /// # Errors
    /// On bad syntax and on a field label that the resource does not support.
    pub fn parse(text: &str, resource: &Resource) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_escaped(text) {
            if term.trim().is_empty() {
                continue;
            }
            let (field, equal, value) = split_term(&term).ok_or_else(|| {
                SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                ))
            })?;
            let Some(path) = field_path(resource, field) else {
                return Err(SelectorError(unsupported(resource, field)));
            };
            terms.push(Term {
                field: field.to_owned(),
                path,
                equal,
                value: unescape(value),
            });
        }
        Ok(Self { terms })
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The object's name, where the selector fixes it (`metadata.name=x`): watch and list of one object.
    #[must_use]
    pub fn exact_name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equal && t.field == "metadata.name")
            .map(|t| t.value.as_str())
    }

    /// Whether an object is selected.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|t| t.matches(object))
    }
}

impl Term {
    fn matches(&self, object: &Value) -> bool {
        let mut value = object;
        for segment in &self.path {
            value = &value[segment.as_str()];
        }
        let same = match value {
            Value::String(s) => *s == self.value,
            Value::Null => self.value == absent(&self.field),
            Value::Bool(b) => (if *b { "true" } else { "false" }) == self.value,
            Value::Number(n) => n.to_string() == self.value,
            Value::Array(_) | Value::Object(_) => false,
        };
        same == self.equal
    }
}

/// What an absent field compares as.
fn absent(field: &str) -> &'static str {
    match field {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.successful" => "0",
        _ => "",
    }
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (symbol, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((field, value)) = term.split_once(symbol) {
            return Some((field.trim(), equal, value));
        }
    }
    None
}

/// Splits at commas that are not escaped.
fn split_escaped(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = terms.last_mut() {
            last.push(c);
        }
    }
    terms
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' {
            chars.next().unwrap_or(c)
        } else {
            c
        });
    }
    out
}

fn unsupported(resource: &Resource, field: &str) -> String {
    let has_own = !extra_fields(&resource.group, &resource.kind).is_empty();
    if resource.custom.is_some() || has_own {
        format!("field label not supported: {field}")
    } else {
        format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    }
}

/// The path of a supported field.
fn field_path(resource: &Resource, field: &str) -> Option<Vec<String>> {
    if let Some(custom) = &resource.custom
        && custom
            .selectable_fields
            .iter()
            .any(|f| f.trim_start_matches('.') == field)
    {
        return Some(split(field));
    }
    let common = field == "metadata.name" || (field == "metadata.namespace" && resource.namespaced);
    let supported = common || extra_fields(&resource.group, &resource.kind).contains(&field);
    if !supported {
        return None;
    }
    Some(match (resource.kind.as_ref(), field) {
        // An alias that Kubernetes keeps for events.
        ("Event", "source" | "reportingComponent") => split("source.component"),
        ("Pod", "status.podIP" | "status.podIPs") => split("status.podIP"),
        _ => split(field),
    })
}

fn split(field: &str) -> Vec<String> {
    field.split('.').map(str::to_owned).collect()
}

// table: field labels beyond name and namespace.
fn extra_fields(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "Event") => &[
            "reason",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "reportingController",
            "type",
        ],
        ("", "Namespace") => &["status.phase"],
        ("", "Secret") => &["type"],
        ("", "Node") => &["spec.unschedulable"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => &["status.replicas"],
        ("batch", "Job") => &["status.successful"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn pods() -> std::sync::Arc<Resource> {
        std::sync::Arc::clone(Registry::builtin().find("", "v1", "pods").expect("served"))
    }

    #[test]
    fn pods_are_selected_by_node_and_phase() {
        let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed", &pods())
            .expect("supported");
        assert!(
            selector.matches(&json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}))
        );
        assert!(
            !selector.matches(&json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}}))
        );
        assert!(!selector.matches(&json!({"spec": {}})));
    }

    #[test]
    fn an_unassigned_pod_has_an_empty_node_name() {
        let selector = FieldSelector::parse("spec.nodeName=", &pods()).expect("supported");
        assert!(selector.matches(&json!({"spec": {}})));
    }

    #[test]
    fn the_exact_name_is_known() {
        assert_eq!(
            FieldSelector::parse("metadata.name=a", &pods())
                .expect("supported")
                .exact_name(),
            Some("a")
        );
    }

    #[test]
    fn an_unsupported_field_is_refused() {
        assert!(FieldSelector::parse("spec.color=red", &pods()).is_err());
        assert!(FieldSelector::parse("nonsense", &pods()).is_err());
    }
}
