//! Server-side printing: `Table` answers for built-in kinds and for CRDs.
//!
//! Pure: the time is passed in.

mod age;
mod cluster;
mod columns;
mod format;
mod pod;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::jsonpath::JsonPath;
use crate::kinds::Resource;

/// One compiled `additionalPrinterColumns` entry.
#[derive(Debug, Clone)]
pub struct CustomColumn {
    /// The definition as the table shows it (name, type, format, description, priority).
    pub definition: Value,
    /// Its type: `string`, `integer`, `date`, ...
    pub kind: String,
    /// Where the value is.
    pub path: JsonPath,
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
pub fn columns(resource: &Resource) -> Vec<Value> {
    match &resource.custom {
        Some(custom) => {
            let mut out = vec![column("Name", "string", "name", 0)];
            out.extend(custom.columns.iter().map(|c| c.definition.clone()));
            out
        }
        None => columns::of(&resource.group, &resource.kind)
            .iter()
            .map(builtin_column)
            .collect(),
    }
}

fn builtin_column(c: &columns::Column) -> Value {
    let name = c.trim_start_matches(['#', '+', '?']);
    let kind = if c.contains('#') {
        "integer"
    } else if c.contains('?') {
        "boolean"
    } else {
        "string"
    };
    let format = if name == "Name" { "name" } else { "" };
    column(name, kind, format, i32::from(c.contains('+')))
}

fn column(name: &str, kind: &str, format: &str, priority: i32) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority})
}

/// One row.
#[must_use]
pub fn row(resource: &Resource, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells = cells(resource, object, now);
    let included = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_metadata(object),
        IncludeObject::Object => object.clone(),
    };
    json!({"cells": cells, "object": included})
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    if let Some(custom) = &resource.custom {
        let mut out = vec![object["metadata"]["name"].clone()];
        out.extend(custom.columns.iter().map(|c| c.cell(object, now)));
        return out;
    }
    // table: who prints what.
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pod::cells(object, now),
        ("", "ReplicationController") => workload::replica_set(object, now),
        ("apps" | "batch", kind) => workload::cells(kind, object, now),
        ("events.k8s.io", "Event") => {
            let mut core = object.clone();
            crate::kinds::event::to_core(&mut core);
            cluster::event(&core, now)
        }
        _ => cluster::cells(&resource.group, &resource.kind, object, now),
    }
}

impl CustomColumn {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(value) = found.first() else {
            return Value::Null;
        };
        match (self.kind.as_str(), value) {
            (_, Value::Null) => Value::Null,
            ("string", Value::String(_)) => (*value).clone(),
            ("string", other) => Value::String(other.to_string()),
            ("date", Value::String(time)) => Value::String(age::since_text(time, now)),
            ("integer", Value::Number(n)) => {
                #[allow(clippy::cast_possible_truncation)]
                let whole = n.as_i64().or_else(|| n.as_f64().map(|f| f as i64));
                whole.map_or(Value::Null, Value::from)
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
            _ => Value::Null,
        }
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

#[cfg(test)]
mod tests;
