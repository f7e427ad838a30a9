//! Structural schemas of CRDs: pruning, defaulting and validation with Kubernetes' messages.
//!
//! A [`Schema`] is compiled once for a CRD's version; everything else borrows it.

mod check;
mod formats;
mod library;
mod node;
mod prune;
mod rules;
mod values;

use serde_json::Value;

use crate::field::FieldError;
use node::Node;

/// A compiled structural schema.
#[derive(Debug, Default)]
pub struct Schema {
    root: Node,
    has_rules: bool,
}

impl Schema {
    /// Compiles `openAPIV3Schema`. The errors are those of a CRD that is refused (`path` is the schema's place in it).
    ///
    /// # Errors
    /// Every rule that does not compile and every type that is unknown.
    pub fn compile(schema: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        let mut compiler = node::Compiler::default();
        let root = compiler.compile(schema, path, node::Place::Root);
        if compiler.errors.is_empty() {
            Ok(Self {
                root,
                has_rules: compiler.rule_count() > 0,
            })
        } else {
            Err(compiler.errors)
        }
    }

    /// Removes fields the schema does not know and returns their paths (`spec.foo`).
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        prune::prune(&self.root, object, &mut String::new(), true, &mut removed);
        removed
    }

    /// Fills defaults, and drops nulls where a default stands.
    pub fn fill_defaults(&self, object: &mut Value) {
        prune::fill(&self.root, object);
    }

    /// Validates an object; `old` is the stored one on update: transition rules see it, and what did not change is
    /// not checked again (ratcheting).
    #[must_use]
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = check::check(&self.root, object, old);
        if !self.has_rules {
            return errors;
        }
        use crate::field::Reason;
        let blocking = |e: &FieldError| {
            matches!(
                e.reason,
                Reason::Required | Reason::TooLong | Reason::TooMany | Reason::TypeInvalid
            )
        };
        if errors.iter().any(blocking) {
            errors.push(FieldError::invalid(
                "<nil>",
                &Value::from("null"),
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            ));
            return errors;
        }
        rules::evaluate(&self.root, object, old, &mut String::new(), &mut errors);
        errors
    }

    /// How server-side apply merges the list at a place: walks down by field names.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }
}

pub(crate) use node::{List as ListType, Node as SchemaNode};

#[cfg(test)]
mod tests;
