//! Questions that are asked by `create` and stored nowhere: access reviews, token reviews, token requests.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, convert};
use crate::auth::tokens::{Binding, Issue};
use crate::auth::{self, User};
use crate::field::FieldError;
use crate::http::{self as reply, Body};
use crate::rbac::Attributes;
use crate::status::{ApiError, ApiResult};

/// Life of a token that does not ask: one hour.
const DEFAULT_SECONDS: i64 = 3600;
/// Shortest life: Kubernetes' minimum.
const MIN_SECONDS: i64 = 600;
/// Longest life: Kubernetes' maximum.
const MAX_SECONDS: i64 = 1 << 32;

pub(super) fn create(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let mut review = reply::parse_object(&call.headers, body)?;
    review["kind"] = json!(call.resource.kind);
    review["apiVersion"] = json!(call.resource.api_version());
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    let status = match call.resource.kind.as_ref() {
        "SelfSubjectAccessReview" => access(call, &call.user, &review["spec"])?,
        "SubjectAccessReview" => access(call, &asked_user(&review["spec"])?, &review["spec"])?,
        "LocalSubjectAccessReview" => {
            if review["spec"]["resourceAttributes"]["namespace"] != call.path.namespace.as_str() {
                return Err(ApiError::bad_request(
                    "spec.resourceAttributes.namespace must match the request's namespace",
                ));
            }
            access(call, &asked_user(&review["spec"])?, &review["spec"])?
        }
        "SelfSubjectRulesReview" => {
            let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            call.api
                .rules
                .current(&call.api.store, &call.api)
                .review(&call.user.subject(), namespace)
        }
        "SelfSubjectReview" => json!({"userInfo": call.user.info()}),
        "TokenReview" => authenticate(call, &review["spec"]),
        "Binding" => {
            return Err(ApiError::bad_request(
                "bind pods with their binding subresource",
            ));
        }
        _ => return Err(ApiError::method_not_supported()),
    };
    review["status"] = status;
    Ok(reply::value(StatusCode::CREATED, &review))
}

fn asked_user(spec: &Value) -> ApiResult<User> {
    let strings = |v: &Value| -> Vec<String> {
        v.as_array()
            .into_iter()
            .flatten()
            .filter_map(|g| g.as_str().map(str::to_owned))
            .collect()
    };
    let user = User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: strings(&spec["groups"]),
        ..User::default()
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(ApiError::bad_request(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(user)
}

fn access(call: &Call, user: &User, spec: &Value) -> ApiResult<Value> {
    let resource = &spec["resourceAttributes"];
    let path = &spec["nonResourceAttributes"];
    if resource.is_object() == path.is_object() {
        return Err(ApiError::bad_request(
            "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let text = |v: &'_ Value, name: &str| v[name].as_str().unwrap_or_default().to_owned();
    let (verb, group, plural, subresource, namespace, name, url) = (
        text(if path.is_object() { path } else { resource }, "verb"),
        text(resource, "group"),
        text(resource, "resource"),
        text(resource, "subresource"),
        text(resource, "namespace"),
        text(resource, "name"),
        text(path, "path"),
    );
    let attributes = Attributes {
        verb: &verb,
        group: &group,
        resource: &plural,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        path: path.is_object().then_some(url.as_str()),
    };
    let decision = auth::authorize(&call.api, user, &attributes);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    Ok(status)
}

fn authenticate(call: &Call, spec: &Value) -> Value {
    let token = spec["token"].as_str().unwrap_or_default();
    let audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    match call.api.tokens.verify(token, &audiences, &call.api.store) {
        Ok(verified) => {
            json!({"authenticated": true, "user": verified.user.info(), "audiences": verified.audiences})
        }
        Err(error) => {
            json!({"authenticated": false, "user": {}, "error": format!("[invalid bearer token, {error}]")})
        }
    }
}

/// `POST serviceaccounts/{name}/token`.
pub(super) fn token(call: &Call, body: &[u8]) -> ApiResult<Response<Body>> {
    let mut request = reply::parse_object(&call.headers, body)?;
    let account = convert::value(&call.resource, &*call.current()?);
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) {
        let detail = if seconds < MIN_SECONDS {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let error = FieldError::invalid("spec.expirationSeconds", &json!(seconds), detail);
        return Err(ApiError::from_status(crate::field::invalid_status(
            "authentication.k8s.io",
            "TokenRequest",
            "",
            &[error],
        )));
    }
    let audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let issue = Issue {
        namespace: &call.path.namespace,
        account: &call.path.name,
        account_uid: account["metadata"]["uid"].as_str().unwrap_or_default(),
        audiences: &audiences,
        seconds,
        binding: binding(call, &request["spec"]["boundObjectRef"])?,
    };
    let (token, expires) = call
        .api
        .tokens
        .issue(&issue)
        .ok_or_else(|| ApiError::internal("the token could not be signed"))?;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] = json!({"name": call.path.name, "namespace": call.path.namespace,
        "creationTimestamp": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    if audiences.is_empty() {
        request["spec"]["audiences"] = json!([auth::tokens::ISSUER]);
    }
    request["spec"]["expirationSeconds"] = json!(seconds);
    if request["spec"].get("boundObjectRef").is_none() {
        request["spec"]["boundObjectRef"] = Value::Null;
    }
    request["status"] = json!({"token": token,
        "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    Ok(reply::value(StatusCode::CREATED, &request))
}

/// Looks up what a token is to be bound to.
fn binding(call: &Call, reference: &Value) -> ApiResult<Option<Binding>> {
    if reference.is_null() {
        return Ok(None);
    }
    let (claim, plural) = match reference["kind"].as_str() {
        Some("Pod") => ("pod", "pods"),
        Some("Secret") => ("secret", "secrets"),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to type {:?}",
                call.path.name,
                other.unwrap_or_default()
            )));
        }
    };
    let registry = call.api.registry();
    let resource: &Arc<_> = registry
        .find("", "v1", plural)
        .ok_or_else(ApiError::no_such_path)?;
    let name = reference["name"].as_str().unwrap_or_default();
    let object = call
        .api
        .store
        .get(&call.api.key(resource, &call.path.namespace, name))
        .ok_or_else(|| ApiError::not_found(resource, name))?
        .value();
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(asked) = reference["uid"].as_str()
        && !asked.is_empty()
        && asked != uid
    {
        let cause = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(resource, name, &cause));
    }
    if claim == "pod" && object["spec"]["serviceAccountName"] != call.path.name.as_str() {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod {name:?} running with different serviceaccount name.",
            call.path.name
        )));
    }
    Ok(Some(Binding {
        claim,
        name: name.to_owned(),
        uid: uid.to_owned(),
        node: object["spec"]["nodeName"]
            .as_str()
            .filter(|_| claim == "pod")
            .map(str::to_owned),
    }))
}
