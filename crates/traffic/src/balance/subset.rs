//! Subsets: hosts grouped by their `envoy.lb` metadata, and what is used when a request's subset has no hosts.
//!
//! Every subset is a [`Spread`] of its own, so priorities, panic and localities are judged within it, as Envoy does.

use std::fmt::Write as _;

use ahash::AHashMap;

use super::spread::Spread;
use super::state::SpreadState;
use super::{HostFacts, PickContext, PickState, Rules};
use crate::Str;
use crate::cluster::{SelectorFallback, SubsetFallback, Subsets as Settings};
use crate::metadata::{Fields, Value};

/// Criterion that lists alternatives, tried in order.
const FALLBACK_LIST: &str = "fallback_list";
/// Names of spreads that no criteria lead to.
const ANY: &str = "*";
const DEFAULT: &str = "default";
/// Most values of one host for one selector (lists multiply); more are not looked at.
const MAX_COMBINATIONS: usize = 256;

/// The subsets of a cluster.
#[derive(Debug)]
pub(super) struct Subsets {
    settings: Settings,
    by_key: AHashMap<Str, Spread>,
    any: Spread,
    default: Option<Spread>,
}

/// What a selection leads to.
enum Outcome {
    Host(Option<usize>),
    NoSubset,
}

impl Subsets {
    pub(super) fn new(settings: &Settings, rules: Rules<'_>, hosts: &[HostFacts<'_>]) -> Self {
        let mut members: AHashMap<Str, Vec<u32>> = AHashMap::new();
        for (host, position) in hosts.iter().zip(0..) {
            for selector in &settings.selectors {
                for key in keys_of(host, &selector.keys, settings.list_as_any) {
                    let list = members.entry(key.into()).or_default();
                    if list.last() != Some(&position) {
                        list.push(position);
                    }
                }
            }
        }
        let spread = |positions: &[u32]| spread(settings, rules, hosts, positions);
        let by_key = members
            .into_iter()
            .map(|(key, positions)| (key, spread(&positions)))
            .collect();
        let all: Vec<u32> = (0..).take(hosts.len()).collect();
        let default = (settings.fallback == SubsetFallback::Default
            || settings
                .selectors
                .iter()
                .any(|selector| selector.fallback == SelectorFallback::Default))
        .then(|| {
            let chosen = |at: &&u32| {
                has_all(
                    &hosts[**at as usize],
                    &settings.default,
                    settings.list_as_any,
                )
            };
            spread(&all.iter().filter(chosen).copied().collect::<Vec<_>>())
        });
        Self {
            settings: settings.clone(),
            by_key,
            any: spread(&all),
            default,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Picks within the subset that the request's criteria name, or within a fallback.
    pub(super) fn pick(
        &self,
        generation: u64,
        state: &mut PickState,
        context: &mut PickContext<'_>,
    ) -> Option<usize> {
        let criteria = context.criteria;
        let alternatives = criteria
            .iter()
            .find(|(key, _)| key == FALLBACK_LIST)
            .filter(|_| self.settings.fallback_list);
        let mut pick = |spread: &Spread, name: &str, state: &mut PickState| {
            let positions = state_of(state, name);
            positions.renew(generation);
            spread.pick(positions, context)
        };
        let Some((_, Value::List(alternatives))) = alternatives else {
            return self.iterate(criteria, state, &mut pick);
        };
        let given = criteria.iter().filter(|(key, _)| key != FALLBACK_LIST);
        let given: Vec<(Str, Value)> = given.cloned().collect();
        if alternatives.is_empty() {
            return self.iterate(&given, state, &mut pick);
        }
        alternatives.iter().find_map(|alternative| {
            let merged = merge(&given, alternative.as_struct()?);
            self.iterate(&merged, state, &mut pick)
        })
    }

    fn iterate(
        &self,
        criteria: &[(Str, Value)],
        state: &mut PickState,
        pick: &mut dyn FnMut(&Spread, &str, &mut PickState) -> Option<usize>,
    ) -> Option<usize> {
        if let Outcome::Host(host) = self.by_criteria(criteria, state, pick) {
            return host;
        }
        let fallback = match self.settings.fallback {
            SubsetFallback::None => None,
            SubsetFallback::Any => Some((&self.any, ANY)),
            SubsetFallback::Default => self.default.as_ref().map(|spread| (spread, DEFAULT)),
        };
        let found = fallback.and_then(|(spread, name)| pick(spread, name, state));
        if found.is_none() && fallback.is_some() && self.settings.panic_mode_any {
            return pick(&self.any, ANY, state);
        }
        found
    }

    fn by_criteria(
        &self,
        criteria: &[(Str, Value)],
        state: &mut PickState,
        pick: &mut dyn FnMut(&Spread, &str, &mut PickState) -> Option<usize>,
    ) -> Outcome {
        if criteria.is_empty() {
            return Outcome::NoSubset;
        }
        let Some(selector) = self.settings.selectors.iter().find(|selector| {
            let names = criteria.iter().map(|(name, _)| name);
            if self.settings.allow_redundant_keys {
                selector
                    .keys
                    .iter()
                    .all(|key| names.clone().any(|name| name == key))
            } else {
                selector.keys.iter().eq(names)
            }
        }) else {
            return Outcome::NoSubset;
        };
        let wanted = criteria
            .iter()
            .filter(|(name, _)| selector.keys.contains(name));
        let key = key_of(wanted.map(|(name, value)| (name, value)));
        if let Some(spread) = self.by_key.get(key.as_str())
            && spread.has_hosts()
        {
            return Outcome::Host(pick(spread, &key, state));
        }
        Outcome::Host(match &selector.fallback {
            SelectorFallback::NotDefined => return Outcome::NoSubset,
            SelectorFallback::None => None,
            SelectorFallback::Any => pick(&self.any, ANY, state),
            SelectorFallback::Default => self
                .default
                .as_ref()
                .and_then(|spread| pick(spread, DEFAULT, state)),
            SelectorFallback::Keys(keys) => {
                let fewer = criteria.iter().filter(|(name, _)| keys.contains(name));
                let fewer: Vec<(Str, Value)> = fewer.cloned().collect();
                // The keys are a proper part of the selector's, so this ends.
                return if fewer.len() < criteria.len() {
                    Outcome::Host(self.iterate(&fewer, state, pick))
                } else {
                    Outcome::NoSubset
                };
            }
        })
    }
}

fn state_of<'s>(state: &'s mut PickState, name: &str) -> &'s mut SpreadState {
    if !state.subsets.contains_key(name) {
        state
            .subsets
            .insert(Str::from(name), SpreadState::default());
    }
    state.subsets.entry(Str::from(name)).or_default()
}

