//! Selection and merging of destination rules.

use std::collections::{BTreeMap, HashMap};

use meltemi_names::{ArcStr, Hostname, Labels};

use crate::Shared;
use crate::destination::DestinationRule;
use crate::service::Service;

/// Destination rules by namespace and host, those of one host and audience merged.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    namespaces: HashMap<ArcStr, NamespaceRules, ahash::RandomState>,
}

#[derive(Debug, Default)]
struct NamespaceRules {
    exact: HashMap<Hostname, Vec<Shared<DestinationRule>>, ahash::RandomState>,
    /// The most specific first.
    wildcards: Vec<(Hostname, Vec<Shared<DestinationRule>>)>,
}

/// Who asks for a rule.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The namespace of the proxy.
    pub namespace: &'a str,
    /// The labels of its workload.
    pub labels: &'a Labels,
}

impl RuleIndex {
    pub(crate) fn new<'a>(rules: impl Iterator<Item = &'a Shared<DestinationRule>>) -> Self {
        let mut oldest_first: Vec<&Shared<DestinationRule>> = rules.collect();
        oldest_first.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        let mut by_host: BTreeMap<(ArcStr, Hostname), Vec<Shared<DestinationRule>>> =
            BTreeMap::new();
        for rule in oldest_first {
            merge_into(
                by_host
                    .entry((rule.meta.namespace.clone(), rule.host.clone()))
                    .or_default(),
                rule,
            );
        }
        let mut index = Self::default();
        for ((namespace, host), rules) in by_host {
            let here = index.namespaces.entry(namespace).or_default();
            if host.is_wildcard() {
                here.wildcards.push((host, rules));
            } else {
                here.exact.insert(host, rules);
            }
        }
        for here in index.namespaces.values_mut() {
            here.wildcards.sort_by_key(|(host, _)| host.specificity());
        }
        index
    }

    /// The rule that a client follows towards a service: of its own namespace, else of the service's, else of the
    /// root namespace; never merged across them.
    pub(crate) fn find(
        &self,
        client: Client<'_>,
        service: &Service,
        root: &str,
    ) -> Option<&Shared<DestinationRule>> {
        let own = self.in_namespace(client.namespace, client, &service.host, |rule| {
            if client.namespace == root {
                rule.export_to.is_private_to(root)
            } else {
                rule.export_to.allows(client.namespace)
            }
        });
        let exported = |namespace: &str| {
            self.in_namespace(namespace, client, &service.host, |rule| {
                rule.export_to.allows(client.namespace)
            })
        };
        own.or_else(|| exported(&service.meta.namespace))
            .or_else(|| exported(root))
    }

    fn in_namespace(
        &self,
        namespace: &str,
        client: Client<'_>,
        host: &Hostname,
        visible: impl Fn(&DestinationRule) -> bool,
    ) -> Option<&Shared<DestinationRule>> {
        let here = self.namespaces.get(namespace)?;
        let wildcards = here
            .wildcards
            .iter()
            .filter(|(pattern, _)| host.is_subset_of(pattern))
            .map(|(_, rules)| rules);
        here.exact
            .get(host)
            .into_iter()
            .chain(wildcards)
            .find_map(|rules| {
                let mut candidates = rules.iter().filter(|rule| visible(rule));
                let selected = |rule: &&Shared<DestinationRule>| {
                    rule.workload_selector
                        .as_ref()
                        .is_some_and(|selector| selector.selects(client.labels))
                };
                let for_all = |rule: &&Shared<DestinationRule>| rule.workload_selector.is_none();
                candidates
                    .clone()
                    .find(selected)
                    .or_else(|| candidates.find(for_all))
            })
    }
}

/// Adds a younger rule to those of its host: one with the same audience only fills gaps.
fn merge_into(rules: &mut Vec<Shared<DestinationRule>>, younger: &Shared<DestinationRule>) {
    let same_audience = |rule: &&mut Shared<DestinationRule>| {
        rule.export_to == younger.export_to && rule.workload_selector == younger.workload_selector
    };
    let Some(older) = rules.iter_mut().find(same_audience) else {
        rules.push(younger.clone());
        return;
    };
    let mut merged = DestinationRule::clone(older);
    if merged.policy.is_none() {
        merged.policy.clone_from(&younger.policy);
    }
    for subset in &younger.subsets {
        if merged.subset(&subset.name).is_none() {
            merged.subsets.push(subset.clone());
        }
    }
    *older = Shared::new(merged);
}
