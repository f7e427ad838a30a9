//! Small values that many kinds use: durations, percentages, string matches, port references.

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

/// The text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write for example 5s, 1h30m or 250ms")]
pub struct DurationError(String);

impl Duration {
    /// Reads the text as Go's duration syntax; negative durations are refused.
    pub fn parse(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.0).ok_or_else(|| DurationError(self.0.clone()))
    }

    /// The duration, or `None` when the text is not one.
    pub fn get(&self) -> Option<std::time::Duration> {
        parse_duration(&self.0)
    }
}

/// Parses Go's duration syntax (`h m s ms us µs ns`, decimals allowed); `None` when malformed or negative.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(std::time::Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_len);
        nanos = nanos.checked_add(scaled(number, unit_nanos(unit)?)?)?;
        rest = next;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let subsec = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(std::time::Duration::new(seconds, subsec))
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (digits with at most one point) times `unit`, exact to the nanosecond.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u128::from(digit - b'0') * place)?;
    }
    // Larger than any deadline the mesh could honour, and than what the wire format carries.
    (nanos <= u128::from(i64::MAX as u64)).then_some(nanos)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration as Std;

    #[test]
    fn durations_follow_go_syntax_and_refuse_what_is_not_a_duration() {
        for (text, expected) in [
            ("5s", Some(Std::from_secs(5))),
            ("1h30m", Some(Std::from_secs(5400))),
            ("0.5s", Some(Std::from_millis(500))),
            ("1.000000001s", Some(Std::new(1, 1))),
            ("250ms", Some(Std::from_millis(250))),
            ("0s", Some(Std::ZERO)),
            ("0", Some(Std::ZERO)),
            ("5", None),
            ("", None),
            (".s", None),
            ("-1s", None),
            ("1..5s", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
