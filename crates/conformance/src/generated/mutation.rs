//! Header mutation with formatters.

use serde_json::{Value, json};

use super::draw::Draw;

/// Adds the four lists of a level.
pub(super) fn add(draw: &mut Draw, level: &mut Value) {
    if draw.chance(35) {
        level["request_headers_to_add"] = draw.list(3, |draw| option(draw, false));
    }
    if draw.chance(20) {
        level["request_headers_to_remove"] = draw.list(2, |draw| json!(draw.field()));
    }
    if draw.chance(35) {
        level["response_headers_to_add"] = draw.list(3, |draw| option(draw, true));
    }
    if draw.chance(20) {
        level["response_headers_to_remove"] =
            draw.list(2, |draw| json!(draw.one(&["x-up", "x-a", "server"])));
    }
}

fn option(draw: &mut Draw, of_response: bool) -> Value {
    let name = draw.one(&["x-a", "x-b", "x-new", "x-up"]);
    let mut option = json!({ "header": { "key": name, "value": value(draw, of_response) } });
    if draw.chance(70) {
        let action = draw.one(&[
            "APPEND_IF_EXISTS_OR_ADD",
            "ADD_IF_ABSENT",
            "OVERWRITE_IF_EXISTS_OR_ADD",
            "OVERWRITE_IF_EXISTS",
        ]);
        option["append_action"] = json!(action);
    }
    if draw.chance(20) {
        option["keep_empty_value"] = json!(true);
    }
    option
}

fn value(draw: &mut Draw, of_response: bool) -> String {
    let pieces = [
        "v",
        "%REQ(x-a)%",
        "%REQ(x-none?x-b)%",
        "%REQ(:PATH)%",
        "%REQ(:METHOD)%",
        "%PROTOCOL%",
        "%%",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "%ROUTE_NAME%",
        "%REQ(x-c):2%",
        "%VIRTUAL_CLUSTER_NAME%",
    ];
    let of_answer = [
        "%RESPONSE_CODE%",
        "%RESP(x-up)%",
        "%RESPONSE_FLAGS%",
        "%UPSTREAM_CLUSTER%",
    ];
    let count = 1 + draw.below(2);
    let mut text = String::new();
    for _ in 0..count {
        if of_response && draw.chance(40) {
            text.push_str(draw.one(&of_answer));
        } else {
            text.push_str(draw.one(&pieces));
        }
    }
    text
}