fn spread(
    settings: &Settings,
    rules: Rules<'_>,
    hosts: &[HostFacts<'_>],
    positions: &[u32],
) -> Spread {
    if settings.locality_weight_aware && !settings.scale_locality_weight {
        return Spread::new(rules, hosts, positions);
    }
    let mut facts = hosts.to_vec();
    for host in &mut facts {
        host.locality_weight = None;
    }
    if settings.locality_weight_aware {
        scale_localities(hosts, positions, &mut facts);
    }
    Spread::new(rules, &facts, positions)
}

/// A locality's weight counts as far as its hosts are in the subset.
fn scale_localities(hosts: &[HostFacts<'_>], positions: &[u32], facts: &mut [HostFacts<'_>]) {
    for at in positions {
        let host = &hosts[*at as usize];
        let same = |other: &HostFacts<'_>| {
            other.locality == host.locality && other.priority == host.priority
        };
        let whole = hosts.iter().filter(|other| same(other)).count();
        let part = positions
            .iter()
            .filter(|other| same(&hosts[**other as usize]))
            .count();
        let scaled = host.locality_weight.map(|weight| {
            let scaled = (f64::from(weight) * part as f64 / whole.max(1) as f64).round();
            // Never more than the weight it was made from, and never negative.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let scaled = scaled as u32;
            scaled.max(u32::from(weight > 0))
        });
        facts[*at as usize].locality_weight = scaled;
    }
}

fn load_metadata<'h>(host: &HostFacts<'h>) -> Option<&'h Fields> {
    host.metadata.namespaces.get("envoy.lb")?.as_struct()
}

/// Whether a host has all these values.
fn has_all(host: &HostFacts<'_>, wanted: &[(Str, Value)], list_as_any: bool) -> bool {
    wanted.iter().all(|(key, value)| {
        let have = load_metadata(host).and_then(|fields| fields.get(key));
        have.is_some_and(|have| match have {
            Value::List(list) if list_as_any => list.contains(value),
            have => have == value,
        })
    })
}

/// Keys of the subsets that a host belongs to by one selector: several where a value is a list of alternatives.
fn keys_of(host: &HostFacts<'_>, names: &[Str], list_as_any: bool) -> Vec<String> {
    let Some(fields) = load_metadata(host) else {
        return Vec::new();
    };
    let mut found: Vec<Vec<(&Str, &Value)>> = vec![Vec::new()];
    for name in names {
        let Some(value) = fields.get(name) else {
            return Vec::new();
        };
        let values: Vec<&Value> = match value {
            Value::List(list) if list_as_any => list.iter().collect(),
            value => vec![value],
        };
        found = found
            .iter()
            .flat_map(|before| {
                values.iter().map(move |value| {
                    let mut more = before.clone();
                    more.push((name, *value));
                    more
                })
            })
            .take(MAX_COMBINATIONS)
            .collect();
    }
    found
        .into_iter()
        .map(|pairs| key_of(pairs.into_iter()))
        .collect()
}

/// Text that is the same for the same names and values.
fn key_of<'v>(pairs: impl Iterator<Item = (&'v Str, &'v Value)>) -> String {
    let mut key = String::new();
    for (name, value) in pairs {
        // Debug text quotes strings, so no value can look like two.
        let _ = write!(key, "{name:?}={value:?};");
    }
    key
}

fn merge(given: &[(Str, Value)], over: &Fields) -> Vec<(Str, Value)> {
    let kept = given.iter().filter(|(key, _)| over.get(key).is_none());
    let added = over.iter().map(|(key, value)| (key.clone(), value.clone()));
    let mut merged: Vec<(Str, Value)> = kept.cloned().chain(added).collect();
    merged.sort_by(|(a, _), (b, _)| a.cmp(b));
    merged
}
