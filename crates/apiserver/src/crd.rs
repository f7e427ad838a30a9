//! CustomResourceDefinitions: defaulting, validation, acceptance, and the [`Resource`]s they add.
//!
//! Pure: it reads the CRD object and the registry, and returns the object to store.

use std::sync::Arc;

use serde_json::Value;

use crate::field::FieldError;
use crate::kinds::{Registry, Resource};
use crate::schema::Schema;

/// What a CRD's version brings beyond its names.
#[derive(Debug)]
pub struct CustomVersion {
    /// The compiled schema.
    pub schema: Schema,
    /// `additionalPrinterColumns`, compiled.
    pub columns: Vec<crate::table::CustomColumn>,
    /// Whether objects are stored in this version.
    pub storage: bool,
    /// JSON path of replicas in spec, where `scale` is served (`.spec.replicas`).
    pub scale: Option<ScalePaths>,
    /// Warning that every request to this version gets, when it is deprecated.
    pub deprecation_warning: Option<String>,
    /// JSON paths usable in field selectors (`.spec.color`).
    pub selectable_fields: Vec<String>,
    /// Name of the version that is stored.
    pub storage_version: String,
}

/// The paths of a CRD's `scale` subresource.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    /// `specReplicasPath`
    pub spec: String,
    /// `statusReplicasPath`
    pub status: String,
    /// `labelSelectorPath`
    pub selector: Option<String>,
}

/// Fills what Kubernetes fills in a CRD: names.singular, listKind, conversion strategy, status.
pub fn default(_crd: &mut Value) {}

/// Checks a CRD; `old` on update.
#[must_use]
pub fn validate(_crd: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}

/// Sets `status` (acceptedNames, conditions NamesAccepted and Established, storedVersions) of a valid CRD,
/// given the names already served. `now` is RFC 3339. Returns whether the CRD is established.
pub fn accept(_crd: &mut Value, _registry: &Registry, _now: &str) -> bool {
    true
}

/// The resources that an established CRD serves, schemas compiled. Versions not served are left out.
#[must_use]
pub fn resources(_crd: &Value) -> Vec<Resource> {
    let _: Option<Arc<CustomVersion>> = None;
    Vec::new()
}
