//! Whether a pod is injected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::values::InjectorConfig;

/// Namespaces whose pods are never injected.
pub const IGNORED_NAMESPACES: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

/// What happens to pods that say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// They are injected.
    #[default]
    Enabled,
    /// They are not.
    Disabled,
    /// Not a known policy: nothing is injected.
    #[serde(other)]
    Unknown,
}

/// The outcome, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Injected.
    Inject,
    /// The pod uses the node's network, which must not be redirected.
    HostNetwork,
    /// The namespace belongs to the platform.
    IgnoredNamespace,
    /// The pod itself, a selector or the policy says no.
    NotWanted,
    /// The policy is not a known one.
    UnknownPolicy,
}

impl Decision {
    /// Whether the pod is injected.
    pub fn injects(self) -> bool {
        self == Self::Inject
    }
}

/// Selects pods by labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that have to be equal.
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions; all have to hold.
    pub match_expressions: Vec<LabelRequirement>,
}

/// A condition on one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelRequirement {
    /// Name of the label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values.
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether `labels` are selected; an empty selector selects nothing here, as it would switch everything.
    fn selects(&self, labels: &Value) -> bool {
        let has = |key: &str| labels.get(key).and_then(Value::as_str);
        let empty = self.match_labels.is_empty() && self.match_expressions.is_empty();
        !empty
            && self.match_labels.iter().all(|(k, v)| has(k) == Some(v))
            && self.match_expressions.iter().all(|r| r.holds(has(&r.key)))
    }
}

impl LabelRequirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = value.is_some_and(|v| self.values.iter().any(|x| x == v));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// Decides by, in this order: what must never be injected, the pod's own label or annotation, the selectors,
/// the policy.
pub fn decide(pod: &Value, namespace: &str, config: &InjectorConfig) -> Decision {
    if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Decision::HostNetwork;
    }
    if IGNORED_NAMESPACES.contains(&namespace) {
        return Decision::IgnoredNamespace;
    }
    if config.policy == Policy::Unknown {
        return Decision::UnknownPolicy;
    }
    let labels = pod.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let wanted = own_wish(pod)
        .or_else(|| {
            config
                .never_inject_selector
                .iter()
                .any(|s| s.selects(labels))
                .then_some(false)
        })
        .or_else(|| {
            config
                .always_inject_selector
                .iter()
                .any(|s| s.selects(labels))
                .then_some(true)
        })
        .unwrap_or(config.policy == Policy::Enabled);
    if wanted {
        Decision::Inject
    } else {
        Decision::NotWanted
    }
}

/// What the pod says about itself; the label wins over the annotation, other words than yes and no say nothing.
fn own_wish(pod: &Value) -> Option<bool> {
    let said = ["labels", "annotations"].iter().find_map(|place| {
        let said = pod.pointer(&format!("/metadata/{place}/sidecar.istio.io~1inject"));
        said.and_then(Value::as_str).filter(|s| !s.is_empty())
    })?;
    match said.to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" | "on" => Some(true),
        "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}
