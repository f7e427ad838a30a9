//! Typed configurations inside `Any`, and filter settings of routes.

use std::borrow::Cow;

use meltemi_proto::any::{TYPE_PREFIX, type_name};
use meltemi_proto::typed_struct;
use prost::{Message, Name};

use crate::coverage;
use crate::pb::wkt;
use crate::refusal::{Compiled, refuse};

/// The configuration itself, when it comes as a typed struct.
pub(crate) fn resolved(any: &wkt::Any) -> Compiled<Cow<'_, wkt::Any>> {
    match typed_struct::resolve(any)? {
        None => Ok(Cow::Borrowed(any)),
        Some(inner) => {
            coverage::check_bytes(type_name(&inner.type_url), &inner.value)?;
            Ok(Cow::Owned(inner))
        }
    }
}

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
