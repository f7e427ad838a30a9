//! `envoy.filters.http.header_mutation`: header changes of the filter, then of the route's levels.

use meltemi_traffic::hcm::{FilterOverride, HeaderMutation};

use crate::stage::{ChangeResponse, Stage};

fn levels<'a>(
    own: &'a HeaderMutation,
    setting: Option<&'a FilterOverride>,
) -> impl Iterator<Item = &'a HeaderMutation> {
    let more = match setting {
        Some(FilterOverride::HeaderMutation(levels)) => levels.as_slice(),
        _ => &[],
    };
    std::iter::once(own).chain(more.iter().map(AsRef::as_ref))
}

/// Changes the request, and leaves the response's changes.
pub(super) fn on_request<S: Stage>(
    own: &HeaderMutation,
    setting: Option<&FilterOverride>,
    stage: &mut S,
) {
    for level in levels(own, setting) {
        stage.change_request(&level.request);
    }
    on_skipped(own, setting, stage);
}

/// Leaves the response's changes.
pub(super) fn on_skipped<S: Stage>(
    own: &HeaderMutation,
    setting: Option<&FilterOverride>,
    stage: &mut S,
) {
    let ops: Vec<_> = levels(own, setting)
        .flat_map(|level| level.response.iter().cloned())
        .collect();
    if !ops.is_empty() {
        stage.on_response(Box::new(ChangeResponse(ops)));
    }
}
