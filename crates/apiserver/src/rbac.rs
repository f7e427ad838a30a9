//! Role-based access: decides a request from a snapshot of roles and bindings.

mod bootstrap;
mod rule;

pub use bootstrap::bootstrap;

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::selector::LabelSelector;
use rule::Rule;

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// User name: `system:serviceaccount:ns:name` for service accounts.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, ... (lower-case HTTP method for non-resource paths).
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural resource name.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Object name or empty.
    pub name: &'a str,
    /// Set for non-resource requests: the URL path.
    pub path: Option<&'a str>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Which binding allowed it, or what role it misses.
    pub reason: String,
}

/// A snapshot of all roles and bindings.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    cluster_roles: HashMap<String, Vec<Rule>>,
    roles: HashMap<(String, String), Vec<Rule>>,
    cluster_bindings: Vec<Binding>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Clone)]
struct Binding {
    name: String,
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    cluster_role: bool,
    role: String,
    subjects: Vec<BoundSubject>,
}

#[derive(Debug, Clone)]
enum BoundSubject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl BoundSubject {
    fn from_value(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = text(&value["name"]);
        Some(match value["kind"].as_str()? {
            "User" => Self::User(name),
            "Group" => Self::Group(name),
            "ServiceAccount" => {
                let namespace = value["namespace"]
                    .as_str()
                    .unwrap_or(binding_namespace)
                    .to_owned();
                Self::ServiceAccount { namespace, name }
            }
            _ => return None,
        })
    }

    fn is(&self, subject: &Subject) -> bool {
        match self {
            Self::User(name) => *name == subject.name,
            Self::Group(name) => subject.groups.contains(name),
            Self::ServiceAccount { namespace, name } => subject
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, n)| ns == namespace && n == name),
        }
    }
}

