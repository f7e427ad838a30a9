//! The envelope that every object shares: metadata, spec, status, and what a kind is called.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The part of Kubernetes' object metadata that the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name, unique for the kind within its namespace.
    pub name: String,
    /// Prefix from which the API server makes a name, on objects that are not stored yet.
    pub generate_name: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Unique id of this incarnation of the object.
    pub uid: String,
    /// Opaque version for optimistic concurrency.
    pub resource_version: String,
    /// Counts the changes of the spec.
    pub generation: i64,
    /// RFC 3339 in UTC with whole seconds, so that strings sort as times do.
    pub creation_timestamp: Option<String>,
    /// Set while finalizers hold the object.
    pub deletion_timestamp: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl ObjectMeta {
    /// The order in which competing objects win: oldest first, then by name, then by namespace.
    pub fn precedence(&self) -> (&str, &str, &str) {
        (
            self.creation_timestamp.as_deref().unwrap_or_default(),
            &self.name,
            &self.namespace,
        )
    }
}

/// One object of a kind with its envelope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Object<S> {
    /// Names, labels and versions.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the user asks for.
    #[serde(
        default = "S::default",
        bound(deserialize = "S: Default + Deserialize<'de>")
    )]
    pub spec: S,
    /// What the mesh reports, kept as it was read.
    #[serde(default)]
    pub status: Option<Value>,
}

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The object is of another kind.
    #[error("expected kind {expected}, found {found:?}")]
    Kind {
        /// Kind of the Rust type.
        expected: &'static str,
        /// Kind that the object states.
        found: String,
    },
    /// A field does not have the type that the schema asks for.
    #[error("cannot read {kind}: {source}")]
    Field {
        /// Kind of the Rust type.
        kind: &'static str,
        /// What serde found.
        source: serde_json::Error,
    },
}

/// A column of the tables that the API server prints.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// Where the value is.
    pub json_path: &'static str,
    /// OpenAPI type of the value.
    pub kind: &'static str,
    /// What the value tells.
    pub description: &'static str,
}

impl Column {
    /// A column of strings.
    pub const fn new(
        name: &'static str,
        json_path: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            name,
            json_path,
            kind: "string",
            description,
        }
    }
}

/// The column that shows how long an object has existed.
pub const AGE: Column = Column {
    name: "Age",
    json_path: ".metadata.creationTimestamp",
    kind: "date",
    description: "Time since the object was created.",
};

/// A kind: its Rust spec type and the names under which Kubernetes knows it.
pub trait Spec: Clone + Default + JsonSchema + Serialize + DeserializeOwned {
    /// API group.
    const GROUP: &'static str;
    /// Kind.
    const KIND: &'static str;
    /// Plural resource name.
    const PLURAL: &'static str;
    /// Served versions; the first one is stored, unless [`Spec::STORAGE`] says otherwise.
    const VERSIONS: &'static [&'static str];
    /// The version that is stored.
    const STORAGE: &'static str = Self::VERSIONS[0];
    /// Abbreviations for the command line.
    const SHORT_NAMES: &'static [&'static str] = &[];
    /// Columns of tables; none leaves the choice to the API server, which shows the age.
    const COLUMNS: &'static [Column] = &[];
    /// Whether an object without `spec` is refused.
    const SPEC_REQUIRED: bool = false;
}

impl<S: Spec> Object<S> {
    /// Reads an object from JSON; a stated `kind` has to agree, unknown fields are ignored.
    pub fn from_value(value: &Value) -> Result<Self, DecodeError> {
        match value.get("kind").and_then(Value::as_str) {
            Some(kind) if kind != S::KIND => {
                return Err(DecodeError::Kind {
                    expected: S::KIND,
                    found: kind.to_owned(),
                });
            }
            _ => {}
        }
        // A null stands for "not set"; it is dropped only where it is in the way, because free-form parts may hold it.
        Self::deserialize(value)
            .or_else(|_| Self::deserialize(&without_nulls(value)))
            .map_err(|source| DecodeError::Field {
                kind: S::KIND,
                source,
            })
    }

    /// The object as JSON with `apiVersion` and `kind`, without unset fields.
    pub fn to_value(&self) -> Value {
        let api_version = format!("{}/{}", S::GROUP, S::STORAGE);
        let mut object = serde_json::Map::new();
        object.insert("apiVersion".to_owned(), Value::String(api_version));
        object.insert("kind".to_owned(), Value::String(S::KIND.to_owned()));
        for (key, part) in [
            ("metadata", serde_json::to_value(&self.metadata)),
            ("spec", serde_json::to_value(&self.spec)),
            ("status", serde_json::to_value(&self.status)),
        ] {
            let part = part.expect("the types hold only string keys and finite numbers");
            if let Some(part) = without_unset(part) {
                object.insert(key.to_owned(), part);
            }
        }
        Value::Object(object)
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        other => other.clone(),
    }
}

/// Drops nulls, empty strings and empty lists; an empty object is kept, because its presence may mean something.
fn without_unset(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(s) if s.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter()
                .filter_map(|(k, v)| without_unset(v).map(|v| (k, v)))
                .collect(),
        )),
        other => Some(other),
    }
}
