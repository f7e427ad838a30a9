//! RBAC rules of a route.

use serde_json::{Value, json};

use super::draw::Draw;
use super::matching::{header, string};

/// Settings of the filter for one route.
pub(super) fn per_route(draw: &mut Draw) -> Value {
    let mut rbac = json!({});
    if draw.chance(85) {
        rbac["rules"] = rules(draw);
    }
    if draw.chance(20) {
        rbac["shadow_rules"] = rules(draw);
    }
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        "rbac": rbac,
    })
}

fn rules(draw: &mut Draw) -> Value {
    let count = 1 + draw.below(2);
    let policies: serde_json::Map<String, Value> = (0..count)
        .map(|number| {
            let permissions: Vec<Value> =
                (0..=draw.below(2)).map(|_| permission(draw, 2)).collect();
            let principals: Vec<Value> = (0..=draw.below(2)).map(|_| principal(draw, 2)).collect();
            (
                format!("p{number}"),
                json!({ "permissions": permissions, "principals": principals }),
            )
        })
        .collect();
    json!({ "action": draw.one(&["ALLOW", "DENY"]), "policies": policies })
}

fn permission(draw: &mut Draw, depth: usize) -> Value {
    match draw.below(if depth == 0 { 4 } else { 7 }) {
        0 => json!({ "any": true }),
        1 => json!({ "header": header(draw) }),
        2 => json!({ "url_path": { "path": path(draw) } }),
        3 => json!({ "destination_ip": range(draw) }),
        4 => json!({ "not_rule": permission(draw, depth - 1) }),
        5 => {
            json!({ "and_rules": { "rules": [permission(draw, depth - 1), permission(draw, depth - 1)] } })
        }
        _ => {
            json!({ "or_rules": { "rules": [permission(draw, depth - 1), permission(draw, depth - 1)] } })
        }
    }
}

fn principal(draw: &mut Draw, depth: usize) -> Value {
    match draw.below(if depth == 0 { 5 } else { 8 }) {
        0 => json!({ "any": true }),
        1 => json!({ "header": header(draw) }),
        2 => json!({ "direct_remote_ip": range(draw) }),
        3 => json!({ "remote_ip": range(draw) }),
        4 => json!({ "url_path": { "path": path(draw) } }),
        5 => json!({ "not_id": principal(draw, depth - 1) }),
        6 => {
            json!({ "and_ids": { "ids": [principal(draw, depth - 1), principal(draw, depth - 1)] } })
        }
        _ => {
            json!({ "or_ids": { "ids": [principal(draw, depth - 1), principal(draw, depth - 1)] } })
        }
    }
}

fn path(draw: &mut Draw) -> Value {
    if draw.chance(50) {
        json!({ "prefix": draw.path() })
    } else {
        string(draw)
    }
}

fn range(draw: &mut Draw) -> Value {
    let (address, length) = draw.one(&[&("127.0.0.0", 8), &("10.0.0.0", 8), &("0.0.0.0", 0)]);
    json!({ "address_prefix": address, "prefix_len": length })
}
