//! One policy rule and what it allows.

use std::fmt;

use serde_json::{Value, json};

use super::Attributes;

/// A parsed `PolicyRule`.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
}

impl Rule {
    pub(super) fn from_value(value: &Value) -> Self {
        let list = |key: &str| {
            value[key]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        for (key, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                out[key] = json!(list);
            }
        }
        out
    }

    pub(super) fn allows(&self, wanted: &Attributes<'_>) -> bool {
        if !has(&self.verbs, wanted.verb) {
            return false;
        }
        if let Some(path) = wanted.path {
            return self.urls.iter().any(|url| url_matches(url, path));
        }
        has(&self.groups, wanted.group)
            && self
                .resources
                .iter()
                .any(|r| resource_matches(r, wanted.resource, wanted.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| n == wanted.name))
    }

    /// The part of the rule about resources, for a rules review.
    pub(super) fn resource_rule(&self) -> Option<Value> {
        if self.resources.is_empty() {
            return None;
        }
        let mut out =
            json!({"verbs": self.verbs, "apiGroups": self.groups, "resources": self.resources});
        if !self.names.is_empty() {
            out["resourceNames"] = json!(self.names);
        }
        Some(out)
    }

    /// The part about URLs.
    pub(super) fn url_rule(&self) -> Option<Value> {
        (!self.urls.is_empty()).then(|| json!({"verbs": self.verbs, "nonResourceURLs": self.urls}))
    }

    /// The rule as rules of one verb, group, resource (and name) each.
    pub(super) fn split(&self) -> Vec<Self> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                out.push(Self {
                    verbs: one(verb),
                    urls: one(url),
                    ..Self::default()
                });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let base = Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        out.push(base);
                    } else {
                        out.extend(self.names.iter().map(|n| Self {
                            names: one(n),
                            ..base.clone()
                        }));
                    }
                }
            }
        }
        out
    }

    /// Whether this rule allows everything that `atom` (one of [`Self::split`]) does.
    pub(super) fn covers(&self, atom: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| theirs.iter().all(|t| has(mine, t));
        let resources = atom.resources.iter().all(|wanted| {
            self.resources.iter().any(|mine| {
                let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
                mine == wanted || resource_matches(mine, resource, subresource)
            })
        });
        let urls = atom.urls.iter().all(|wanted| {
            self.urls
                .iter()
                .any(|mine| mine == wanted || url_matches(mine, wanted))
        });
        let names = self.names.is_empty()
            || (!atom.names.is_empty() && atom.names.iter().all(|n| self.names.contains(n)));
        all(&self.verbs, &atom.verbs)
            && all(&self.groups, &atom.groups)
            && resources
            && urls
            && names
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.urls),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!("{name}:{list:?}"));
            }
        }
        write!(f, "{{{}}}", parts.join(", "))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        Some((r, s)) => (r == "*" || r == resource) && s == subresource && !subresource.is_empty(),
        None => subresource.is_empty() && rule == resource,
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    if rule == "*" || rule == path {
        return true;
    }
    rule.strip_suffix('*')
        .is_some_and(|prefix| path.starts_with(prefix))
}
