//! Changes of headers.

use std::collections::BTreeMap;

use meltemi_model::routing::HeaderOperations;
use meltemi_names::ArcStr;

use crate::pb;
use crate::pb::core::header_value_option::HeaderAppendAction;

/// Changes as Envoy's lists: to set or add, and to remove.
pub(super) fn changes(
    operations: &HeaderOperations,
) -> (Vec<pb::core::HeaderValueOption>, Vec<String>) {
    let set = options(&operations.set, HeaderAppendAction::OverwriteIfExistsOrAdd);
    let add = options(&operations.add, HeaderAppendAction::AppendIfExistsOrAdd);
    let remove = operations
        .remove
        .iter()
        .filter(|name| !is_reserved(name))
        .map(ToString::to_string);
    (set.chain(add).collect(), remove.collect())
}

fn options(
    headers: &BTreeMap<ArcStr, ArcStr>,
    action: HeaderAppendAction,
) -> impl Iterator<Item = pb::core::HeaderValueOption> {
    headers
        .iter()
        .filter(|(name, _)| !is_reserved(name))
        .map(move |(name, value)| pb::core::HeaderValueOption {
            header: Some(pb::core::HeaderValue {
                key: name.to_string(),
                value: value.to_string(),
                ..Default::default()
            }),
            append_action: action.into(),
            ..Default::default()
        })
}

/// The authority that the changes ask for.
pub(super) fn authority(operations: &HeaderOperations) -> Option<&ArcStr> {
    operations
        .set
        .iter()
        .find(|(name, _)| is_authority(name))
        .map(|(_, value)| value)
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// Pseudo headers and the authority are changed by other means.
fn is_reserved(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}
