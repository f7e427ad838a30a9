//! Strict decoding of built-in kinds: types, unknown fields and duplicate fields, with the messages of Go's decoder.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::DecodeError;
use crate::kinds::Resource;
use crate::types::{DefId, Ty, Types};

/// Where the walk is: the path with indices for messages about unknown fields, and Go's view of it.
struct Place {
    path: String,
    go_path: String,
    go_struct: String,
}

/// Checks an object against its kind's types; see [`super::decode`].
pub(super) fn builtin(resource: &Resource, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let root = Types::get().root(&resource.group, &resource.version, &resource.kind);
    root.map_or_else(
        || Ok(Vec::new()),
        |root| run(object, root).map_err(DecodeError),
    )
}

/// Checks only `metadata`, for kinds whose types are not known here (CRDs).
pub(super) fn metadata_only(object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let types = Types::get();
    let metadata = types
        .root("", "v1", "ConfigMap")
        .and_then(|id| types.def(id).field("metadata"))
        .map(|f| &f.ty);
    let (Some(Ty::Ref(id)), Some(value)) = (metadata, object.get_mut("metadata")) else {
        return Ok(Vec::new());
    };
    let mut unknown = Vec::new();
    let mut place = Place {
        path: "metadata".into(),
        go_path: "metadata".into(),
        go_struct: "ObjectMeta".into(),
    };
    structure(value, *id, &mut place, &mut unknown).map_err(DecodeError)?;
    Ok(unknown)
}

fn run(object: &mut Value, root: DefId) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    let mut place = Place {
        path: String::new(),
        go_path: String::new(),
        go_struct: String::new(),
    };
    structure(object, root, &mut place, &mut unknown)?;
    Ok(unknown)
}

fn structure(
    value: &mut Value,
    id: DefId,
    place: &mut Place,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let def = Types::get().def(id);
    if let Some(alias) = &def.alias {
        return walk(value, alias, place, unknown);
    }
    let Value::Object(map) = value else {
        return Err(mismatch(value, def.go_name(), place));
    };
    map.retain(|_, v| !v.is_null());
    let names: Vec<String> = map.keys().cloned().collect();
    for name in names {
        let Some(field) = def.field(&name) else {
            map.shift_remove(&name);
            unknown.push(format!("unknown field {:?}", join(&place.path, &name)));
            continue;
        };
        let Some(child) = map.get_mut(&name) else {
            continue;
        };
        let mut inner = Place {
            path: join(&place.path, &name),
            go_path: join(&place.go_path, &name),
            go_struct: def.short_name().to_owned(),
        };
        walk(child, &field.ty, &mut inner, unknown)?;
    }
    Ok(())
}

fn walk(
    value: &mut Value,
    ty: &Ty,
    place: &mut Place,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    match ty {
        Ty::Any => Ok(()),
        Ty::Ref(id) => structure(value, *id, place, unknown),
        Ty::Object if value.is_object() => Ok(()),
        Ty::Array(item) => list(value, item, place, unknown),
        Ty::Map(item) => {
            let Value::Object(map) = value else {
                return Err(mismatch(value, &go_type(ty), place));
            };
            map.retain(|_, v| !v.is_null());
            for (key, child) in map {
                let mut inner = Place {
                    path: join(&place.path, key),
                    ..place.clone_go()
                };
                walk(child, item, &mut inner, unknown)?;
            }
            Ok(())
        }
        scalar => self::scalar(value, scalar, place),
    }
}

fn list(
    value: &mut Value,
    item: &Ty,
    place: &mut Place,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let Value::Array(items) = value else {
        return Err(mismatch(value, &format!("[]{}", go_type(item)), place));
    };
    for (i, child) in items.iter_mut().enumerate() {
        let mut inner = Place {
            path: format!("{}[{i}]", place.path),
            ..place.clone_go()
        };
        if !child.is_null() {
            walk(child, item, &mut inner, unknown)?;
        }
    }
    Ok(())
}

impl Place {
    fn clone_go(&self) -> Self {
        Self {
            path: String::new(),
            go_path: self.go_path.clone(),
            go_struct: self.go_struct.clone(),
        }
    }
}

fn scalar(value: &mut Value, ty: &Ty, place: &Place) -> Result<(), String> {
    let good = match (ty, &*value) {
        (Ty::String, Value::String(_))
        | (Ty::Bool, Value::Bool(_))
        | (Ty::Number, Value::Number(_)) => true,
        (Ty::IntOrString, Value::String(_)) => true,
        (Ty::IntOrString | Ty::Int32, Value::Number(n)) => {
            n.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
                || whole(n).is_some_and(|n| i32::try_from(n).is_ok())
        }
        (Ty::Int64, Value::Number(n)) => n.is_i64() || whole(n).is_some(),
        (Ty::Quantity, Value::Number(n)) => {
            let text = n.to_string();
            *value = Value::String(text);
            return Ok(());
        }
        (Ty::Quantity, Value::String(s)) => return quantity(s),
        (Ty::Time, Value::String(s)) => return time(s),
        (Ty::Bytes, Value::String(s)) => return bytes(s),
        _ => false,
    };
    if !good {
        return Err(mismatch(value, &go_type(ty), place));
    }
    if let (Ty::Int32 | Ty::Int64 | Ty::IntOrString, Value::Number(n)) = (ty, &*value)
        && !n.is_i64()
        && let Some(n) = whole(n)
    {
        *value = Value::from(n);
    }
    Ok(())
}

/// A float without fraction as an integer (YAML's `1e3`).
fn whole(n: &serde_json::Number) -> Option<i64> {
    let f = n.as_f64()?;
    #[allow(clippy::cast_possible_truncation)]
    (f.fract() == 0.0 && f.abs() < 9e15).then_some(f as i64)
}

