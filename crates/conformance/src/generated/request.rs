//! Requests that have a chance to meet the rules of a virtual host.

use serde_json::{Map, Value, json};

use super::draw::Draw;

/// A request: half of them near a path that the configuration names.
pub(super) fn request(draw: &mut Draw, host: &Value) -> Value {
    let mut path = if draw.chance(60) {
        near(draw, host)
    } else {
        draw.path()
    };
    if draw.chance(10) {
        path = path.to_uppercase();
    }
    if draw.chance(40) {
        path.push_str(&format!(
            "?{}={}",
            draw.one(&["q", "r", "z"]),
            draw.one(&["1", "12", "a", "abc", "ABC", ""])
        ));
        if draw.chance(30) {
            path.push_str(draw.one(&["&q=a", "&r", "&r=1&q=2", "&"]));
        }
    }
    let mut fields = Map::new();
    for name in ["x-a", "x-b", "x-c"] {
        if draw.chance(45) {
            let value = if draw.chance(10) {
                json!([draw.value(), draw.value()])
            } else {
                json!(draw.value())
            };
            fields.insert(name.to_owned(), value);
        }
    }
    if draw.chance(40) {
        let statuses = [
            "503",
            "503,503",
            "500,200",
            "503,503,503",
            "409,200",
            "404",
            "200",
            "502,409,200",
        ];
        fields.insert("x-statuses".to_owned(), json!(draw.one(&statuses)));
    }
    let mut request = json!({ "path": path, "headers": fields });
    if draw.chance(30) {
        request["method"] = json!(draw.one(&["POST", "PUT", "DELETE", "HEAD"]));
    }
    request
}

fn near(draw: &mut Draw, host: &Value) -> String {
    let routes = host["routes"].as_array().map_or(0, Vec::len);
    if routes == 0 {
        return draw.path();
    }
    let rule = &host["routes"][draw.below(routes)]["match"];
    let named = ["path", "prefix", "path_separated_prefix"]
        .iter()
        .find_map(|key| rule[*key].as_str());
    let Some(named) = named else {
        return draw.path();
    };
    match draw.below(4) {
        0 => named.to_owned(),
        1 => format!("{}{}", named.trim_end_matches('/'), draw.path()),
        2 => format!("{named}{}", draw.segment()),
        _ => format!("{}/", named.trim_end_matches('/')),
    }
}
