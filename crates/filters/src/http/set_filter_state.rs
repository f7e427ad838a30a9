//! `envoy.filters.http.set_filter_state`: formatted values under names that rules, hashes and logs read.

use meltemi_traffic::Str;
use meltemi_traffic::access::{Heads, StreamInfo};
use meltemi_traffic::hcm::FilterStateValue;

use crate::stage::Stage;

/// Sets the values.
pub(super) fn on_request<S: Stage>(values: &[FilterStateValue], stage: &mut S) {
    for value in values {
        let heads = Heads {
            request: Some(stage.request()),
            ..Heads::default()
        };
        if let Some(text) = rendered(value, &stage.info(), heads) {
            put(stage.filter_state(), value.key.clone(), text);
        }
    }
}

/// The text of a value; `None` when it is not to be stored.
pub(crate) fn rendered(
    value: &FilterStateValue,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
) -> Option<Str> {
    let mut text = Vec::new();
    value.value.render(info, heads, "-", &mut text);
    let text = Str::from(String::from_utf8_lossy(&text).as_ref());
    (!(value.skip_if_empty && (text.is_empty() || text == "-"))).then_some(text)
}

/// Adds or replaces a value.
pub(crate) fn put(state: &mut Vec<(Str, Str)>, key: Str, value: Str) {
    match state.iter_mut().find(|(have, _)| *have == key) {
        Some((_, present)) => *present = value,
        None => state.push((key, value)),
    }
}
