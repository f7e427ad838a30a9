//! Subset balancing, in both of its forms.

use std::collections::HashMap;

use meltemi_proto::envoy::extensions::load_balancing_policies::subset::v3 as extension;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{SelectorFallback, SubsetFallback, SubsetSelector, Subsets};
use meltemi_traffic::metadata::Value;

use crate::pb::{cluster as pb, wkt};
use crate::refusal::{Compiled, Within, refuse_field};
use crate::values::{strs, value_of, word};

/// `Cluster.lb_subset_config`; `None` when it has no selectors, which switches it off.
pub(super) fn of_cluster(message: &pb::cluster::LbSubsetConfig) -> Compiled<Option<Subsets>> {
    use pb::cluster::lb_subset_config::{
        LbSubsetFallbackPolicy as Fallback, LbSubsetMetadataFallbackPolicy as ByMetadata,
    };
    if message.subset_selectors.is_empty() {
        return Ok(None);
    }
    let mut selectors = Vec::new();
    for (position, selector) in message.subset_selectors.iter().enumerate() {
        if selector.single_host_per_subset {
            return refuse_field("single_host_per_subset", "not supported")
                .item("subset_selectors", position);
        }
        selectors.push(
            self::selector(
                &selector.keys,
                selector.fallback_policy,
                &selector.fallback_keys_subset,
            )
            .item("subset_selectors", position)?,
        );
    }
    Ok(Some(Subsets {
        fallback: match message.fallback_policy() {
            Fallback::NoFallback => SubsetFallback::None,
            Fallback::AnyEndpoint => SubsetFallback::Any,
            Fallback::DefaultSubset => SubsetFallback::Default,
        },
        default: default_subset(message.default_subset.as_ref()),
        selectors,
        locality_weight_aware: message.locality_weight_aware,
        scale_locality_weight: scale(message.locality_weight_aware, message.scale_locality_weight)?,
        panic_mode_any: message.panic_mode_any,
        list_as_any: message.list_as_any,
        fallback_list: message.metadata_fallback_policy() == ByMetadata::FallbackList,
        allow_redundant_keys: false,
    }))
}

/// The policy extension.
pub(super) fn of_extension(message: &extension::Subset) -> Compiled<Option<Subsets>> {
    use extension::subset::{
        LbSubsetFallbackPolicy as Fallback, LbSubsetMetadataFallbackPolicy as ByMetadata,
    };
    let mut selectors = Vec::new();
    for (position, selector) in message.subset_selectors.iter().enumerate() {
        if selector.single_host_per_subset {
            return refuse_field("single_host_per_subset", "not supported")
                .item("subset_selectors", position);
        }
        selectors.push(
            self::selector(
                &selector.keys,
                selector.fallback_policy,
                &selector.fallback_keys_subset,
            )
            .item("subset_selectors", position)?,
        );
    }
    Ok(Some(Subsets {
        fallback: match message.fallback_policy() {
            Fallback::NoFallback => SubsetFallback::None,
            Fallback::AnyEndpoint => SubsetFallback::Any,
            Fallback::DefaultSubset => SubsetFallback::Default,
        },
        default: default_subset(message.default_subset.as_ref()),
        selectors,
        locality_weight_aware: message.locality_weight_aware,
        scale_locality_weight: scale(message.locality_weight_aware, message.scale_locality_weight)?,
        panic_mode_any: message.panic_mode_any,
        list_as_any: message.list_as_any,
        fallback_list: message.metadata_fallback_policy() == ByMetadata::FallbackList,
        allow_redundant_keys: message.allow_redundant_keys,
    }))
}

fn scale(aware: bool, scale: bool) -> Compiled<bool> {
    if scale && !aware {
        return refuse_field("scale_locality_weight", "needs locality_weight_aware");
    }
    Ok(scale)
}

/// Both forms number the fallbacks alike.
fn selector(keys: &[String], fallback: i32, fewer: &[String]) -> Compiled<SubsetSelector> {
    use pb::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as By;
    let sorted = |list: &[String]| {
        let mut list = strs(list);
        list.sort_unstable();
        list.dedup();
        list
    };
    let keys = sorted(keys);
    let fallback = match By::try_from(fallback) {
        Ok(By::NotDefined) => SelectorFallback::NotDefined,
        Ok(By::NoFallback) => SelectorFallback::None,
        Ok(By::AnyEndpoint) => SelectorFallback::Any,
        Ok(By::DefaultSubset) => SelectorFallback::Default,
        Ok(By::KeysSubset) => {
            let fewer = sorted(fewer);
            let part = !fewer.is_empty()
                && fewer.len() < keys.len()
                && fewer.iter().all(|key| keys.contains(key));
            if !part {
                return refuse_field(
                    "fallback_keys_subset",
                    "must be some of the selector's keys, but not all",
                );
            }
            SelectorFallback::Keys(fewer)
        }
        Err(_) => return refuse_field("fallback_policy", "is unknown"),
    };
    Ok(SubsetSelector { keys, fallback })
}

fn default_subset(message: Option<&wkt::Struct>) -> Vec<(Str, Value)> {
    message.map_or_else(Vec::new, |message| pairs(&message.fields))
}

/// Names and values, sorted by name.
fn pairs(fields: &HashMap<String, wkt::Value>) -> Vec<(Str, Value)> {
    let mut pairs: Vec<(Str, Value)> = fields
        .iter()
        .map(|(name, value)| (word(name), value_of(value)))
        .collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    pairs
}
