//! A compact table of the built-in types: fields, their types, and how lists merge.
//!
//! Built once, on first use, from the generated JSON schemas; decoding, strategic merge patch and server-side apply
//! walk it. It knows nothing of CRDs (their schemas are in [`crate::schema`]).

#[cfg(test)]
pub(crate) mod arbitrary;
mod facts;
pub(crate) mod roots;

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

/// Index of a definition.
pub(crate) type DefId = usize;

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ty {
    /// Anything.
    Any,
    String,
    Bool,
    Int32,
    Int64,
    Number,
    /// RFC 3339 time.
    Time,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    /// An object of unknown fields.
    Object,
    Array(Box<Self>),
    Map(Box<Self>),
    Ref(DefId),
}

/// How a list is owned and merged by server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListType {
    Atomic,
    Set,
    /// Items are identified by these fields.
    Map(&'static [&'static str]),
}

/// A field of a definition.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) ty: Ty,
    pub(crate) list: ListType,
    /// Merge key of strategic merge patch, for lists of objects that merge.
    pub(crate) merge_key: Option<&'static str>,
    /// Whether strategic merge patch merges the list (else it replaces it).
    pub(crate) merge: bool,
    /// Whether the patch strategy is `replace` for an object.
    pub(crate) replace: bool,
    /// Whether the map is owned as a whole.
    pub(crate) atomic: bool,
}

/// A named type.
#[derive(Debug)]
pub(crate) struct Def {
    /// Full name: `io.k8s.api.core.v1.PodSpec`.
    pub(crate) name: Box<str>,
    /// Fields, sorted by name. Empty for definitions that are not structs.
    fields: Vec<(Box<str>, Field)>,
    /// What it is, where it is not a struct.
    pub(crate) alias: Option<Ty>,
    /// Whether the object is owned as a whole.
    pub(crate) atomic: bool,
}

impl Def {
    /// A field by its JSON name.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|(n, _)| n.as_ref().cmp(name))
            .ok()
            .map(|i| &self.fields[i].1)
    }

    /// The type's Go name with its package, as messages of the decoder have it: `v1.PodSpec`.
    pub(crate) fn go_name(&self) -> &str {
        let start = self
            .name
            .rmatch_indices('.')
            .nth(1)
            .map_or(0, |(i, _)| i + 1);
        &self.name[start..]
    }

    /// The type's bare name: `PodSpec`.
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// All built-in types.
#[derive(Debug)]
pub(crate) struct Types {
    defs: Vec<Def>,
    roots: HashMap<(&'static str, &'static str, &'static str), DefId>,
}

impl Types {
    /// The table, built on first use.
    pub(crate) fn get() -> &'static Self {
        static TYPES: OnceLock<Types> = OnceLock::new();
        TYPES.get_or_init(Self::build)
    }

    /// A definition.
    pub(crate) fn def(&self, id: DefId) -> &Def {
        &self.defs[id]
    }

    /// The definition of a kind.
    pub(crate) fn root(&self, group: &str, version: &str, kind: &str) -> Option<DefId> {
        self.roots
            .iter()
            .find(|((g, v, k), _)| *k == kind && *g == group && *v == version)
            .map(|(_, id)| *id)
    }

    fn build() -> Self {
        let (roots, definitions) = roots::generate(|_, _, _| true);
        let ids: HashMap<&str, DefId> = definitions
            .keys()
            .enumerate()
            .map(|(i, name)| (name.as_str(), i))
            .collect();
        let facts = Facts::parse();
        let defs = definitions
            .iter()
            .map(|(name, schema)| build_def(name, schema, &ids, &facts))
            .collect();
        let roots = roots
            .iter()
            .filter_map(|r| {
                Some((
                    (r.group, r.version, r.kind),
                    *ids.get(r.definition.as_str())?,
                ))
            })
            .collect();
        Self { defs, roots }
    }
}

/// One parsed row of [`facts::LISTS`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListFact {
    pub(crate) list: Option<&'static str>,
    pub(crate) keys: &'static [&'static str],
    pub(crate) merge_key: Option<&'static str>,
    pub(crate) strategy: Option<&'static str>,
}

/// The parsed fact tables.
pub(crate) struct Facts {
    lists: HashMap<(&'static str, &'static str), ListFact>,
}

impl Facts {
    /// Parses the tables; they are constants, so a bad row is a bug that the tests find.
    pub(crate) fn parse() -> Self {
        let mut lists = HashMap::with_capacity(facts::LISTS.len());
        for row in facts::LISTS {
            let mut words = row.split(' ').map(|w| (w != "-").then_some(w));
            let mut next = || words.next().flatten();
            let (Some(def), Some(field)) = (next(), next()) else {
                continue;
            };
            let (list, keys) = (next(), next());
            let fact = ListFact {
                list,
                keys: keys.map_or(&[], known_keys),
                merge_key: next(),
                strategy: next(),
            };
            lists.insert((def, field), fact);
        }
        Self { lists }
    }

    /// The row of a field.
    pub(crate) fn list(&self, def: &str, field: &str) -> Option<ListFact> {
        let def = def.strip_prefix("io.k8s.").unwrap_or(def);
        self.lists.get(&(def, field)).copied()
    }