impl std::fmt::Display for BoundSubject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "User {name:?}"),
            Self::Group(name) => write!(f, "Group {name:?}"),
            Self::ServiceAccount { namespace, name } => {
                write!(f, "ServiceAccount \"{name}/{namespace}\"")
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn rules_of(role: &Value) -> Vec<Rule> {
    role["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Rule::from_value)
        .collect()
}

fn binding(object: &Value) -> Binding {
    let namespace = text(&object["metadata"]["namespace"]);
    let subjects = object["subjects"].as_array().into_iter().flatten();
    Binding {
        name: text(&object["metadata"]["name"]),
        cluster_role: object["roleRef"]["kind"] == "ClusterRole",
        role: text(&object["roleRef"]["name"]),
        subjects: subjects
            .filter_map(|s| BoundSubject::from_value(s, &namespace))
            .collect(),
        namespace,
    }
}

impl Rules {
    /// Builds it from stored objects of the four kinds. Aggregated ClusterRoles get the rules of the roles they select.
    #[must_use]
    pub fn new<'a>(
        cluster_roles: impl IntoIterator<Item = &'a Value>,
        cluster_role_bindings: impl IntoIterator<Item = &'a Value>,
        roles: impl IntoIterator<Item = &'a Value>,
        role_bindings: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        let cluster_roles: Vec<&Value> = cluster_roles.into_iter().collect();
        let by_name = cluster_roles.iter().map(|role| {
            let aggregated = aggregated_rules(role, cluster_roles.iter().copied());
            let rules = match &aggregated {
                Some(rules) => rules
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(Rule::from_value)
                    .collect(),
                None => rules_of(role),
            };
            (text(&role["metadata"]["name"]), rules)
        });
        let roles = roles.into_iter().map(|role| {
            let metadata = &role["metadata"];
            (
                (text(&metadata["namespace"]), text(&metadata["name"])),
                rules_of(role),
            )
        });
        Self {
            cluster_roles: by_name.collect(),
            roles: roles.collect(),
            cluster_bindings: cluster_role_bindings.into_iter().map(binding).collect(),
            bindings: role_bindings.into_iter().map(binding).collect(),
        }
    }

    /// Decides a request. `system:masters` may do everything.
    #[must_use]
    pub fn authorize(&self, subject: &Subject, attributes: &Attributes<'_>) -> Decision {
        if subject.groups.iter().any(|g| g == "system:masters") {
            return Decision {
                allowed: true,
                reason: String::new(),
            };
        }
        for (binding, who, rules) in self.held(subject, attributes.namespace) {
            if rules.iter().any(|r| r.allows(attributes)) {
                return Decision {
                    allowed: true,
                    reason: reason(binding, who),
                };
            }
        }
        Decision {
            allowed: false,
            reason: String::new(),
        }
    }

    /// The bindings that reach the subject in a namespace, with their rules.
    fn held<'s>(
        &'s self,
        subject: &'s Subject,
        namespace: &'s str,
    ) -> impl Iterator<Item = (&'s Binding, &'s BoundSubject, &'s [Rule])> {
        let local = self
            .bindings
            .iter()
            .filter(move |b| !namespace.is_empty() && b.namespace == namespace);
        self.cluster_bindings
            .iter()
            .chain(local)
            .filter_map(move |binding| {
                let who = binding.subjects.iter().find(|s| s.is(subject))?;
                let rules = if binding.cluster_role {
                    self.cluster_roles.get(&binding.role)?
                } else {
                    self.roles
                        .get(&(binding.namespace.clone(), binding.role.clone()))?
                };
                Some((binding, who, rules.as_slice()))
            })
    }

    /// The `status` of a SelfSubjectRulesReview for `namespace`.
    #[must_use]
    pub fn review(&self, subject: &Subject, namespace: &str) -> Value {
        let mut resources: Vec<Value> = Vec::new();
        let mut urls: Vec<Value> = Vec::new();
        if subject.groups.iter().any(|g| g == "system:masters") {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            urls.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for (binding, _, rules) in self.held(subject, namespace) {
            for rule in rules {
                if let Some(value) = rule.resource_rule() {
                    resources.push(value);
                }
                if binding.namespace.is_empty()
                    && let Some(value) = rule.url_rule()
                {
                    urls.push(value);
                }
            }
        }
        json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false})
    }

    /// Whether the subject holds every rule in `rules` (a Role's `rules` array), so that it may hand them out.
    /// The error lists what is missing in Kubernetes' words.
    ///
    /// # Errors
    /// The text of the 403.
    pub fn covers(&self, subject: &Subject, namespace: &str, rules: &Value) -> Result<(), String> {
        if subject.groups.iter().any(|g| g == "system:masters") {
            return Ok(());
        }
        let held: Vec<&Rule> = self
            .held(subject, namespace)
            .flat_map(|(_, _, rules)| rules)
            .collect();
        let wanted: Vec<Rule> = rules
            .as_array()
            .into_iter()
            .flatten()
            .map(Rule::from_value)
            .collect();
        let missing: Vec<String> = wanted
            .iter()
            .flat_map(Rule::split)
            .filter(|atom| !held.iter().any(|rule| rule.covers(atom)))
            .map(|atom| atom.to_string())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            subject.name,
            subject.groups,
            missing.join("\n")
        ))
    }

    /// The rules of a role that a binding refers to (`roleRef`), for [`Self::covers`].
    #[must_use]
    pub fn role_rules(&self, namespace: &str, role_ref: &Value) -> Option<Value> {
        let name = text(&role_ref["name"]);
        let rules = if role_ref["kind"] == "ClusterRole" {
            self.cluster_roles.get(&name)?
        } else {
            self.roles.get(&(namespace.to_owned(), name))?
        };
        Some(Value::Array(rules.iter().map(Rule::to_value).collect()))
    }
}

fn reason(binding: &Binding, who: &BoundSubject) -> String {
    let role = if binding.cluster_role {
        "ClusterRole"
    } else {
        "Role"
    };
    if binding.namespace.is_empty() {
        format!(
            "RBAC: allowed by ClusterRoleBinding {:?} of {role} {:?} to {who}",
            binding.name, binding.role
        )
    } else {
        let place = format!("{}/{}", binding.name, binding.namespace);
        format!(
            "RBAC: allowed by RoleBinding {place:?} of {role} {:?} to {who}",
            binding.role
        )
    }
}

/// The rules of an aggregated ClusterRole, from all ClusterRoles its `aggregationRule` selects;
/// `None` when it has no aggregation rule.
#[must_use]
pub fn aggregated_rules<'a>(
    role: &Value,
    cluster_roles: impl IntoIterator<Item = &'a Value>,
) -> Option<Value> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array()?;
    let selectors: Vec<LabelSelector> = selectors
        .iter()
        .filter_map(|s| LabelSelector::from_object(s).ok())
        .collect();
    let name = &role["metadata"]["name"];
    let mut rules: Vec<Value> = Vec::new();
    for other in cluster_roles {
        let metadata = &other["metadata"];
        if metadata["name"] == *name || !selectors.iter().any(|s| s.matches(&metadata["labels"])) {
            continue;
        }
        for rule in other["rules"].as_array().into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(Value::Array(rules))
}

#[cfg(test)]
mod tests;
