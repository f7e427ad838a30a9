//! Rules that another VirtualService continues.
//!
//! A delegate names no host. Its rules take the place of the rule that refers to it, each within the conditions of
//! that rule; what a delegate's rule leaves out it takes from there. A rule that cannot lie within those conditions is
//! left out.

use std::collections::BTreeMap;

use meltemi_names::{ArcStr, Labels};

use crate::Shared;
use crate::routing::{HttpAction, HttpMatch, HttpRule, MatchScope, StringMatch, VirtualService};

/// The routes that name hosts, with the rules of delegates in place.
pub(crate) fn expand(all: &[Shared<VirtualService>]) -> Vec<Shared<VirtualService>> {
    let delegates: BTreeMap<(&ArcStr, &ArcStr), &VirtualService> = all
        .iter()
        .filter(|routes| routes.hosts.is_empty())
        .map(|routes| ((&routes.meta.namespace, &routes.meta.name), &**routes))
        .collect();
    all.iter()
        .filter(|routes| !routes.hosts.is_empty())
        .map(|root| {
            if root.http.iter().any(|rule| rule.delegate.is_some()) {
                Shared::new(with_delegates(root, &delegates))
            } else {
                root.clone()
            }
        })
        .collect()
}

fn with_delegates(
    root: &VirtualService,
    delegates: &BTreeMap<(&ArcStr, &ArcStr), &VirtualService>,
) -> VirtualService {
    let mut http = Vec::with_capacity(root.http.len());
    for rule in &root.http {
        let Some((namespace, name)) = &rule.delegate else {
            http.push(rule.clone());
            continue;
        };
        let found = delegates.get(&(namespace, name));
        let visible = found.filter(|found| found.export_to.allows(&root.meta.namespace));
        let rules = visible
            .map(|found| found.http.as_slice())
            .unwrap_or_default();
        // One level only: a delegate's own reference leads nowhere.
        let rules = rules.iter().filter(|rule| rule.delegate.is_none());
        http.extend(rules.filter_map(|own| merge_rule(rule, own)));
    }
    VirtualService {
        http,
        ..root.clone()
    }
}

fn merge_rule(root: &HttpRule, own: &HttpRule) -> Option<HttpRule> {
    let no_action = matches!(&own.action, HttpAction::Forward(shares) if shares.is_empty());
    let or_root = |mine: &Option<_>, theirs: &Option<_>| mine.clone().or_else(|| theirs.clone());
    Some(HttpRule {
        name: join(&root.name, &own.name),
        matches: merge_matches(&root.matches, &own.matches)?,
        action: if no_action {
            root.action.clone()
        } else {
            own.action.clone()
        },
        rewrite: or_root(&own.rewrite, &root.rewrite),
        timeout: own.timeout.or(root.timeout),
        retries: own.retries.clone().or_else(|| root.retries.clone()),
        fault: if own.fault.is_none() {
            root.fault.clone()
        } else {
            own.fault.clone()
        },
        mirrors: if own.mirrors.is_empty() {
            root.mirrors.clone()
        } else {
            own.mirrors.clone()
        },
        cors: own.cors.clone().or_else(|| root.cors.clone()),
        headers: if own.headers == Default::default() {
            root.headers.clone()
        } else {
            own.headers.clone()
        },
        delegate: None,
    })
}

fn join(root: &ArcStr, own: &ArcStr) -> ArcStr {
    match (root.is_empty(), own.is_empty()) {
        (true, _) => own.clone(),
        (_, true) => root.clone(),
        _ => ArcStr::from(format!("{root}-{own}")),
    }
}

/// Every pair that can hold at once; `None` when there are conditions but no such pair.
fn merge_matches(root: &[HttpMatch], own: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(own.to_vec());
    }
    if own.is_empty() {
        return Some(root.to_vec());
    }
    let pairs = root
        .iter()
        .flat_map(|outer| own.iter().map(move |inner| (outer, inner)));
    let merged: Vec<HttpMatch> = pairs
        .filter_map(|(outer, inner)| merge_match(outer, inner))
        .collect();
    (!merged.is_empty()).then_some(merged)
}

