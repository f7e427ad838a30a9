//! Route matches, and the matchers of strings, fields and query parameters.

use serde_json::{Value, json};

use super::draw::Draw;

/// What a route asks of a request.
pub(super) fn route_match(draw: &mut Draw) -> Value {
    let mut rule = match draw.below(6) {
        0 => json!({ "path": draw.path() }),
        1 => json!({ "safe_regex": { "regex": regex(draw) } }),
        2 => json!({ "path_separated_prefix": draw.path() }),
        3 => json!({ "prefix": "/" }),
        _ => json!({ "prefix": draw.path() }),
    };
    if draw.chance(15) && rule.get("safe_regex").is_none() {
        rule["case_sensitive"] = json!(false);
    }
    if draw.chance(40) {
        rule["headers"] = draw.list(2, header);
    }
    if draw.chance(25) {
        rule["query_parameters"] = draw.list(2, query);
    }
    rule
}

fn regex(draw: &mut Draw) -> &'static str {
    draw.one(&[
        "/a.*",
        "/[ab]+",
        "/(a|b)/(.*)",
        "/.*[0-9]+",
        "/a/?",
        "/(?i)a/b",
        ".*",
    ])
}

/// A matcher of a field.
pub(super) fn header(draw: &mut Draw) -> Value {
    let name = draw.one(&["x-a", "x-b", "x-c", ":method", ":path", ":authority"]);
    let mut matcher = json!({ "name": name });
    match draw.below(5) {
        0 => matcher["present_match"] = json!(draw.chance(70)),
        1 => {
            matcher["range_match"] =
                json!({ "start": draw.below(5) as i64 - 5, "end": draw.below(20) })
        }
        _ => matcher["string_match"] = string(draw),
    }
    if draw.chance(20) {
        matcher["invert_match"] = json!(true);
    }
    if draw.chance(15) {
        matcher["treat_missing_header_as_empty"] = json!(true);
    }
    matcher
}

/// A matcher of a string.
pub(super) fn string(draw: &mut Draw) -> Value {
    let value = draw.value();
    let mut matcher = match draw.below(5) {
        0 => json!({ "prefix": value }),
        1 => json!({ "suffix": value }),
        2 => json!({ "contains": value }),
        3 => {
            return json!({ "safe_regex": { "regex": draw.one(&["a.*", "[0-9]+", "a?", "A?B?C?", "(a|b)+", ".*,.*"]) } });
        }
        _ => json!({ "exact": value }),
    };
    if draw.chance(30) {
        matcher["ignore_case"] = json!(true);
    }
    matcher
}

fn query(draw: &mut Draw) -> Value {
    let name = draw.one(&["q", "r"]);
    if draw.chance(30) {
        json!({ "name": name, "present_match": draw.chance(80) })
    } else {
        json!({ "name": name, "string_match": string(draw) })
    }
}
