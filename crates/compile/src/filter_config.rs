//! Typed configurations inside `Any`, and filter settings of routes.

use meltemi_proto::any::{TYPE_PREFIX, type_name};
use prost::{Message, Name};

use crate::pb::wkt;
use crate::refusal::{Compiled, refuse};

/// Decodes a configuration whose type the caller has looked at.
pub(crate) fn decode<M: Message + Name + Default>(any: &wkt::Any) -> Compiled<M> {
    if type_name(&any.type_url) != M::full_name() {
        return refuse(format!(
            "expected {TYPE_PREFIX}{}, got {}",
            M::full_name(),
            any.type_url
        ));
    }
    M::decode(&any.value[..]).or_else(|error| refuse(error.to_string()))
}