fn merge_match(outer: &HttpMatch, inner: &HttpMatch) -> Option<HttpMatch> {
    let text = |outer: &Option<StringMatch>, inner: &Option<StringMatch>| within(outer, inner);
    if outer.uri.is_some() && inner.uri.is_some() && outer.ignore_uri_case != inner.ignore_uri_case
    {
        return None;
    }
    Some(HttpMatch {
        name: join(&outer.name, &inner.name),
        uri: text(&outer.uri, &inner.uri)?,
        ignore_uri_case: outer.ignore_uri_case || inner.ignore_uri_case,
        scheme: text(&outer.scheme, &inner.scheme)?,
        method: text(&outer.method, &inner.method)?,
        authority: text(&outer.authority, &inner.authority)?,
        headers: merge_values(&outer.headers, &inner.headers)?,
        without_headers: merge_values(&outer.without_headers, &inner.without_headers)?,
        query_params: merge_values(&outer.query_params, &inner.query_params)?,
        scope: merge_scope(&outer.scope, &inner.scope)?,
        stat_prefix: if inner.stat_prefix.is_empty() {
            outer.stat_prefix.clone()
        } else {
            inner.stat_prefix.clone()
        },
    })
}

/// The narrower of two conditions on one text; the outer `None` says that they exclude each other.
#[allow(clippy::option_option)] // no condition is a condition too
fn within(outer: &Option<StringMatch>, inner: &Option<StringMatch>) -> Option<Option<StringMatch>> {
    let (Some(wide), Some(narrow)) = (outer, inner) else {
        return Some(inner.clone().or_else(|| outer.clone()));
    };
    let fits = match (wide, narrow) {
        (StringMatch::Exact(wide), StringMatch::Exact(narrow)) => wide == narrow,
        (StringMatch::Prefix(wide), StringMatch::Exact(narrow) | StringMatch::Prefix(narrow)) => {
            narrow.starts_with(wide.as_str())
        }
        (StringMatch::Exact(_), StringMatch::Prefix(_))
        | (StringMatch::Regex(_), _)
        | (_, StringMatch::Regex(_)) => false,
    };
    fits.then(|| inner.clone())
}

fn merge_values(
    outer: &BTreeMap<ArcStr, Option<StringMatch>>,
    inner: &BTreeMap<ArcStr, Option<StringMatch>>,
) -> Option<BTreeMap<ArcStr, Option<StringMatch>>> {
    let mut merged = inner.clone();
    for (key, wide) in outer {
        let narrowed = match inner.get(key) {
            Some(narrow) => within(wide, narrow)?,
            None => wide.clone(),
        };
        merged.insert(key.clone(), narrowed);
    }
    Some(merged)
}

fn merge_scope(outer: &MatchScope, inner: &MatchScope) -> Option<MatchScope> {
    if outer
        .port
        .zip(inner.port)
        .is_some_and(|(wide, narrow)| wide != narrow)
    {
        return None;
    }
    let namespaces = (&outer.source_namespace, &inner.source_namespace);
    let source_namespace = match namespaces {
        (wide, narrow) if wide.is_empty() || wide == narrow => narrow.clone(),
        (wide, narrow) if narrow.is_empty() => wide.clone(),
        _ => return None,
    };
    let gateways = match (outer.gateways.is_empty(), inner.gateways.is_empty()) {
        (true, _) => inner.gateways.clone(),
        (_, true) => outer.gateways.clone(),
        _ if inner
            .gateways
            .iter()
            .all(|gateway| outer.gateways.contains(gateway)) =>
        {
            inner.gateways.clone()
        }
        _ => return None,
    };
    Some(MatchScope {
        port: inner.port.or(outer.port),
        source_labels: merge_labels(&outer.source_labels, &inner.source_labels)?,
        source_namespace,
        gateways,
    })
}

fn merge_labels(outer: &Labels, inner: &Labels) -> Option<Labels> {
    let conflict = outer
        .iter()
        .any(|(key, value)| inner.get(key).is_some_and(|other| other != value));
    let both = outer.iter().chain(inner.iter());
    (!conflict).then(|| {
        both.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_must_lie_within_that_of_the_root() {
        let exact = |text: &str| Some(StringMatch::Exact(text.into()));
        let prefix = |text: &str| Some(StringMatch::Prefix(text.into()));
        let regex = || Some(StringMatch::Regex(".*".into()));
        assert_eq!(within(&prefix("/a"), &prefix("/a/b")), Some(prefix("/a/b")));
        assert_eq!(within(&prefix("/a"), &exact("/ab")), Some(exact("/ab")));
        assert_eq!(within(&None, &regex()), Some(regex()));
        assert_eq!(within(&prefix("/a"), &None), Some(prefix("/a")));
        for (outer, inner) in [
            (prefix("/a"), prefix("/b")),
            (exact("/a"), exact("/b")),
            (exact("/a"), prefix("/a")),
            (prefix("/a"), regex()),
            (regex(), exact("/a")),
        ] {
            assert_eq!(within(&outer, &inner), None, "{outer:?} {inner:?}");
        }
    }
}
