//! Why a configuration is refused, and where.

use meltemi_proto::json::JsonError;

/// A field that cannot be given effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", prefix(path))]
pub struct Refusal {
    /// Path of the field, as `filter_chains[0].filters[1].typed_config`; empty for the whole resource.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

fn prefix(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

/// Result of compiling something.
pub(crate) type Compiled<T> = Result<T, Refusal>;

/// A refusal of the thing at hand.
pub(crate) fn refuse<T>(reason: impl Into<String>) -> Compiled<T> {
    Err(Refusal {
        path: String::new(),
        reason: reason.into(),
    })
}

/// A refusal of a field of the thing at hand.
pub(crate) fn refuse_field<T>(field: &str, reason: impl Into<String>) -> Compiled<T> {
    Err(Refusal {
        path: field.to_owned(),
        reason: reason.into(),
    })
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        Self {
            path: error.path,
            reason: error.reason,
        }
    }
}

/// Adds the way to a refused field.
pub(crate) trait Within<T> {
    /// The thing is this field.
    fn within(self, field: &str) -> Compiled<T>;
    /// The thing is this element of a list.
    fn item(self, field: &str, position: usize) -> Compiled<T>;
    /// The thing is this entry of a map.
    fn entry(self, field: &str, key: &str) -> Compiled<T>;
}

impl<T, E: Into<Refusal>> Within<T> for Result<T, E> {
    fn within(self, field: &str) -> Compiled<T> {
        self.map_err(|error| {
            let mut refusal = error.into();
            if refusal.path.is_empty() {
                field.clone_into(&mut refusal.path);
            } else if refusal.path.starts_with('[') {
                refusal.path.insert_str(0, field);
            } else {
                refusal.path = format!("{field}.{}", refusal.path);
            }
            refusal
        })
    }

    fn item(self, field: &str, position: usize) -> Compiled<T> {
        self.within(&format!("{field}[{position}]"))
    }

    fn entry(self, field: &str, key: &str) -> Compiled<T> {
        self.within(&format!("{field}[{key}]"))
    }
}

/// Compiles every element of a list.
pub(crate) fn each<'m, M, T>(
    field: &str,
    list: &'m [M],
    compile: impl Fn(&'m M) -> Compiled<T>,
) -> Compiled<Vec<T>> {
    list.iter()
        .enumerate()
        .map(|(position, element)| compile(element).item(field, position))
        .collect()
}
