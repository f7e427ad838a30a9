//! Nobody hands out permissions that he does not hold: roles and bindings are checked against
//! their writer's own rules, unless he may `escalate` roles or `bind` the role.

use serde_json::Value;

use crate::auth;
use crate::rbac::Attributes;
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};
use crate::store::Key;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a role or binding that is about to be written; other kinds pass.
pub(super) fn check(call: &Call, object: &Value) -> ApiResult<()> {
    if call.resource.group != GROUP {
        return Ok(());
    }
    match call.resource.kind.as_ref() {
        "Role" | "ClusterRole" => {
            let may = may(
                call,
                "escalate",
                &call.resource.plural,
                &object["metadata"]["name"],
            );
            covered(call, object, &object["rules"], may)
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            let plural = match object["roleRef"]["kind"].as_str() {
                Some("Role") => "roles",
                _ => "clusterroles",
            };
            let may = may(call, "bind", plural, &object["roleRef"]["name"]);
            covered(call, object, &role_rules(call, plural, object), may)
        }
        _ => Ok(()),
    }
}

fn may(call: &Call, verb: &str, resource: &str, name: &Value) -> bool {
    let attributes = Attributes {
        verb,
        group: GROUP,
        resource,
        namespace: &call.path.namespace,
        name: name.as_str().unwrap_or_default(),
        ..Attributes::default()
    };
    auth::authorize(&call.api, &call.user, &attributes).allowed
}

fn covered(call: &Call, object: &Value, rules: &Value, may: bool) -> ApiResult<()> {
    if may {
        return Ok(());
    }
    call.api
        .rules
        .current(&call.api.store, &call.api)
        .covers(&call.user.subject(), &call.path.namespace, rules)
        .map_err(|missing| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            ApiError::forbidden(&call.resource, name, &missing)
        })
}

/// The rules of a bound role; one that does not exist hands out nothing yet.
fn role_rules(call: &Call, plural: &str, binding: &Value) -> Value {
    let namespace = if plural == "roles" {
        call.path.namespace.as_str()
    } else {
        ""
    };
    let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
    let key = Key::new(
        &call.api.resource_key(&format!("{plural}.{GROUP}")),
        namespace,
        name,
    );
    call.api
        .store
        .get(&key)
        .map_or(Value::Null, |role| role.value()["rules"].clone())
}
