//! Objects as users write them, brought to the model's neutral form.
//!
//! Names are resolved here, once: short hosts to full ones, gateways to namespace and name, durations to numbers.

pub(crate) mod destination_rule;
pub(crate) mod gateway;
pub(crate) mod kubernetes;
pub(crate) mod peer_authentication;
pub(crate) mod virtual_service;

use std::collections::BTreeMap;

use meltemi_api::meta::ObjectMeta;
use meltemi_names::{ArcStr, Labels};

use crate::meta::Meta;

/// Why an object cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A field has the wrong type.
    #[error("the object cannot be read")]
    Shape {
        /// What was found.
        #[source]
        source: serde_json::Error,
    },
    /// An Istio object has the wrong form.
    #[error("the object cannot be read")]
    Decode {
        /// What was found.
        #[from]
        source: meltemi_api::DecodeError,
    },
    /// A field has a value without meaning.
    #[error("{field}: {problem}")]
    Value {
        /// The path of the field.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

impl ConvertError {
    pub(crate) fn value(field: impl Into<String>, problem: impl ToString) -> Self {
        Self::Value {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

/// What conversion needs to know beside the object.
pub(crate) struct Context<'a> {
    pub(crate) mesh: &'a crate::MeshConfig,
}

/// A percentage in millionths, rounded and bounded.
pub(crate) fn millionths(percent: f64) -> u32 {
    // In range by the clamp; a NaN becomes zero.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let share = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    share
}

fn meta_of(meta: &ObjectMeta) -> Meta {
    Meta {
        name: meta.name.as_str().into(),
        namespace: meta.namespace.as_str().into(),
        created: meta
            .creation_timestamp
            .as_deref()
            .unwrap_or_default()
            .into(),
    }
}

fn labels_of(map: &BTreeMap<String, String>) -> Labels {
    map.iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

fn texts(list: &[String]) -> Vec<ArcStr> {
    list.iter().map(|text| text.as_str().into()).collect()
}

fn duration(
    field: &str,
    written: Option<&meltemi_api::Duration>,
) -> Result<Option<std::time::Duration>, ConvertError> {
    written
        .filter(|duration| !duration.0.is_empty())
        .map(|duration| {
            duration
                .parse()
                .map_err(|error| ConvertError::value(field, error))
        })
        .transpose()
}

fn port(field: &str, number: u32) -> Result<u16, ConvertError> {
    u16::try_from(number).map_err(|_| ConvertError::value(field, format!("{number} is not a port")))
}

/// Counts for which the API uses zero or a negative number as "not set".
fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}
