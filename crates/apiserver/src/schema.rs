//! Structural schemas of CRDs: pruning, defaulting and validation with Kubernetes' messages.
//!
//! A [`Schema`] is compiled once for a CRD's version; everything else borrows it.

use serde_json::Value;

use crate::field::FieldError;

/// A compiled structural schema.
#[derive(Debug, Default)]
pub struct Schema {}

impl Schema {
    /// Compiles `openAPIV3Schema`. The errors are those of a CRD that is refused (`path` is the schema's place in it).
    ///
    /// # Errors
    /// Every rule that does not compile and every type that is unknown.
    pub fn compile(_schema: &Value, _path: &str) -> Result<Self, Vec<FieldError>> {
        Ok(Self::default())
    }

    /// Removes fields the schema does not know and returns their paths (`spec.foo`).
    pub fn prune(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// Fills defaults.
    pub fn fill_defaults(&self, _object: &mut Value) {}

    /// Validates an object; `old` is the stored one on update (transition rules and ratcheting use it).
    #[must_use]
    pub fn validate(&self, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }
}
