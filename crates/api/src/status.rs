//! The status that most kinds share.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A 64-bit number that may be written as a string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntOrString(pub Value);

impl JsonSchema for IntOrString {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true
        })
    }
}

/// What the mesh reports about an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Status {
    /// Named aspects of the object's state.
    pub conditions: Vec<Condition>,
    /// What analysis found wrong with the object.
    pub validation_messages: Vec<ValidationMessage>,
    /// Generation of the spec that this status describes.
    pub observed_generation: Option<IntOrString>,
}

/// One aspect of an object's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Name of the aspect.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When the aspect was looked at last.
    #[schemars(extend("format" = "date-time"))]
    pub last_probe_time: Option<String>,
    /// When `status` changed last.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: Option<String>,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Generation of the spec that this condition describes.
    pub observed_generation: Option<IntOrString>,
}

/// One finding of analysis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ValidationMessage {
    /// Which message it is.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// How serious it is.
    pub level: Level,
    /// Where the message is explained.
    pub documentation_url: String,
}

/// Identity of an analysis message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageType {
    /// Name for people.
    pub name: String,
    /// Stable code, such as `IST0101`.
    pub code: String,
}

/// Seriousness of an analysis message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    /// Not stated.
    #[default]
    Unknown,
    /// The configuration does not work.
    Error,
    /// It works, but probably not as meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// The schema of a `status` that every kind without its own uses.
pub(crate) fn schema() -> Value {
    let mut schema = crate::schema::structural::<Status>();
    if let Some(map) = schema.as_object_mut() {
        map.entry("type").or_insert_with(|| json!("object"));
    }
    schema
}
