//! The compiled form of a schema, and its compiler.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use super::rules::Rule;
use crate::field::{FieldError, child, index};

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// No type given.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Kind {
    /// As messages name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum List {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Items are unique.
    Set,
    /// Items are identified by these keys.
    Map(Box<[Box<str>]>),
}

/// One place of a schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(super) nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub(super) preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub(super) embedded: bool,
    /// `x-kubernetes-map-type: atomic`
    pub(crate) atomic_map: bool,
    /// `additionalProperties: true`
    pub(super) any_values: bool,
    pub(crate) list: List,
    /// Sorted by name.
    pub(super) fields: Box<[(Box<str>, Self)]>,
    /// `additionalProperties`
    pub(crate) values: Option<Box<Self>>,
    pub(crate) items: Option<Box<Self>>,
    pub(super) default: Option<Box<Value>>,
    pub(super) checks: Option<Box<Checks>>,
    pub(super) rules: Box<[Rule]>,
}

/// The value validations of a node.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) required: Vec<Box<str>>,
    pub(super) one_of_values: Vec<Value>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_minimum: bool,
    pub(super) exclusive_maximum: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) pattern: Option<(Box<str>, Arc<Regex>)>,
    pub(super) format: Option<Box<str>>,
    pub(super) all_of: Vec<Node>,
    pub(super) any_of: Vec<Node>,
    pub(super) one_of: Vec<Node>,
    pub(super) not: Option<Box<Node>>,
}

impl Node {
    /// The node of a field: a property, or any key of a map.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        match self.fields.binary_search_by(|(n, _)| n.as_ref().cmp(name)) {
            Ok(i) => Some(&self.fields[i].1),
            Err(_) => self.values.as_deref(),
        }
    }

    /// Whether a name is a declared property (not a key of a map).
    pub(super) fn declares(&self, name: &str) -> bool {
        self.fields
            .binary_search_by(|(n, _)| n.as_ref().cmp(name))
            .is_ok()
    }
}

/// Where a node stands: decides whether it must have a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    Field,
    Item,
    /// Under allOf, anyOf, oneOf or not: only value validations count.
    Junctor,
}

/// Compiles nodes; shares equal patterns and rules.
#[derive(Default)]
pub(super) struct Compiler {
    pub(super) errors: Vec<FieldError>,
    patterns: HashMap<String, Arc<Regex>>,
    programs: HashMap<String, Arc<cel::Program>>,
    rules: usize,
}

impl Compiler {
    /// How many rules were compiled.
    pub(super) fn rule_count(&self) -> usize {
        self.rules
    }

    /// Compiles one schema object.
    pub(super) fn compile(&mut self, schema: &Value, path: &str, place: Place) -> Node {
        let flag = |key: &str| schema[key] == true;
        let mut node = Node {
            kind: self.kind(schema, path, place),
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            atomic_map: schema["x-kubernetes-map-type"] == "atomic",
            any_values: schema["additionalProperties"] == true,
            list: list_type(schema),
            default: schema.get("default").map(|d| Box::new(d.clone())),
            ..Node::default()
        };
        let inner = if place == Place::Junctor {
            Place::Junctor
        } else {
            Place::Field
        };
        let mut fields: Vec<(Box<str>, Node)> = Vec::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{path}.properties[{name}]");
            fields.push((name.as_str().into(), self.compile(property, &at, inner)));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        node.fields = fields.into_boxed_slice();
        if schema["additionalProperties"].is_object() {
            let at = child(path, "additionalProperties");
            node.values = Some(Box::new(self.compile(
                &schema["additionalProperties"],
                &at,
                inner,
            )));
        }
        if schema["items"].is_object() {
            let item = if place == Place::Junctor {
                Place::Junctor
            } else {
                Place::Item
            };
            node.items = Some(Box::new(self.compile(
                &schema["items"],
                &child(path, "items"),
                item,
            )));
        } else if node.kind == Kind::Array && place != Place::Junctor {
            self.errors.push(FieldError::required(
                child(path, "items"),
                "must be specified",
            ));
        }
        node.checks = self.checks(schema, path);
        node.rules = self.rules(schema, path);
        node
    }

