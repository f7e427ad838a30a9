//! Small values that many kinds use: durations, percentages, string matches, port references.

use meltemi_names::{DurationError, parse_duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::at_most_one;

/// A duration as the user wrote it, such as `1h30m`, `0.5s` or `250ms`.
///
/// The text is kept, because an unreadable duration must not make the rest of the object unreadable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("x-kubernetes-validations" = [{
    "message": "must be a valid duration greater than 1ms",
    "rule": "duration(self) >= duration('1ms')"
}]))]
pub struct Duration(pub String);

impl Duration {
    /// Reads the text; negative durations are refused.
    pub fn parse(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.0)
    }

    /// The duration, or `None` when the text is not one.
    pub fn get(&self) -> Option<std::time::Duration> {
        parse_duration(&self.0).ok()
    }
}

/// A percentage with decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    /// From 0 to 100; the smallest share above zero is 0.0001.
    pub value: f64,
}

/// How a string is compared; at most one form is set, and none means that any value (if present) matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["exact", "prefix", "regex"])))]
pub struct StringMatch {
    /// The whole value, compared byte for byte.
    pub exact: Option<String>,
    /// The beginning of the value.
    pub prefix: Option<String>,
    /// A regular expression (RE2 syntax) for the whole value.
    pub regex: Option<String>,
}

/// The form of a [`StringMatch`] that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringMatchRef<'a> {
    /// The whole value.
    Exact(&'a str),
    /// Its beginning.
    Prefix(&'a str),
    /// A regular expression for the whole value.
    Regex(&'a str),
    /// No form is set.
    Any,
}

impl StringMatch {
    /// The form that is set.
    pub fn form(&self) -> StringMatchRef<'_> {
        if let Some(exact) = &self.exact {
            StringMatchRef::Exact(exact)
        } else if let Some(prefix) = &self.prefix {
            StringMatchRef::Prefix(prefix)
        } else if let Some(regex) = &self.regex {
            StringMatchRef::Regex(regex)
        } else {
            StringMatchRef::Any
        }
    }
}

/// A port of a service, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    /// Port number.
    pub number: u32,
}
