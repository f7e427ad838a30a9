//! Dynamic admission: which webhooks a request meets, what their answers mean.
//!
//! Mutating webhooks run one after another in the order of their configurations' names, once more
//! for those that ask to be reinvoked after a later one changed the object; validating webhooks
//! run together. The `call` module does the HTTPS exchange. A webhook that cannot be asked counts as its
//! `failurePolicy` says.

mod call;
mod config;

use std::sync::Arc;

use futures::future::join_all;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Operation;
use crate::rest::Call;
use crate::state::Api;
use crate::status::{ApiError, ApiResult};
use config::{FailurePolicy, Hook, Matched};

pub(crate) use config::unsupported;

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

/// What a webhook is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Review<'a> {
    pub(crate) operation: Operation,
    /// The new object; absent for deletions.
    pub(crate) object: Option<&'a Value>,
    /// The stored object; absent for creations.
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
}

/// The parsed configurations, rebuilt when one changed.
#[derive(Debug, Default)]
pub struct WebhookCache {
    current: Mutex<Option<(u64, Arc<Hooks>)>>,
}

#[derive(Debug, Default)]
struct Hooks {
    mutating: Vec<Hook>,
    validating: Vec<Hook>,
}

impl WebhookCache {
    fn current(&self, api: &Api) -> Arc<Hooks> {
        let keys = [MUTATING, VALIDATING].map(|name| api.resource_key(name));
        let version = keys
            .iter()
            .map(|k| api.store.last_change(k))
            .max()
            .unwrap_or(0);
        let mut current = self.current.lock();
        if let Some((seen, hooks)) = &*current
            && *seen == version
        {
            return Arc::clone(hooks);
        }
        let [mutating, validating] = keys.map(|key| -> Vec<Hook> {
            // The store lists by name, which is the order of invocation.
            let items = api
                .store
                .list(&key, None, None)
                .map(|s| s.items)
                .unwrap_or_default();
            items
                .iter()
                .flat_map(|(_, stored)| config::hooks(&stored.value()))
                .collect()
        });
        let hooks = Arc::new(Hooks {
            mutating,
            validating,
        });
        *current = Some((version, Arc::clone(&hooks)));
        hooks
    }
}

/// Asks the mutating webhooks; `Some` is the changed object.
pub(crate) async fn mutate(call: &Arc<Call>, review: &Review<'_>) -> ApiResult<Option<Value>> {
    let hooks = call.api.webhooks.current(&call.api);
    if hooks.mutating.is_empty() {
        return Ok(None);
    }
    let mut current: Option<Value> = None;
    let mut asked = Vec::new();
    let mut last_change = 0;
    for (index, hook) in hooks.mutating.iter().enumerate() {
        if let Some(outcome) = mutate_once(call, review, hook, current.as_ref()).await? {
            asked.push(index);
            if let Some(changed) = outcome {
                current = Some(changed);
                last_change = index;
            }
        }
    }
    for index in asked {
        let hook = &hooks.mutating[index];
        if hook.reinvoke
            && index < last_change
            && let Some(Some(changed)) = mutate_once(call, review, hook, current.as_ref()).await?
        {
            current = Some(changed);
        }
    }
    Ok(current)
}

/// Outer `None`: the webhook does not watch this request. Inner `None`: it changed nothing.
async fn mutate_once(
    call: &Arc<Call>,
    review: &Review<'_>,
    hook: &Hook,
    current: Option<&Value>,
) -> ApiResult<Option<Option<Value>>> {
    let review = Review {
        object: current.or(review.object),
        ..*review
    };
    let Some(matched) = matching(call, &review, hook)? else {
        return Ok(None);
    };
    let Some(answer) = ask(call, &review, hook, &matched).await? else {
        return Ok(Some(None));
    };
    let Some(object) = review.object else {
        return Ok(Some(None));
    };
    let Some(patch) = answer.patch else {
        return Ok(Some(None));
    };
    let seen = matched.in_its_version(object);
    let mut patched = crate::patch::json_patch(&seen, &patch)
        .map_err(|e| failed(hook, &format!("applying its patch: {e}")))?;
    patched["apiVersion"] = object["apiVersion"].clone();
    Ok(Some((patched != *object).then_some(patched)))
}

/// Asks the validating webhooks.
pub(crate) async fn validate(call: &Arc<Call>, review: &Review<'_>) -> ApiResult<()> {
    let hooks = call.api.webhooks.current(&call.api);
    let mut asked = Vec::new();
    for hook in &hooks.validating {
        if let Some(matched) = matching(call, review, hook)? {
            asked.push(async move { ask(call, review, hook, &matched).await });
        }
    }
    for outcome in join_all(asked).await {
        outcome?;
    }
    Ok(())
}