    fn kind(&mut self, schema: &Value, path: &str, place: Place) -> Kind {
        if schema["x-kubernetes-int-or-string"] == true {
            return Kind::IntOrString;
        }
        let kind = match schema["type"].as_str() {
            Some("object") => Kind::Object,
            Some("array") => Kind::Array,
            Some("string") => Kind::String,
            Some("integer") => Kind::Integer,
            Some("number") => Kind::Number,
            Some("boolean") => Kind::Boolean,
            Some(_) => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(
                    child(path, "type"),
                    &schema["type"],
                    &known,
                ));
                Kind::Any
            }
            None => Kind::Any,
        };
        let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
        if schema["type"].is_null() && !free {
            let detail = match place {
                Place::Root => Some("must not be empty at the root"),
                Place::Field => Some("must not be empty for specified object fields"),
                Place::Item => Some("must not be empty for specified array items"),
                Place::Junctor => None,
            };
            if let Some(detail) = detail {
                self.errors
                    .push(FieldError::required(child(path, "type"), detail));
            }
        }
        kind
    }

    fn checks(&mut self, schema: &Value, path: &str) -> Option<Box<Checks>> {
        const KEYS: &[&str] = &[
            "required",
            "enum",
            "minimum",
            "maximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "uniqueItems",
            "pattern",
            "format",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        if !KEYS.iter().any(|k| schema.get(k).is_some()) {
            return None;
        }
        let count = |key: &str| schema[key].as_u64();
        let required = schema["required"].as_array().into_iter().flatten();
        let mut checks = Checks {
            required: required.filter_map(Value::as_str).map(Into::into).collect(),
            one_of_values: schema["enum"].as_array().cloned().unwrap_or_default(),
            minimum: schema["minimum"].as_f64(),
            maximum: schema["maximum"].as_f64(),
            exclusive_minimum: schema["exclusiveMinimum"] == true,
            exclusive_maximum: schema["exclusiveMaximum"] == true,
            multiple_of: schema["multipleOf"].as_f64(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: schema["uniqueItems"] == true,
            pattern: self.pattern(schema, path),
            format: schema["format"].as_str().map(Into::into),
            ..Checks::default()
        };
        // x-kubernetes-int-or-string brings its own anyOf of the two types.
        let int_or_string = schema["x-kubernetes-int-or-string"] == true;
        checks.all_of = self.junctor(schema, "allOf", path);
        checks.any_of = if int_or_string {
            Vec::new()
        } else {
            self.junctor(schema, "anyOf", path)
        };
        checks.one_of = self.junctor(schema, "oneOf", path);
        if schema["not"].is_object() {
            checks.not = Some(Box::new(self.compile(
                &schema["not"],
                &child(path, "not"),
                Place::Junctor,
            )));
        }
        Some(Box::new(checks))
    }

    fn junctor(&mut self, schema: &Value, key: &str, path: &str) -> Vec<Node> {
        let at = child(path, key);
        let alternatives = schema[key].as_array().map_or(&[][..], Vec::as_slice);
        alternatives
            .iter()
            .enumerate()
            .map(|(i, s)| self.compile(s, &index(&at, i), Place::Junctor))
            .collect()
    }

    fn pattern(&mut self, schema: &Value, path: &str) -> Option<(Box<str>, Arc<Regex>)> {
        let pattern = schema["pattern"].as_str()?;
        if let Some(regex) = self.patterns.get(pattern) {
            return Some((pattern.into(), Arc::clone(regex)));
        }
        match Regex::new(pattern) {
            Ok(regex) => {
                let regex = Arc::new(regex);
                self.patterns.insert(pattern.to_owned(), Arc::clone(&regex));
                Some((pattern.into(), regex))
            }
            Err(why) => {
                let detail = format!("must be a valid regular expression, but isn't: {why}");
                self.errors.push(FieldError::invalid(
                    child(path, "pattern"),
                    &schema["pattern"],
                    &detail,
                ));
                None
            }
        }
    }

    fn rules(&mut self, schema: &Value, path: &str) -> Box<[Rule]> {
        let list = schema["x-kubernetes-validations"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let mut rules = Vec::with_capacity(list.len());
        for (i, rule) in list.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{i}]");
            match Rule::compile(rule, &at, &mut self.programs) {
                Ok(rule) => rules.push(rule),
                Err(error) => self.errors.push(error),
            }
        }
        self.rules += rules.len();
        rules.into_boxed_slice()
    }
}

fn list_type(schema: &Value) -> List {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => List::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten();
            List::Map(keys.filter_map(Value::as_str).map(Into::into).collect())
        }
        _ => List::Atomic,
    }
}