    /// Whether a definition (empty field) or a field is an atomic map.
    pub(crate) fn atomic_map(&self, def: &str, field: &str) -> bool {
        let def = def.strip_prefix("io.k8s.").unwrap_or(def);
        facts::ATOMIC_MAPS.contains(&(def, field))
    }
}

// table: the key lists that occur.
fn known_keys(keys: &str) -> &'static [&'static str] {
    match keys {
        "name" => &["name"],
        "type" => &["type"],
        "ip" => &["ip"],
        "uid" => &["uid"],
        "rule" => &["rule"],
        "devicePath" => &["devicePath"],
        "mountPath" => &["mountPath"],
        "resourceID" => &["resourceID"],
        "containerPort,protocol" => &["containerPort", "protocol"],
        "port,protocol" => &["port", "protocol"],
        "topologyKey,whenUnsatisfiable" => &["topologyKey", "whenUnsatisfiable"],
        _ => &[],
    }
}

fn build_def(name: &str, schema: &Value, ids: &HashMap<&str, DefId>, facts: &Facts) -> Def {
    let mut fields: Vec<(Box<str>, Field)> = Vec::new();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (field_name, property) in properties {
            let field = build_field(name, field_name, property, ids, facts);
            fields.push((field_name.as_str().into(), field));
        }
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let alias = if fields.is_empty() {
        Some(alias_type(name, schema, ids))
    } else {
        None
    };
    Def {
        name: name.into(),
        fields,
        alias,
        atomic: facts.atomic_map(name, ""),
    }
}

fn build_field(
    def: &str,
    name: &str,
    property: &Value,
    ids: &HashMap<&str, DefId>,
    facts: &Facts,
) -> Field {
    let fact = facts.list(def, name);
    let strategy = fact.and_then(|f| f.strategy).unwrap_or("");
    Field {
        ty: value_type(property, ids),
        list: match fact {
            Some(f) if f.list == Some("map") => ListType::Map(f.keys),
            Some(f) if f.list == Some("set") => ListType::Set,
            _ => ListType::Atomic,
        },
        merge_key: fact.and_then(|f| f.merge_key),
        merge: strategy.split(',').any(|s| s == "merge"),
        replace: strategy == "replace",
        atomic: facts.atomic_map(def, name),
    }
}

/// What a definition without properties is.
fn alias_type(name: &str, schema: &Value, ids: &HashMap<&str, DefId>) -> Ty {
    if name.ends_with(".resource.Quantity") {
        Ty::Quantity
    } else if name.ends_with(".v1.JSON") {
        Ty::Any
    } else {
        value_type(schema, ids)
    }
}

fn value_type(schema: &Value, ids: &HashMap<&str, DefId>) -> Ty {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or("");
        return ids.get(name).map_or(Ty::Any, |id| Ty::Ref(*id));
    }
    if let Some(single) = schema
        .get("allOf")
        .and_then(Value::as_array)
        .and_then(|a| a.first())
    {
        return value_type(single, ids);
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Ty::IntOrString;
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
    match schema.get("type").and_then(Value::as_str) {
        Some("string") if format == "byte" => Ty::Bytes,
        Some("string") if format == "date-time" => Ty::Time,
        Some("string") => Ty::String,
        Some("boolean") => Ty::Bool,
        Some("integer") if format == "int64" => Ty::Int64,
        Some("integer") => Ty::Int32,
        Some("number") => Ty::Number,
        Some("array") => Ty::Array(Box::new(
            schema.get("items").map_or(Ty::Any, |i| value_type(i, ids)),
        )),
        Some("object") => match schema.get("additionalProperties") {
            Some(values) if values.is_object() => Ty::Map(Box::new(value_type(values, ids))),
            _ => Ty::Object,
        },
        _ => Ty::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_built_in_kind_has_a_type() {
        let types = Types::get();
        for resource in crate::kinds::Registry::builtin().iter() {
            assert!(
                types
                    .root(&resource.group, &resource.version, &resource.kind)
                    .is_some(),
                "{} has no type",
                resource.kind
            );
        }
    }

    #[test]
    fn containers_merge_by_name_and_ports_are_keyed_by_port_and_protocol() {
        let types = Types::get();
        let pod = types.def(types.root("", "v1", "Pod").expect("known"));
        let Ty::Ref(spec) = pod.field("spec").expect("spec").ty else {
            panic!("spec is a struct")
        };
        let containers = types.def(spec).field("containers").expect("containers");
        assert_eq!(containers.merge_key, Some("name"));
        let Ty::Array(item) = &containers.ty else {
            panic!("a list")
        };
        let Ty::Ref(container) = **item else {
            panic!("of structs")
        };
        let ports = types.def(container).field("ports").expect("ports");
        assert_eq!(ports.list, ListType::Map(&["containerPort", "protocol"]));
        assert_eq!(types.def(container).go_name(), "v1.Container");
    }

    #[test]
    fn every_fact_names_a_field_that_exists() {
        let types = Types::get();
        for row in facts::LISTS {
            let mut words = row.split(' ');
            let (def, field) = (words.next().expect("def"), words.next().expect("field"));
            let known = types
                .defs
                .iter()
                .find(|d| d.name.strip_prefix("io.k8s.") == Some(def));
            assert!(known.is_some_and(|d| d.field(field).is_some()), "{row}");
        }
    }
}