fn matching(call: &Call, review: &Review<'_>, hook: &Hook) -> ApiResult<Option<Matched>> {
    // Webhooks about webhooks could lock everybody out.
    if call.resource.group == "admissionregistration.k8s.io" {
        return Ok(None);
    }
    let Some(matched) = hook.matches_request(call, review.operation) else {
        return Ok(None);
    };
    let namespace_labels = namespace_labels(call, review);
    if !hook.selects(namespace_labels.as_ref(), review) {
        return Ok(None);
    }
    if review.dry_run && !hook.supports_dry_run {
        return Err(ApiError::bad_request(format!(
            "admission webhook {:?} does not support dry run",
            hook.name
        )));
    }
    Ok(Some(matched))
}

/// Labels that a `namespaceSelector` looks at; `None` where it does not apply.
fn namespace_labels(call: &Call, review: &Review<'_>) -> Option<Value> {
    if call.resource.storage_key() == "namespaces" {
        let object = review.object.or(review.old)?;
        return Some(object["metadata"]["labels"].clone());
    }
    if !call.resource.namespaced {
        return None;
    }
    let namespace = call
        .api
        .store
        .get(&call.api.namespace_key(&call.path.namespace))?;
    Some(namespace.value()["metadata"]["labels"].clone())
}

/// What an admitted request's webhook said.
#[derive(Debug, Default)]
struct Answer {
    patch: Option<Value>,
}

/// One exchange; `None` where the webhook failed and its policy is to go on.
async fn ask(
    call: &Arc<Call>,
    review: &Review<'_>,
    hook: &Hook,
    matched: &Matched,
) -> ApiResult<Option<Answer>> {
    let uid = uuid::Uuid::new_v4().to_string();
    let request = request(call, review, matched, &uid);
    let exchange = call::exchange(&call.api, hook, &request);
    let response = match tokio::time::timeout(hook.timeout, exchange).await {
        Ok(Ok(response)) => response,
        Ok(Err(reason)) => return unreachable_hook(hook, &reason),
        Err(_) => return unreachable_hook(hook, "context deadline exceeded"),
    };
    let answer = &response["response"];
    if answer["uid"] != uid.as_str() {
        return unreachable_hook(hook, "the answer is for another request");
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        if let Some(text) = warning.as_str() {
            call.warn(text);
        }
    }
    if answer["allowed"] != true {
        return Err(denied(hook, &answer["status"]));
    }
    match call::decode_patch(answer) {
        Ok(patch) => Ok(Some(Answer { patch })),
        Err(reason) => unreachable_hook(hook, &reason),
    }
}

fn request(call: &Call, review: &Review<'_>, matched: &Matched, uid: &str) -> Value {
    let resource = &call.resource;
    let own = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let own_resource =
        json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let shown = |object: Option<&Value>| object.map_or(Value::Null, |o| matched.in_its_version(o));
    let name = review
        .object
        .or(review.old)
        .map_or(&Value::Null, |o| &o["metadata"]["name"]);
    let options = match review.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
    };
    let mut request = json!({
        "uid": uid,
        "kind": {"group": resource.group, "version": matched.version, "kind": resource.kind},
        "resource": {"group": resource.group, "version": matched.version, "resource": resource.plural},
        "requestKind": own,
        "requestResource": own_resource,
        "name": name,
        "namespace": call.path.namespace,
        "operation": review.operation.as_str(),
        "userInfo": call.user.info(),
        "object": shown(review.object),
        "oldObject": shown(review.old),
        "dryRun": review.dry_run,
        "options": {"kind": options, "apiVersion": "meta.k8s.io/v1"},
    });
    if !call.path.subresource.is_empty() {
        request["subResource"] = json!(call.path.subresource);
        request["requestSubResource"] = json!(call.path.subresource);
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

fn denied(hook: &Hook, status: &Value) -> ApiError {
    let denied_by = format!("admission webhook {:?} denied the request", hook.name);
    let message = match (status["message"].as_str(), status["reason"].as_str()) {
        (Some(text), _) if !text.is_empty() => format!("{denied_by}: {text}"),
        (_, Some(reason)) if !reason.is_empty() => format!("{denied_by}: {reason}"),
        _ => format!("{denied_by} without explanation"),
    };
    let code = status["code"]
        .as_u64()
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| *c >= 400)
        .and_then(|c| StatusCode::from_u16(c).ok())
        .unwrap_or(StatusCode::BAD_REQUEST);
    let reason = status["reason"].as_str().unwrap_or_default();
    ApiError::with_details(code, reason, message, status["details"].clone())
}

/// The failure policy's verdict on a webhook that gave no answer.
fn unreachable_hook(hook: &Hook, reason: &str) -> ApiResult<Option<Answer>> {
    match hook.failure_policy {
        FailurePolicy::Ignore => {
            tracing::warn!(webhook = %hook.name, reason, "admission webhook failed and is ignored");
            Ok(None)
        }
        FailurePolicy::Fail => Err(failed(hook, reason)),
    }
}

fn failed(hook: &Hook, reason: &str) -> ApiError {
    tracing::warn!(webhook = %hook.name, reason, "admission webhook failed");
    ApiError::internal(format!(
        "failed calling webhook {:?}: failed to call webhook: Post {:?}: {reason}",
        hook.name,
        hook.url_text()
    ))
}
