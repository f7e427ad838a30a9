//! Server-side printing: `Table` answers for built-in kinds and for CRDs.
//!
//! Pure: the time is passed in.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Resource;

/// One compiled `additionalPrinterColumns` entry.
#[derive(Debug, Clone)]
pub struct CustomColumn {
    /// The definition as discovery shows it (name, type, format, description, priority).
    pub definition: Value,
    /// Its type: `string`, `integer`, `date`, ...
    pub kind: String,
    /// Where the value is.
    pub path: String,
}

/// What goes into a row's `object`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata` (the default).
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A whole `meta.k8s.io/v1` Table: of a list (`list_meta` is the list's metadata) or of one object.
#[must_use]
pub fn table<'a>(
    resource: &Resource,
    items: impl IntoIterator<Item = &'a Value>,
    list_meta: &Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = items
        .into_iter()
        .map(|item| row(resource, item, include, now))
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta,
        "columnDefinitions": columns(resource), "rows": rows})
}

/// The column definitions of a resource.
#[must_use]
pub fn columns(_resource: &Resource) -> Vec<Value> {
    vec![
        json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}),
    ]
}

/// One row.
#[must_use]
pub fn row(_resource: &Resource, object: &Value, include: IncludeObject, _now: Timestamp) -> Value {
    let cells = vec![object["metadata"]["name"].clone()];
    match include {
        IncludeObject::None => json!({"cells": cells, "object": null}),
        IncludeObject::Metadata => json!({"cells": cells, "object": partial_metadata(object)}),
        IncludeObject::Object => json!({"cells": cells, "object": object}),
    }
}

/// `PartialObjectMetadata` of an object.
#[must_use]
pub fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// `PartialObjectMetadataList` of objects.
#[must_use]
pub fn partial_metadata_list<'a>(
    items: impl IntoIterator<Item = &'a Value>,
    list_meta: &Value,
) -> Value {
    let items: Vec<Value> = items.into_iter().map(partial_metadata).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "items": items})
}
