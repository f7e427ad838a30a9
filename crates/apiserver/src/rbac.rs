//! Role-based access: decides a request from a snapshot of roles and bindings.

use serde_json::Value;

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
pub struct Rules {}

impl Rules {
    /// Builds it from stored objects of the four kinds.
    #[must_use]
    pub fn new<'a>(
        _cluster_roles: impl IntoIterator<Item = &'a Value>,
        _cluster_role_bindings: impl IntoIterator<Item = &'a Value>,
        _roles: impl IntoIterator<Item = &'a Value>,
        _role_bindings: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        Self {}
    }

    /// Decides a request. `system:masters` may do everything.
    #[must_use]
    pub fn authorize(&self, subject: &Subject, _attributes: &Attributes<'_>) -> Decision {
        Decision {
            allowed: subject.groups.iter().any(|g| g == "system:masters"),
            reason: String::new(),
        }
    }

    /// The `status` of a SelfSubjectRulesReview for `namespace`.
    #[must_use]
    pub fn review(&self, _subject: &Subject, _namespace: &str) -> Value {
        serde_json::json!({"resourceRules": [], "nonResourceRules": [], "incomplete": false})
    }

    /// Whether the subject holds every rule in `rules` (a Role's `rules` array), so that it may hand them out.
    /// The error lists what is missing in Kubernetes' words.
    ///
    /// # Errors
    /// The text of the 403.
    pub fn covers(
        &self,
        _subject: &Subject,
        _namespace: &str,
        _rules: &Value,
    ) -> Result<(), String> {
        Ok(())
    }
}

/// The roles and bindings that every cluster starts with (`cluster-admin`, `admin`, `edit`, `view`, discovery, node).
#[must_use]
pub fn bootstrap() -> Vec<Value> {
    Vec::new()
}

/// The rules of an aggregated ClusterRole, from all ClusterRoles its `aggregationRule` selects;
/// `None` when it has no aggregation rule.
#[must_use]
pub fn aggregated_rules<'a>(
    _role: &Value,
    _cluster_roles: impl IntoIterator<Item = &'a Value>,
) -> Option<Value> {
    None
}
