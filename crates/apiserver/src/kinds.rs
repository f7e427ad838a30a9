//! The registry of resources that the API serves: the built-in kinds and what installed CRDs add.
//!
//! It holds names only. It never touches stored objects and never decides who may do what.

mod builtin;
pub mod event;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::crd::CustomVersion;

/// A name that is mostly a literal and, for CRDs, owned.
pub type Text = Cow<'static, str>;

/// The verbs of a resource that is stored.
pub const STORED_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// The verbs of a kind that is only posted (reviews, bindings).
pub const CREATE_ONLY: &[&str] = &["create"];
/// The verbs of `/status` and `/scale`.
pub const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// One subresource of a resource, such as `status` or `log`.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// The path segment: `status`.
    pub name: Text,
    /// The kind it reads and writes: `Scale` for `scale`, the parent's for `status`.
    pub kind: Text,
    /// Group and version of [`Self::kind`] where they differ from the parent's.
    pub group_version: Option<(Text, Text)>,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

/// One served resource in one version: a built-in kind or a version of a CRD.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group, empty for core.
    pub group: Text,
    /// Version: `v1`.
    pub version: Text,
    /// Kind: `Pod`.
    pub kind: Text,
    /// Kind of a list: `PodList`.
    pub list_kind: Text,
    /// Path segment: `pods`.
    pub plural: Text,
    /// Singular name: `pod`.
    pub singular: Text,
    /// Short names: `po`.
    pub short_names: Vec<Text>,
    /// Categories such as `all`.
    pub categories: Vec<Text>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs of the resource itself.
    pub verbs: &'static [&'static str],
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Group under which objects are stored. Differs from [`Self::group`] only for
    /// `events.k8s.io`, whose objects are the core events in another shape ([`event`]).
    pub storage_group: Text,
    /// Schema, columns and subresource paths of a CRD's version; `None` for built-in kinds.
    pub custom: Option<Arc<CustomVersion>>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `pods` or `deployments.apps`, as messages name a resource.
    #[must_use]
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether objects are stored at all (reviews and bindings are not).
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"list")
    }

    /// The subresource of that name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether `/status` is separate, so that the main endpoint ignores status and the other way round.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The key under which objects of every version of this resource are stored: `pods`, `deployments.apps`.
    #[must_use]
    pub fn storage_key(&self) -> String {
        if self.storage_group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.storage_group)
        }
    }

    /// Whether Kubernetes keeps `metadata.generation` for it (kinds with a spec that controllers follow).
    #[must_use]
    pub fn has_generation(&self) -> bool {
        self.custom.is_some() || builtin::has_generation(&self.group, &self.kind)
    }
}

/// `v1` or `apps/v1`.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Splits an `apiVersion` into group and version.
#[must_use]
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// All served resources. Cheap to clone; replaced as a whole when CRDs change.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    by_path: HashMap<(String, String, String), usize>,
}

impl Registry {
    /// The built-in kinds alone.
    #[must_use]
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for resource in builtin::resources() {
            registry.push(resource);
        }
        registry
    }

    /// The built-in kinds with what CRDs serve, in the order given.
    #[must_use]
    pub fn with_custom(custom: impl IntoIterator<Item = Resource>) -> Self {
        let mut registry = Self::builtin();
        for resource in custom {
            registry.push(resource);
        }
        registry
    }

    fn push(&mut self, resource: Resource) {
        let key = (
            resource.group.to_string(),
            resource.version.to_string(),
            resource.plural.to_string(),
        );
        if let Some(&index) = self.by_path.get(&key) {
            self.resources[index] = Arc::new(resource);
            return;
        }
        self.by_path.insert(key, self.resources.len());
        self.resources.push(Arc::new(resource));
    }

    /// The resource behind `/apis/{group}/{version}/{plural}`.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.by_path.get(&key).map(|&i| &self.resources[i])
    }

    /// The resource of a kind.
    #[must_use]
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources
            .iter()
            .find(|r| r.kind == kind && r.group == group && r.version == version)
    }

    /// The first served version of `group`/`plural` (any version serves where only names matter).
    #[must_use]
    pub fn find_resource(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .iter()
            .find(|r| r.plural == plural && r.group == group)
    }

    /// Every served resource: built-in first, then CRDs.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// Groups in discovery's order (without core), each with its versions, preferred first.
    #[must_use]
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in self.resources.iter().filter(|r| !r.group.is_empty()) {
            match groups
                .iter_mut()
                .find(|(g, _)| resource.group == g.as_str())
            {
                Some((_, versions)) if versions.iter().any(|v| resource.version == v.as_str()) => {}
                Some((_, versions)) => versions.push(resource.version.to_string()),
                None => groups.push((
                    resource.group.to_string(),
                    vec![resource.version.to_string()],
                )),
            }
        }
        let builtin = builtin::group_count();
        for (_, versions) in &mut groups {
            versions.sort_by(|a, b| compare_versions(a, b));
        }
        if groups.len() > builtin {
            groups[builtin..].sort();
        }
        groups
    }
}

/// Kubernetes' version priority: GA before beta before alpha, higher numbers first, odd names last.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// `(stability, major, minor)`, higher is preferred.
fn version_rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let major = rest[..digits].parse().ok()?;
    let tail = &rest[digits..];
    if tail.is_empty() {
        Some((2, major, 0))
    } else if let Some(n) = tail.strip_prefix("beta") {
        Some((1, major, n.parse().ok()?))
    } else if let Some(n) = tail.strip_prefix("alpha") {
        Some((0, major, n.parse().ok()?))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_resource_by_path_and_by_kind() {
        let registry = Registry::builtin();
        let pods = registry.find("", "v1", "pods").expect("pods are served");
        assert_eq!(pods.kind, "Pod");
        assert_eq!(pods.list_kind, "PodList");
        assert!(pods.subresource("log").is_some());
        assert_eq!(
            registry
                .find_kind("apps", "v1", "Deployment")
                .expect("served")
                .plural,
            "deployments"
        );
    }

    #[test]
    fn every_plural_of_the_category_all_is_served() {
        let registry = Registry::builtin();
        let mut all: Vec<_> = registry
            .iter()
            .filter(|r| r.categories.iter().any(|c| c == "all"))
            .map(|r| r.plural.to_string())
            .collect();
        all.sort();
        assert_eq!(
            all,
            [
                "cronjobs",
                "daemonsets",
                "deployments",
                "horizontalpodautoscalers",
                "jobs",
                "pods",
                "replicasets",
                "replicationcontrollers",
                "services",
                "statefulsets"
            ]
        );
    }

    #[test]
    fn versions_are_ordered_by_stability_then_number() {
        let mut versions = ["v1beta1", "v2alpha1", "v1", "v10", "v2", "foo1", "v1beta2"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v1beta2", "v1beta1", "v2alpha1", "foo1"]
        );
    }

    #[test]
    fn events_of_both_groups_share_one_store() {
        let registry = Registry::builtin();
        let core = registry.find("", "v1", "events").expect("served");
        let new = registry
            .find("events.k8s.io", "v1", "events")
            .expect("served");
        assert_eq!(core.storage_key(), new.storage_key());
    }
}
