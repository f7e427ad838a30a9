//! Label selectors and field selectors.

use serde_json::Value;

use crate::kinds::Resource;

/// A selector that cannot be parsed or is not supported; the text is the API's message (400).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// A parsed label selector; the default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Parses the query parameter `labelSelector`.
    ///
    /// # Errors
    /// With the position of what was not understood.
    pub fn parse(_text: &str) -> Result<Self, SelectorError> {
        Ok(Self::default())
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`).
    ///
    /// # Errors
    /// On an unknown operator, or values that do not fit it.
    pub fn from_object(_object: &Value) -> Result<Self, SelectorError> {
        Ok(Self::default())
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether `metadata.labels` (an object or null) is selected.
    #[must_use]
    pub fn matches(&self, _labels: &Value) -> bool {
        true
    }
}

/// A parsed field selector; the default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses the query parameter `fieldSelector` and checks that the resource supports its fields.
    ///
    /// # Errors
    /// On bad syntax and on a field label that the resource does not support.
    pub fn parse(_text: &str, _resource: &Resource) -> Result<Self, SelectorError> {
        Ok(Self::default())
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The object's name, where the selector fixes it (`metadata.name=x`): watch and list of one object.
    #[must_use]
    pub fn exact_name(&self) -> Option<&str> {
        None
    }

    /// Whether an object is selected.
    #[must_use]
    pub fn matches(&self, _object: &Value) -> bool {
        true
    }
}
