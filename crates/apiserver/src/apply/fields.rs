//! Sets of fields in the `FieldsV1` format: a trie whose steps are `f:name`, `k:{"key":"value"}`, `v:value`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of fields below some place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    entries: BTreeMap<String, Entry>,
}

/// One step: whether the field itself is a member, and the members below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a field.
    pub(super) fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let entry = self.entries.entry(first.clone()).or_default();
        if rest.is_empty() {
            entry.member = true;
        } else {
            entry.below.insert(rest);
        }
    }

    /// Reads `fieldsV1`.
    pub(super) fn parse(value: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| *k != ".")
        {
            let inner = Self::parse(below);
            let member = below.get(".").is_some() || inner.is_empty();
            set.entries.insert(
                step.clone(),
                Entry {
                    member,
                    below: inner,
                },
            );
        }
        set
    }

    /// Writes `fieldsV1`.
    pub(super) fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (step, entry) in &self.entries {
            let mut below = entry.below.to_value();
            if entry.member
                && !entry.below.is_empty()
                && let Some(map) = below.as_object_mut()
            {
                let mut with_self = Map::new();
                with_self.insert(".".to_owned(), Value::Object(Map::new()));
                with_self.append(map);
                below = Value::Object(with_self);
            }
            out.insert(step.clone(), below);
        }
        Value::Object(out)
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (step, entry) in &other.entries {
            let mine = out.entries.entry(step.clone()).or_default();
            mine.member |= entry.member;
            mine.below = mine.below.union(&entry.below);
        }
        out
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(
            other,
            |mine, theirs| mine && theirs,
            |mine, theirs| match theirs {
                Some(theirs) => mine.intersection(theirs),
                None => Self::default(),
            },
        )
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        self.combine(
            other,
            |mine, theirs| mine && !theirs,
            |mine, theirs| match theirs {
                Some(theirs) => mine.minus(theirs),
                None => mine.clone(),
            },
        )
    }

    fn combine(
        &self,
        other: &Self,
        member: impl Fn(bool, bool) -> bool,
        below: impl Fn(&Self, Option<&Self>) -> Self,
    ) -> Self {
        let mut out = Self::default();
        for (step, entry) in &self.entries {
            let theirs = other.entries.get(step);
            let entry = Entry {
                member: member(entry.member, theirs.is_some_and(|t| t.member)),
                below: below(&entry.below, theirs.map(|t| &t.below)),
            };
            if entry.member || !entry.below.is_empty() {
                out.entries.insert(step.clone(), entry);
            }
        }
        out
    }

    /// Without members that lie below a member of `other`, too: a removed object takes its fields along.
    pub(super) fn minus_recursive(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (step, entry) in &self.entries {
            let theirs = other.entries.get(step);
            if theirs.is_some_and(|t| t.member) {
                continue;
            }
            let below = theirs.map_or_else(
                || entry.below.clone(),
                |t| entry.below.minus_recursive(&t.below),
            );
            if entry.member || !below.is_empty() {
                out.entries.insert(
                    step.clone(),
                    Entry {
                        member: entry.member,
                        below,
                    },
                );
            }
        }
        out
    }

    /// The members of the first level with what lies below.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&str, bool, &Self)> {
        self.entries
            .iter()
            .map(|(step, e)| (step.as_str(), e.member, &e.below))
    }

    /// Every member as Kubernetes prints paths: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        for (step, entry) in &self.entries {
            let path = format!("{prefix}{}", show(step));
            if entry.member {
                out.push(path.clone());
            }
            entry.below.collect(&path, out);
        }
    }

    /// Drops what nobody owns: identity, and what the server keeps.
    pub(super) fn strip_system_fields(&mut self) {
        self.entries.remove("f:apiVersion");
        self.entries.remove("f:kind");
        let Some(metadata) = self.entries.get_mut("f:metadata") else {
            return;
        };
        for key in [
            "f:name",
            "f:namespace",
            "f:creationTimestamp",
            "f:selfLink",
            "f:uid",
            "f:generation",
            "f:managedFields",
            "f:resourceVersion",
            "f:deletionTimestamp",
            "f:deletionGracePeriodSeconds",
            "f:generateName",
        ] {
            metadata.below.entries.remove(key);
        }
        metadata.member = false;
        if metadata.below.is_empty() {
            self.entries.remove("f:metadata");
        }
    }
}

/// A step as Kubernetes prints it: `.name`, `[name="a"]`, `[="value"]`.
pub(super) fn show(step: &str) -> String {
    if let Some(name) = step.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(keys) = step.strip_prefix("k:")
        && let Ok(Value::Object(map)) = serde_json::from_str::<Value>(keys)
    {
        let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
        return format!("[{}]", pairs.join(","));
    }
    match step.strip_prefix("v:") {
        Some(value) => format!("[={value}]"),
        None => format!("[{}]", step.trim_start_matches("i:")),
    }
}
