//! CRDs on their way into the store: names are judged, and the clean-up finalizer is set.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::state::Api;

/// Held by a CRD until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Sets the status of a valid CRD. The caller holds the definitions lock until it is stored.
pub(crate) fn accept(api: &Api, definition: &mut Value) {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    crate::crd::accept(definition, &api.registry(), &now);
    if !definition["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    match definition["metadata"]["finalizers"].as_array_mut() {
        Some(list) if list.iter().any(|f| f == CLEANUP) => {}
        Some(list) => list.push(json!(CLEANUP)),
        None => definition["metadata"]["finalizers"] = json!([CLEANUP]),
    }
}
