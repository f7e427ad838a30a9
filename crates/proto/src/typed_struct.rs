//! `TypedStruct`: a configuration as JSON-like fields beside the name of its type, as people write it in `EnvoyFilter`.

use prost::Message;

use crate::any::{TYPE_PREFIX, type_name};
use crate::google::protobuf::{Any, Struct};
use crate::json::{JsonError, from_wire, to_wire};

/// `udpa.type.v1.TypedStruct` and `xds.type.v3.TypedStruct`, which are equal on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    /// Type of the configuration.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its fields.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

const NAMES: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// The configuration inside a typed struct, as a message of its own type; `None` when `any` is none.
///
/// # Errors
/// When the fields do not fit the type.
pub fn resolve(any: &Any) -> Result<Option<Any>, JsonError> {
    if !NAMES.contains(&type_name(&any.type_url)) {
        return Ok(None);
    }
    let typed = TypedStruct::decode(&any.value[..]).map_err(|e| JsonError::new(e.to_string()))?;
    let fields = typed.value.unwrap_or_default().encode_to_vec();
    let json = from_wire("google.protobuf.Struct", &fields, false);
    let name = type_name(&typed.type_url);
    let value = to_wire(name, &json).map_err(|e| e.below("value"))?;
    Ok(Some(Any {
        type_url: format!("{TYPE_PREFIX}{name}"),
        value,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::to_wire;

    fn typed(value: serde_json::Value) -> Any {
        let json = json!({
            "type_url": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
            "value": value
        });
        let value = to_wire("udpa.type.v1.TypedStruct", &json).unwrap();
        Any {
            type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".to_owned(),
            value,
        }
    }

    #[test]
    fn a_typed_struct_becomes_a_message_of_its_type() {
        use crate::envoy::extensions::filters::http::buffer::v3::Buffer;
        let resolved = resolve(&typed(json!({ "max_request_bytes": 7 })))
            .unwrap()
            .unwrap();
        let buffer = crate::any::unpack::<Buffer>(&resolved).unwrap().unwrap();
        assert_eq!(buffer.max_request_bytes.unwrap().value, 7);
        assert_eq!(resolve(&resolved), Ok(None));
    }

    #[test]
    fn fields_that_do_not_fit_are_refused() {
        let error = resolve(&typed(json!({ "nope": 1 }))).unwrap_err();
        assert_eq!(error.path, "value.nope");
    }
}