fn quantity(text: &str) -> Result<(), String> {
    let digits = text.trim_start_matches(['+', '-']);
    let number = digits
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(number);
    let suffix_good = matches!(
        suffix,
        "" | "n"
            | "u"
            | "m"
            | "k"
            | "M"
            | "G"
            | "T"
            | "P"
            | "E"
            | "Ki"
            | "Mi"
            | "Gi"
            | "Ti"
            | "Pi"
            | "Ei"
    ) || (suffix.starts_with(['e', 'E']) && suffix[1..].parse::<i32>().is_ok());
    let number_good =
        number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
    if number_good && suffix_good {
        return Ok(());
    }
    Err("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned())
}

fn time(text: &str) -> Result<(), String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )),
    }
}

fn bytes(text: &str) -> Result<(), String> {
    use base64::Engine as _;
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => Err(format!("illegal base64 data at input byte {at}")),
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
    }
}

fn join(path: &str, name: &str) -> String {
    crate::field::child(path, name)
}

fn mismatch(value: &Value, go_type: &str, place: &Place) -> String {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) if matches!(go_type, "int32" | "int64") => format!("number {n}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    if place.go_path.is_empty() {
        return format!("json: cannot unmarshal {found} into Go value of type {go_type}");
    }
    format!(
        "json: cannot unmarshal {found} into Go struct field {}.{} of type {go_type}",
        place.go_struct, place.go_path
    )
}

fn go_type(ty: &Ty) -> String {
    match ty {
        Ty::Any => "interface {}".to_owned(),
        Ty::String => "string".to_owned(),
        Ty::Bool => "bool".to_owned(),
        Ty::Int32 => "int32".to_owned(),
        Ty::Int64 => "int64".to_owned(),
        Ty::Number => "float64".to_owned(),
        Ty::Time => "v1.Time".to_owned(),
        Ty::Bytes => "[]uint8".to_owned(),
        Ty::Quantity => "resource.Quantity".to_owned(),
        Ty::IntOrString => "intstr.IntOrString".to_owned(),
        Ty::Object => "map[string]interface {}".to_owned(),
        Ty::Array(item) => format!("[]{}", go_type(item)),
        Ty::Map(item) => format!("map[string]{}", go_type(item)),
        Ty::Ref(id) => Types::get().def(*id).go_name().to_owned(),
    }
}

/// The duplicate keys of a JSON body; see [`super::duplicate_fields`].
pub(super) fn duplicates(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Keys {
        path: String::new(),
        found: &mut found,
    };
    // A body that is not JSON is refused where it is decoded.
    let _ = seed.deserialize(&mut deserializer);
    found
}

/// Walks JSON text and notes keys that come twice in one object.
struct Keys<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Map<String, Value> = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = join(&self.path, &key);
            if seen.insert(key, Value::Null).is_some() {
                let message = format!("duplicate field {path:?}");
                if !self.found.contains(&message) {
                    self.found.push(message);
                }
            }
            map.next_value_seed(Keys {
                path,
                found: &mut *self.found,
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut i = 0;
        while seq
            .next_element_seed(Keys {
                path: format!("{}[{i}]", self.path),
                found: &mut *self.found,
            })?
            .is_some()
        {
            i += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn decode(group: &str, plural: &str, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        let registry = Registry::builtin();
        builtin(registry.find(group, "v1", plural).expect("served"), object)
    }

    #[test]
    fn unknown_fields_are_removed_and_named_with_their_path() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"foo": 1,
            "containers": [{"name": "a", "bar": true}], "nodeSelector": {"any": "key"}}});
        let unknown = decode("", "pods", &mut pod).expect("decodes");
        assert_eq!(
            unknown,
            [
                "unknown field \"spec.foo\"",
                "unknown field \"spec.containers[0].bar\""
            ]
        );
        assert_eq!(
            pod["spec"],
            json!({"containers": [{"name": "a"}], "nodeSelector": {"any": "key"}})
        );
    }

    #[test]
    fn a_wrong_type_reads_like_gos_decoder() {
        let mut deployment = json!({"spec": {"replicas": "two"}});
        let error = decode("apps", "deployments", &mut deployment).expect_err("refused");
        assert_eq!(
            error.0,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let mut pod = json!({"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}});
        let error = decode("", "pods", &mut pod).expect_err("refused");
        assert!(error.0.ends_with("cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"), "{error}");
        let mut map = json!({"metadata": {"labels": {"a": 1}}});
        let error = decode("", "configmaps", &mut map).expect_err("refused");
        assert!(error.0.ends_with("cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"), "{error}");
    }

    #[test]
    fn nulls_count_as_absent() {
        let mut pod = json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {"containers": []}, "status": {}});
        assert!(decode("", "pods", &mut pod).expect("decodes").is_empty());
        assert_eq!(pod["metadata"], json!({"name": "a"}));
    }

    #[test]
    fn quantities_and_base64_are_checked() {
        let mut secret = json!({"data": {"a": "not base64!"}});
        assert!(decode("", "secrets", &mut secret).is_err());
        let mut pod = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "64Mi"}}}]}});
        decode("", "pods", &mut pod).expect("decodes");
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["limits"]["cpu"],
            "1"
        );
        let mut bad = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}});
        assert!(
            decode("", "pods", &mut bad)
                .expect_err("refused")
                .0
                .contains("quantities must match")
        );
    }

    #[test]
    fn duplicate_keys_are_named_once_each() {
        let body = br#"{"spec": {"a": 1, "a": 2, "list": [{"b": 1, "b": 2}]}}"#;
        assert_eq!(
            duplicates(body),
            [
                "duplicate field \"spec.a\"",
                "duplicate field \"spec.list[0].b\""
            ]
        );
    }
}
