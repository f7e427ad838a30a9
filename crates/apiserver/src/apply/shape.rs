//! How a value merges: one view over the table of built-in types and over CRDs' schemas.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kinds::Resource;
use crate::schema::{ListType as CustomList, Schema, SchemaNode};
use crate::types::{ListType, Ty, Types};

/// How a list merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum List {
    Atomic,
    Set,
    Map(Vec<String>),
}

/// The type of a place, as far as merging goes.
#[derive(Debug, Clone)]
pub(super) enum Shape<'a> {
    /// A built-in type; `atomic` where the field is owned as a whole, and how it merges when it is a list.
    Builtin { ty: Ty, list: List, atomic: bool },
    /// A place of a CRD's schema.
    Custom(&'a SchemaNode),
    /// Of a CRD, where the schema says nothing: objects merge, lists do not.
    Open,
}

impl<'a> Shape<'a> {
    /// The shape of a resource's objects.
    pub(super) fn of(resource: &'a Resource) -> Self {
        match &resource.custom {
            Some(custom) => {
                let schema: &Arc<Schema> = &custom.schema;
                Self::Custom(schema.root())
            }
            None => match Types::get().root(&resource.group, &resource.version, &resource.kind) {
                Some(id) => Self::builtin(Ty::Ref(id)),
                None => Self::Open,
            },
        }
    }

    fn builtin(ty: Ty) -> Self {
        let atomic = match &ty {
            Ty::Ref(id) => Types::get().def(*id).atomic,
            Ty::Object | Ty::Any => true,
            _ => false,
        };
        Self::Builtin {
            ty,
            list: List::Atomic,
            atomic,
        }
    }

    /// Whether an object here is owned as a whole.
    pub(super) fn is_atomic(&self) -> bool {
        match self {
            Self::Builtin { atomic, .. } => *atomic,
            Self::Custom(node) => node.atomic_map,
            Self::Open => false,
        }
    }

    /// How a list here merges.
    pub(super) fn list(&self) -> List {
        match self {
            Self::Builtin { list, .. } => list.clone(),
            Self::Custom(node) => match &node.list {
                CustomList::Atomic => List::Atomic,
                CustomList::Set => List::Set,
                CustomList::Map(keys) => List::Map(keys.iter().map(ToString::to_string).collect()),
            },
            Self::Open => List::Atomic,
        }
    }

    /// The shape of a field. `depth` is how deep the object is: a CRD's own metadata is Kubernetes' type.
    pub(super) fn field(&self, name: &str, depth: usize) -> Self {
        match self {
            Self::Builtin {
                ty: Ty::Ref(id), ..
            } => match Types::get().def(*id).field(name) {
                Some(field) => {
                    let mut shape = Self::builtin(field.ty.clone());
                    if let Self::Builtin { list, atomic, .. } = &mut shape {
                        *list = match field.list {
                            ListType::Atomic => List::Atomic,
                            ListType::Set => List::Set,
                            ListType::Map(keys) => {
                                List::Map(keys.iter().map(|k| (*k).to_owned()).collect())
                            }
                        };
                        *atomic |= field.atomic;
                    }
                    shape
                }
                None => Self::Open,
            },
            Self::Builtin {
                ty: Ty::Map(values),
                ..
            } => Self::builtin((**values).clone()),
            Self::Custom(_) if depth == 0 && name == "metadata" => Self::object_meta(),
            Self::Custom(node) => node.field(name).map_or(Self::Open, Self::Custom),
            _ => Self::Open,
        }
    }

    fn object_meta() -> Self {
        let types = Types::get();
        let metadata = types
            .root("", "v1", "ConfigMap")
            .and_then(|id| types.def(id).field("metadata"));
        metadata.map_or(Self::Open, |f| Self::builtin(f.ty.clone()))
    }

    /// The shape of a list's items.
    pub(super) fn item(&self) -> Self {
        match self {
            Self::Builtin {
                ty: Ty::Array(item),
                ..
            } => Self::builtin((**item).clone()),
            Self::Custom(node) => node.items.as_deref().map_or(Self::Open, Self::Custom),
            _ => Self::Open,
        }
    }

    /// The step of a list's item, `None` when it lacks its keys.
    pub(super) fn step(&self, item: &Value) -> Option<String> {
        match self.list() {
            List::Atomic => None,
            List::Set => Some(format!("v:{item}")),
            List::Map(keys) => {
                let mut map = Map::new();
                for key in &keys {
                    let value = item.get(key).cloned().or_else(|| key_default(key));
                    map.insert(key.clone(), value?);
                }
                map.sort_keys();
                Some(format!("k:{}", Value::Object(map)))
            }
        }
    }
}

/// The default of a key field: ports are TCP unless they say otherwise.
fn key_default(key: &str) -> Option<Value> {
    (key == "protocol").then(|| json!("TCP"))
}
